"""What is explained is what then happens, and explaining does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import ledger
from shards.changes import Now
from shards.core import Core, StoredFrame
from shards.counters import ChannelCounters, Counters
from shards.explaining import STEP_OF_REASON, STEPS, Explainer, instant
from shards.limiter import RateLimit
from shards.preferences import UserDocument, parse_document
from shards.retry import RetryPolicy
from shards.rules import Category
from shards.settings import Bounds, ChannelSettings, Idempotency, Priorities, Retention, ShardSettings
from shards.wire import CHANNELS, SUBMIT, Data, Verdict, pack

NOW_MS = 1_700_000_000_000
NOW = Now(1_000.0, NOW_MS * 1000)
SETTINGS = ShardSettings(
    shard=0,
    shards=1,
    path="",
    durability="process",
    incarnation=1,
    secret=1,
    categories={
        "billing": Category(channels=("sms", "email"), priority="high"),
        "alert": Category(channels=("email", "webhook"), override_preferences=True),
    },
    rate_limits={"email": RateLimit("2/hour", exempt=("critical",)), "webhook": RateLimit("1/hour")},
    retry=RetryPolicy(),
    priorities=Priorities(),
    idempotency=Idempotency(),
    retention=Retention(),
    bounds=Bounds(),
    channels={"email": ChannelSettings(provider="simulated"), "webhook": ChannelSettings(provider="simulated")},
)
QUIET: dict[str, Any] = {
    "channels": {"webhook": False},
    "categories": {"marketing": False, "billing": {"email": False}},
}


class Memory:
    """Nothing is on disk but the users."""

    def __init__(self, documents: dict[str, UserDocument]) -> None:
        self.load_user = documents.get

    def frame(self, seq: int) -> StoredFrame | None:
        return None

    def open_frames(self, lane: int, after: int, count: int) -> Iterator[StoredFrame]:
        return iter(())

    def content(self, seq: int) -> tuple[bytes, bool, bytes | None] | None:
        return None

    def origin(self, seq: int) -> tuple[str, int]:
        return "gen", seq

    def seq_of(self, generation: str, old: int) -> int | None:
        return old


class Side:
    """A core, and what is asked of it."""

    def __init__(self, documents: dict[str, dict[str, Any]]) -> None:
        counters = Counters(channels=[ChannelCounters() for _ in CHANNELS])
        stored = {user_id: parse_document(document) for user_id, document in documents.items()}
        self.core = Core(SETTINGS, list(CHANNELS), Memory(stored), counters, lambda: 0.5)
        self.explainer = Explainer(self.core)
        self._seq = 0

    def explain(self, notification: dict[str, Any], now: Now = NOW) -> list[dict[str, Any]]:
        return self.explainer.explain(notification, now)

    def submit(self, notification: dict[str, Any], now: Now = NOW) -> tuple[Verdict | None, dict[str, tuple[str, str]]]:
        """The verdict, and by channel what the delivery has then."""
        self._seq += 1
        names = notification.get("recipients")
        entries = [(names, notification)] if names is not None else [notification]
        body = pack(entries)
        verdict = self.core.receive(
            Data(1, 0, 1, self._seq, SUBMIT, now.wall_us, names is not None, body), self._seq, now
        )
        words = self.core.changes.frames[-1].slots
        found = {
            CHANNELS[ledger.channel_of(word)]: (
                ledger.OUTCOMES[ledger.outcome_of(word)],
                ledger.REASONS[ledger.reason_of(word)],
            )
            for word in words
        }
        self.core.committed()
        return verdict, found

    def state(self) -> Any:
        """All that decides what will be answered."""
        core = self.core
        return (
            {seq: (frame.slots.tobytes(), frame.open, dict(frame.notes)) for seq, frame in core.frames.items()},
            {channel: dict(limiter._due) for channel, limiter in core.limiters.items()},
            [dict(table) for table in core.idempotency._tables],
            pack(core.counters),
            list(core.queued),
            bool(core.changes),
        )


def explained(decisions: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """By channel the outcome, as ``Side.submit`` has it."""
    return {
        decision["channel"]: (decision["result"], decision["reason"] or "")
        for decision in decisions
        if decision["step"] == "outcome"
    }


def of_step(decisions: list[dict[str, Any]], step: str, channel: str | None = None) -> dict[str, Any]:
    (found,) = [one for one in decisions if one["step"] == step and channel in (None, one["channel"])]
    return found


# --- each step ------------------------------------------------------------------------------------------------------

USERS = {"quiet": {"preferences": QUIET}}
STEP_CASES: list[tuple[dict[str, Any], str, str | None, str, str | None, dict[str, Any]]] = [
    # notification, step, channel, result, reason, part of the detail
    ({"title": "t", "titel": "t"}, "accept", None, "rejected", "unknown_key", {"field": "titel"}),
    ({"title": "t", "category": "bilin"}, "accept", None, "rejected", "unknown_category", {"field": "category"}),
    ({"title": "t", "user_id": ""}, "accept", None, "rejected", "bad_value", {"field": "user_id"}),
    ({"title": "t", "payload": {"n": float("nan")}}, "accept", None, "rejected", "bad_value", {"field": "payload"}),
    ({"title": "t", "priority": 7}, "accept", None, "rejected", "bad_value", {"field": "priority"}),
    ({}, "accept", None, "rejected", "bad_value", {"field": "title"}),
    ({"title": "t"}, "accept", None, "pass", None, {}),
    ({"title": "t"}, "duplicate", None, "skip", "no_key", {}),
    ({"title": "t", "idempotency_key": "new"}, "duplicate", None, "pass", None, {"key": "new"}),
    ({"title": "t", "id": "new"}, "duplicate", None, "pass", None, {"key": "new"}),
    ({"title": "t"}, "rule", None, "pass", "default_routing", {"category": "system", "channels": ["inapp"]}),
    ({"title": "t", "category": "billing"}, "rule", None, "pass", "category", {"channels": ["sms", "email"]}),
    ({"title": "t", "channels": ["email"]}, "rule", None, "pass", "notification", {"channels": ["email"]}),
    ({"title": "t", "category": "alert"}, "rule", None, "pass", "category", {"override_preferences": True}),
    ({"title": "t", "category": "billing"}, "priority", None, "pass", "category", {"priority": "high"}),
    ({"title": "t", "priority": 0}, "priority", None, "pass", "notification", {"priority": "low"}),
    ({"title": "t"}, "schedule", None, "skip", "not_set", {}),
    ({"title": "t", "send_at": 1}, "schedule", None, "pass", "past", instant("send_at", 1)),
    ({"title": "t"}, "expiry", None, "skip", "not_set", {}),
    ({"title": "t", "expires_at": NOW_MS + 1}, "expiry", None, "pass", None, instant("expires_at", NOW_MS + 1)),
    ({"title": "t", "expires_at": NOW_MS}, "expiry", None, "block", "expires_at", instant("expires_at", NOW_MS)),
    ({"title": "t", "expires_at": NOW_MS}, "outcome", "inapp", "expired", "expires_at", {}),
    ({"title": "t"}, "preference", "inapp", "pass", None, {}),
    ({"title": "t", "channels": ["webhook"]}, "preference", None, "block", "preference", {"key": "channels.webhook"}),
    (
        {"title": "t", "category": "marketing", "channels": ["inapp"]},
        "preference", "inapp", "block", "preference", {"key": "categories.marketing"},
    ),
    (
        {"title": "t", "category": "billing", "channels": ["email"]},
        "preference", "email", "block", "preference", {"key": "categories.billing.email"},
    ),
    ({"title": "t", "category": "billing"}, "outcome", "email", "suppressed", "preference", {}),
    ({"title": "t", "category": "alert"}, "preference", "webhook", "skip", "override_preferences", {}),
    (
        {"title": "t", "category": "billing"},
        "channel", "sms", "block", "channel_not_configured", {"table": "channels.sms"},
    ),
    ({"title": "t", "category": "billing"}, "outcome", "sms", "dead", "channel_not_configured", {}),
    ({"title": "t", "category": "security"}, "outcome", "sms", "suppressed", "channel_not_configured", {}),
    ({"title": "t", "channels": ["email"]}, "limit", "email", "pass", None, {"rate": "2/hour", "remaining": 2}),
    ({"title": "t", "channels": ["email"]}, "outcome", "email", "pending", None, {}),
]  # fmt: skip


@pytest.mark.parametrize(("notification", "step", "channel", "result", "reason", "detail"), STEP_CASES)
def test_each_step(
    notification: dict[str, Any],
    step: str,
    channel: str | None,
    result: str,
    reason: str | None,
    detail: dict[str, Any],
) -> None:
    found = of_step(Side(USERS).explain({"user_id": "quiet", **notification}), step, channel)
    assert (found["result"], found["reason"]) == (result, reason)
    assert found["detail"].items() >= detail.items()


def test_a_duplicate_is_named_with_its_original() -> None:
    side = Side({})
    first = {"user_id": "ann", "title": "one", "idempotency_key": "k"}
    side.submit(first)
    decisions = side.explain(first)
    verdict, _ = side.submit(first)
    assert verdict is not None
    id_ = verdict.duplicates[0].id
    assert [(one["step"], one["result"]) for one in decisions] == [("accept", "pass"), ("duplicate", "block")]
    assert decisions[-1]["detail"] == {"key": "k", "id": id_, "mismatch": False}
    assert of_step(side.explain({**first, "title": "two"}), "duplicate")["detail"]["mismatch"]
    assert of_step(side.explain({**first, "user_id": "bob"}), "duplicate")["result"] == "pass"


def test_what_is_left_of_a_limit_and_who_is_exempt() -> None:
    side = Side({})
    hello = {"user_id": "ann", "title": "t", "channels": ["email"]}
    for remaining in (2, 1):
        assert of_step(side.explain(hello), "limit")["detail"]["remaining"] == remaining
        side.submit(hello)
    blocked = of_step(side.explain(hello), "limit")
    assert (blocked["result"], blocked["reason"]) == ("block", "limit")
    assert explained(side.explain(hello)) == {"email": ("rate_limited", "limit")}
    exempt = of_step(side.explain({**hello, "priority": "critical"}), "limit")
    assert (exempt["result"], exempt["reason"], exempt["detail"]["remaining"]) == ("pass", "exempt", 0)


def test_recipients_are_explained_one_by_one() -> None:
    side = Side(USERS)
    decisions = side.explain({"recipients": ["ann", "quiet", "ann"], "title": "t", "channels": ["webhook"]})
    outcomes = [(one["user_id"], one["result"]) for one in decisions if one["step"] == "outcome"]
    assert outcomes == [("ann", "pending"), ("quiet", "suppressed")]
    decisions = side.explain({"recipients": ["ann", "quiet"], "titel": "t"})
    assert [(one["user_id"], one["reason"]) for one in decisions] == [("ann", "unknown_key"), ("quiet", "unknown_key")]


@pytest.mark.parametrize("recipients", [[], "ann", [1], {"ann": 1}])
def test_recipients_that_are_none_are_a_rejection(recipients: Any) -> None:
    (decision,) = Side({}).explain({"recipients": recipients, "title": "t"})
    assert (decision["step"], decision["result"], decision["reason"]) == ("accept", "rejected", "bad_value")
    assert decision["detail"]["field"].startswith("recipients")


def test_the_vocabulary_is_closed() -> None:
    assert set(STEP_OF_REASON.values()) <= set(STEPS)
    assert set(STEP_OF_REASON) <= set(ledger.REASONS)


# --- any notification -----------------------------------------------------------------------------------------------

switches = st.dictionaries(st.sampled_from(CHANNELS), st.booleans(), max_size=3)
categories = st.sampled_from([*SETTINGS.categories, "transaction", "marketing", "security", "system"])
documents = st.fixed_dictionaries(
    {},
    optional={
        "preferences": st.fixed_dictionaries(
            {},
            optional={
                "channels": switches,
                "categories": st.dictionaries(categories, st.booleans() | switches, max_size=2),
            },
        ),
    },
)
times = st.integers(NOW_MS - 3, NOW_MS + 3)
notifications = st.fixed_dictionaries(
    {"user_id": st.sampled_from(["ann", "bob", "a\0b"])},
    optional={
        "title": st.sampled_from(["one", "two"]),
        "category": categories | st.just("nonsense"),
        "priority": st.sampled_from(["low", "critical", 2, "urgent"]),
        "channels": st.lists(st.sampled_from([*CHANNELS, "fax"]), max_size=3),
        "idempotency_key": st.sampled_from(["k1", "k2", ""]),
        "expires_at": times,
        "send_at": times,
        "titel": st.just("t"),
    },
)
people = st.fixed_dictionaries({"ann": documents, "bob": documents})


@settings(max_examples=150, derandomize=True, deadline=None)
@given(people, st.lists(notifications, min_size=1, max_size=6))
def test_what_is_explained_is_what_happens(documents: dict[str, Any], series: list[dict[str, Any]]) -> None:
    side = Side(documents)
    for notification in series:
        decisions = side.explain(notification)
        verdict, outcomes = side.submit(notification)
        assert explained(decisions) == outcomes
        last = decisions[-1]
        if verdict is None:
            assert last["step"] == "outcome"
        elif verdict.rejected:
            error = verdict.rejected[0].error
            assert (last["step"], last["result"], last["reason"]) == ("accept", "rejected", error.code)
            assert last["detail"] == {"message": error.message, "field": error.field}
        else:
            duplicate = verdict.duplicates[0]
            assert (last["step"], last["result"]) == ("duplicate", "block")
            assert (last["detail"]["id"], last["detail"]["mismatch"]) == (duplicate.id, duplicate.mismatch)
        assert {one["step"] for one in decisions} <= set(STEPS)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(people, st.lists(st.tuples(st.booleans(), notifications), min_size=1, max_size=8))
def test_explaining_changes_nothing(documents: dict[str, Any], series: list[tuple[bool, dict[str, Any]]]) -> None:
    asked, twin = Side(documents), Side(documents)
    for submits, notification in series:
        asked.explain(notification)
        if submits:
            assert asked.submit(notification) == twin.submit(notification)
        assert asked.state() == twin.state()
