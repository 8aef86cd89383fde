"""The pieces that work alone: their examples run, what they keep is bounded, and nothing is lost count of."""

from __future__ import annotations

import doctest
import importlib
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dispatcher
from dispatcher.pieces import DeliveryTracker, Priority, RateLimiter, RetryPolicy
from shards.wire.notification import PRIORITIES
from tests.support.service import ROOT

PAGE = (ROOT / "docs" / "pieces.md").read_text()
WITH_EXAMPLES = (
    "dispatcher.pieces.limiter",
    "dispatcher.pieces.tracker",
    "shards.lanes",
    "shards.limiter",
    "shards.retry",
    "shards.templates",
)
NO_JITTER = RetryPolicy(max_retries=2, base=10.0, jitter="none")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_in_the_docstrings(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed


@pytest.mark.parametrize("name", re.findall(r"\[(\w+)\]\(#[a-z]+\)", PAGE))
def test_the_page_has_each_under_its_public_name(name: str) -> None:
    assert f"\n## {name}\n" in PAGE
    assert getattr(dispatcher, name).__doc__


def test_priorities_are_those_of_the_wire() -> None:
    assert [PRIORITIES[priority] for priority in Priority] == ["low", "normal", "high", "critical"]


def test_a_limiter_keeps_no_record_of_its_events() -> None:
    limiter = RateLimiter("1000000/second")
    limiter.allow("ada", 0.0)
    tracemalloc.start()
    for event in range(10_000):
        limiter.allow("ada", event)
        limiter.reserve("ada", event)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 10_000


def test_a_limiter_is_bounded_in_keys() -> None:
    limiter = RateLimiter("1/second", keys_max=2)
    assert [limiter.allow(name, 0.0) for name in ("ada", "bob", "eve")] == [True, True, False]
    assert limiter.allow("eve", 2.0), "the others are idle by now"


def test_a_rate_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="count/minute"):
        RateLimiter("3 per minute")


# --- the tracker ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error_class", "reason"), [("permanent", "permanent"), ("bad_address", "bad_address")])
def test_what_is_no_use_trying_again_is_dead_at_once(error_class: str, reason: str) -> None:
    tracker = DeliveryTracker(NO_JITTER)
    tracker.plan("a", ["email"], 0.0)
    assert tracker.failed("a", "email", 1.0, error_class, "550 no such user") == "dead"  # type: ignore[arg-type]
    (status,) = tracker.status("a").deliveries
    assert (status.reason, status.attempts, status.last_error) == (reason, 1, "550 no such user")


def test_the_service_is_given_the_time_that_it_asks_for() -> None:
    tracker = DeliveryTracker(NO_JITTER)
    tracker.plan("a", ["email"], 0.0)
    tracker.failed("a", "email", 1.0, "throttled", retry_after_s=60.0)
    assert tracker.next_due() == 61.0
    assert tracker.status("a").deliveries[0].next_attempt_at == 61_000


def test_what_was_cancelled_while_it_waited_is_not_due() -> None:
    tracker = DeliveryTracker(NO_JITTER)
    tracker.plan("a", ["email", "sms", "inapp"], 0.0)
    tracker.delivered("a", "inapp", 0.0)
    tracker.failed("a", "email", 0.0)
    tracker.defer("a", "sms", 0.0, until=5.0, reason="quiet_hours")
    assert tracker.counts() == {"retrying": 1, "deferred": 1, "delivered": 1}
    assert tracker.cancel("a", 1.0) == 2
    assert tracker.due(100.0) == []
    assert tracker.counts() == {"delivered": 1, "cancelled": 2}


def test_what_has_ended_does_not_change() -> None:
    tracker = DeliveryTracker(NO_JITTER)
    tracker.plan("a", ["email"], 0.0)
    tracker.end("a", "email", 0.0, "suppressed", "no_contact")
    with pytest.raises(ValueError, match="has ended: suppressed"):
        tracker.failed("a", "email", 1.0, message="late")
    assert tracker.status("a").deliveries[0].last_error is None


def test_an_id_is_tracked_once() -> None:
    tracker = DeliveryTracker()
    tracker.plan("a", ["email"], 0.0)
    with pytest.raises(ValueError, match="tracked already"):
        tracker.plan("a", ["sms"], 0.0)
    with pytest.raises(ValueError, match="no channels"):
        tracker.plan("b", [], 0.0)


def test_the_oldest_of_the_ended_are_forgotten_and_counted() -> None:
    tracker = DeliveryTracker(ended_max=2)
    for id in "abc":
        tracker.plan(id, ["inapp"], 0.0)
    for id in "abc":
        tracker.delivered(id, "inapp", 1.0)
    with pytest.raises(KeyError):
        tracker.status("a")
    assert tracker.status("b").deliveries[0].outcome == "delivered"
    assert tracker.counts() == {"delivered": 3}


steps = st.lists(
    st.tuples(
        st.sampled_from(("plan", "deliver", "fail", "refuse", "cancel", "wait")), st.integers(0, 4), st.floats(0, 30)
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(steps)
def test_every_delivery_is_counted_once_and_none_is_due_before_its_time(done: list[tuple[str, int, float]]) -> None:
    now, planned = 0.0, 0
    tracker = DeliveryTracker(NO_JITTER)
    failed_at: dict[str, float] = {}
    for step, number, wait_s in done:
        id = str(number)
        now += wait_s
        try:
            if step == "plan":
                tracker.plan(id, ["email", "sms"], now)
                planned += 2
            elif step == "deliver":
                tracker.delivered(id, "sms", now)
            elif step in {"fail", "refuse"}:
                failed = tracker.failed(id, "email", now, "transient" if step == "fail" else "permanent")
                failed_at[id] = now
                assert failed == "dead" or tracker.status(id).deliveries[0].attempts <= NO_JITTER.max_retries
            elif step == "cancel":
                tracker.cancel(id, now)
            else:
                for due, channel in tracker.due(now):
                    assert channel == "email"
                    assert now >= failed_at[due] + NO_JITTER.base
        except (KeyError, ValueError):
            pass
        assert sum(tracker.counts().values()) == planned


@pytest.mark.parametrize("ends", [True, False])
def test_times_at_which_nothing_is_due_any_more_are_forgotten(ends: bool) -> None:
    """Deferred for a year, and then cancelled, or deferred again."""
    tracker = DeliveryTracker(ended_max=10)
    tracker.plan("kept", ["email"], now=0.0)
    tracker.defer("kept", "email", now=0.0, until=1e9, reason="send_at")
    tracemalloc.start()
    for number in range(20_000):
        id = str(number if ends else 0)
        if ends or not number:
            tracker.plan(id, ["email"], now=0.0)
        tracker.defer(id, "email", now=0.0, until=1e9 + number % 2, reason="send_at")
        if ends:
            tracker.cancel(id, now=0.0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 500_000
    assert tracker.due(now=1e9 + 1) == [("kept", "email")] + [("0", "email")] * (not ends)
    assert tracker.due(now=1e9 + 1) == []
