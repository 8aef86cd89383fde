"""Rate limits: GCRA per key."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.limiter import Limiter, RateLimit

KEY, A, B, C, IDLE, LIVE, NEW = range(-3, 4)  # users by their signed hash


@settings(max_examples=200, derandomize=True, deadline=None)
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


@settings(max_examples=200, derandomize=True, deadline=None)
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


@pytest.mark.parametrize("rate", ["", "0/second", "5", "5/fortnight", "-1/second", "1.5/second"])
def test_a_rate_that_is_none(rate: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        RateLimit(rate)


def test_a_burst_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="burst"):
        RateLimit("1/second", burst=0)
