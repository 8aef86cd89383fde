"""Rate limits: GCRA per key."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.limiter import Limiter, RateLimit

KEY, A, B, C, IDLE, LIVE, NEW = range(-3, 4)  # users by their signed hash


@settings(max_examples=200)
@given(st.lists(st.floats(0.0, 3.0), max_size=60), st.integers(1, 5))
def test_in_any_window_at_most_burst_and_rate(gaps: list[float], burst: int) -> None:
    limiter = Limiter(RateLimit("2/second", burst=burst), 10)
    now, passed = 0.0, []
    for gap in gaps:
        now += gap
        if limiter.allow(KEY, now):
            passed.append(now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + 2 * (passed[last] - passed[first]) + 1e-3


def test_the_burst_passes_and_no_more() -> None:
    limiter = Limiter(RateLimit("60/minute", burst=3), 10)
    assert [limiter.allow(KEY, 0.0) for _ in range(4)] == [True, True, True, False]
    assert limiter.remaining(KEY, 0.0) == 0
    assert limiter.allow(KEY, 1.0)


def test_the_burst_is_the_count_by_default() -> None:
    limiter = Limiter(RateLimit("5/minute"), 10)
    assert limiter.remaining(KEY, 0.0) == 5
    assert sum(limiter.allow(KEY, 0.0) for _ in range(9)) == 5


def test_keys_are_independent() -> None:
    limiter = Limiter(RateLimit("1/minute"), 10)
    assert limiter.allow(A, 0.0)
    assert limiter.allow(B, 0.0)
    assert not limiter.allow(A, 0.0)


def test_the_exempt_always_pass_and_each_is_charged() -> None:
    limiter = Limiter(RateLimit("1/minute", burst=2, exempt=("critical",)), 10)
    assert limiter.exempt == {"critical"}
    assert [limiter.allow(KEY, 0.0, exempt=True) for _ in range(5)] == [True] * 5
    assert limiter.remaining(KEY, 0.0) == 0
    assert not limiter.allow(KEY, 239.0), "those beyond the limit are spent as well: five of them, less the burst"
    assert limiter.allow(KEY, 240.0)


def test_the_exempt_pass_where_no_key_has_room() -> None:
    limiter = Limiter(RateLimit("1/minute"), keys_max=1)
    assert limiter.allow(A, 0.0)
    assert limiter.allow(B, 0.0, exempt=True)
    assert len(limiter) == 1


@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), max_size=60), st.integers(1, 5))
def test_beside_the_exempt_others_pass_within_the_limit(events: list[tuple[float, bool]], burst: int) -> None:
    limiter = Limiter(RateLimit("2/second", burst=burst), 10)
    now, passed = 0.0, []
    for gap, exempt in events:
        now += gap
        if not limiter.allow(KEY, now, exempt):
            assert not exempt
            continue
        passed.append(now)
        if not exempt:
            for first, since in enumerate(passed):
                assert len(passed) - first <= burst + 2 * (now - since) + 1e-3


def test_a_new_key_beyond_the_bound_is_refused_while_all_are_live() -> None:
    limiter = Limiter(RateLimit("1/minute"), keys_max=2)
    assert limiter.allow(A, 0.0)
    assert limiter.allow(B, 0.0)
    assert not limiter.allow(C, 0.0)
    assert len(limiter) == 2


def test_idle_keys_make_room_and_live_limits_stay() -> None:
    limiter = Limiter(RateLimit("1/minute"), keys_max=2)
    limiter.allow(IDLE, 0.0)
    limiter.allow(LIVE, 50.0)
    assert limiter.allow(NEW, 70.0)
    assert not limiter.allow(LIVE, 70.0)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 3_000), max_size=60), st.integers(1, 5))
def test_remaining_and_next_at_agree_with_allow(waits_ms: list[int], burst: int) -> None:
    limiter = Limiter(RateLimit("3/second", burst=burst), 10)
    ms = 0
    for wait_ms in waits_ms:
        ms += wait_ms
        now = ms / 1000
        remaining, at = limiter.remaining(KEY, now), limiter.next_at(KEY, now)
        assert (at == now) == (remaining > 0)
        twin = Limiter(RateLimit("3/second", burst=burst), 10)
        twin.restore([KEY], [limiter.state([KEY], 1)[1][0] if len(limiter) else now])
        assert sum(twin.allow(KEY, now) for _ in range(burst + 1)) == remaining
        if at > now:
            assert not limiter.allow(KEY, at - 1e-4)
            twin.restore([KEY], limiter.state([KEY], 1)[1])
            assert twin.allow(KEY, at)
        limiter.allow(KEY, now)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 2_000), st.booleans()), max_size=60), st.integers(1, 5))
def test_what_is_reserved_is_sent_within_the_limit(events: list[tuple[int, bool]], burst: int) -> None:
    """Beside others that pass at once: in any window of the times of sending at most burst and rate."""
    limiter = Limiter(RateLimit("2/second", burst=burst, overflow="delay"), 10)
    ms, sent = 0, []
    for wait_ms, waits in events:
        ms += wait_ms
        now = ms / 1000
        if waits:
            at = limiter.next_at(KEY, now)
            assert limiter.reserve(KEY, now) == at
            sent.append(at)
        elif limiter.allow(KEY, now):
            sent.append(now)
    sent.sort()
    for first, since in enumerate(sent):
        for last in range(first, len(sent)):
            assert last - first + 1 <= burst + 2 * (sent[last] - since) + 1e-3


def test_reservations_follow_each_other_by_the_rate() -> None:
    limiter = Limiter(RateLimit("2/second", burst=3), 10)
    assert [limiter.reserve(KEY, 10.0) for _ in range(6)] == pytest.approx([10, 10, 10, 10.5, 11, 11.5], rel=1e-12)
    assert limiter.next_at(KEY, 10.0) == pytest.approx(12, rel=1e-12)
    assert not limiter.allow(KEY, 11.9)


def test_no_reservation_where_no_new_key_has_room() -> None:
    limiter = Limiter(RateLimit("1/minute"), keys_max=1)
    assert limiter.allow(A, 0.0)
    assert limiter.next_at(B, 0.0) == limiter.reserve(B, 0.0) == math.inf
    assert limiter.remaining(B, 0.0) == 0
    assert limiter.charges == [A]


def test_every_charge_is_noted() -> None:
    limiter = Limiter(RateLimit("1/minute"), 10)
    assert limiter.allow(A, 0.0)
    assert not limiter.allow(A, 0.0)
    assert limiter.allow(A, 0.0, exempt=True)
    limiter.reserve(B, 0.0)
    assert limiter.charges == [A, A, B]


def test_the_highest_rate_lets_pass_no_more_than_its_burst() -> None:
    limiter = Limiter(RateLimit("1000000/second", burst=5), 10)
    assert sum(limiter.allow(KEY, 0.0) for _ in range(9)) == 5


def test_the_exempt_are_named_by_priority() -> None:
    with pytest.raises(ValueError, match=r"exempt: unknown priority 'critcal'; did you mean critical\?"):
        RateLimit("1/second", exempt=("critcal",))


@pytest.mark.parametrize("rate", ["", "0/second", "5", "5/fortnight", "-1/second", "1.5/second"])
def test_a_rate_that_is_none(rate: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        RateLimit(rate)


def test_a_burst_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="burst"):
        RateLimit("1/second", burst=0)
