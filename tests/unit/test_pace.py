"""A provider's pace: what all shards together start stays within it, and nobody waits longer than needed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.pace import Pace


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 900), st.integers(0, 3), st.integers(1, 5)), max_size=60),
    st.integers(1, 4),
    st.integers(4, 12),
)
def test_in_any_window_at_most_burst_and_rate_over_all_shards(
    plan: list[tuple[int, int, int]], shards: int, burst: int
) -> None:
    paces = [Pace("8/second", burst, shard, shards) for shard in range(shards)]
    ms, starts = 0, []
    for wait_ms, shard, wanted in plan:
        ms += wait_ms
        pace = paces[shard % shards]
        count = min(wanted, pace.available(ms / 1000))
        if count:
            pace.spend(count, ms / 1000)
        starts += [ms / 1000] * count
    for first, since in enumerate(starts):
        for last in range(first, len(starts)):
            assert last - first + 1 <= burst + 8 * (starts[last] - since) + 1e-3


@settings(max_examples=200)
@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 20)), max_size=30), st.integers(1, 9))
def test_next_at_is_the_first_moment_with_one_available(plan: list[tuple[float, int]], burst: int) -> None:
    pace = Pace("5/second", burst, 0, 1)
    now = 100.0
    for wait_s, count in plan:
        now += wait_s
        pace.spend(count, now)
        at = pace.next_at(now)
        if at is None:
            assert pace.available(now) >= 1
        else:
            assert at > now
            assert pace.available(now) == pace.available(at - 1e-3) == 0
            assert pace.available(at) == 1


@pytest.mark.parametrize(
    ("rate", "burst", "shards", "available"),
    [
        ("100/second", 0, 1, [10]),
        ("100/second", 0, 4, [3, 3, 2, 2]),
        ("100/second", 3, 2, [2, 1]),
        ("1/minute", 0, 1, [1]),
        ("1/minute", 1, 3, [1, 1, 1]),
        ("600/minute", 60, 4, [15] * 4),
    ],
)
def test_the_burst_is_divided_and_each_shard_has_one(rate: str, burst: int, shards: int, available: list[int]) -> None:
    assert [Pace(rate, burst, shard, shards).available(0.0) for shard in range(shards)] == available


def test_the_rate_is_divided() -> None:
    pace = Pace("10/second", 4, 0, 4)
    pace.spend(1, 50.0)
    assert pace.available(50.0) == 0
    assert pace.next_at(50.0) == pytest.approx(50.4)


def test_what_was_given_back_may_be_spent_again_and_is_no_more_than_the_burst() -> None:
    pace = Pace("10/second", 4, 0, 1)
    pace.spend(4, 50.0)
    pace.refund(3, 50.0)
    assert pace.available(50.0) == 3
    pace.refund(1, 60.0)
    assert pace.available(60.0) == 4
