"""The four lanes of a channel, against a model that looks at every item."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.lanes import LANES, MARKS_PER_STEP, NotificationQueue

AGING_S = 32.0
GRAIN_S = AGING_S / MARKS_PER_STEP  # one second: the model below keeps times in whole grains

steps = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, LANES - 1)),
        st.tuples(st.just("pop"), st.just(0)),
        st.tuples(st.just("wait"), st.integers(1, 70)),
    ),
    max_size=60,
)


def drain(queue: NotificationQueue[str], now: float) -> list[str]:
    items = []
    while (item := queue.pop(now)) is not None:
        items.append(item)
    return items


def test_within_a_lane_the_first_is_first() -> None:
    queue = NotificationQueue[str](AGING_S)
    for item in "abc":
        queue.push(item, 1, 0.0)
    assert drain(queue, 1.0) == ["a", "b", "c"]


def test_the_higher_priority_goes_first() -> None:
    queue = NotificationQueue[str](AGING_S)
    for priority, item in enumerate("abcd"):
        queue.push(item, priority, 0.0)
    assert drain(queue, 1.0) == ["d", "c", "b", "a"]


def test_waiting_lifts_by_one_lane_per_step() -> None:
    queue = NotificationQueue[str](AGING_S)
    queue.push("low", 0, 0.0)
    queue.push("normal", 1, AGING_S + 2 * GRAIN_S)
    queue.push("high", 2, AGING_S + 2 * GRAIN_S)
    assert drain(queue, AGING_S + 3 * GRAIN_S) == ["high", "low", "normal"]  # of equals, the older


def test_urgent_work_never_starves_the_rest() -> None:
    queue = NotificationQueue[str](AGING_S)
    queue.push("low", 0, 0.0)
    taken = []
    for second in range(1, 200):
        queue.push("critical", 3, float(second))
        taken.append(queue.pop(float(second)))
    assert "low" in taken


def test_what_is_put_back_comes_next() -> None:
    queue = NotificationQueue[str](AGING_S)
    queue.push("a", 1, 0.0)
    queue.push("b", 1, 0.0)
    first = queue.pop(0.0)
    assert first == "a"
    queue.put_back(first, 1)
    assert drain(queue, 0.0) == ["a", "b"]


def test_what_is_readmitted_after_a_while_has_its_age() -> None:
    queue = NotificationQueue[str](aging_s=1.0)
    queue.push("old", 0, 0.0)
    assert queue.pop(0.0) == "old"
    queue.push("new", 1, 5.0)
    queue.readmit("old", 0)
    assert [queue.pop(5.0), queue.pop(5.0)] == ["new", "old"], "as old as what came since: nothing else is known"
    queue.push("first", 0, 5.0)
    queue.push("second", 0, 5.0)
    assert queue.pop(5.0) == "first"
    queue.push("urgent", 1, 8.0)
    queue.readmit("first", 0)
    assert [queue.pop(8.0) for _ in range(3)] == ["first", "second", "urgent"]


@pytest.mark.parametrize(("aging_s", "first"), [(AGING_S / 10, "low"), (AGING_S * 10, "high")])
def test_another_aging_counts_for_what_waits(aging_s: float, first: str) -> None:
    queue = NotificationQueue[str](AGING_S)
    queue.push("low", 0, 0.0)
    queue.push("high", 1, 1.5 * AGING_S)
    queue.pop_many(0, 0.0)
    queue.set_aging(aging_s)
    assert queue.pop(1.6 * AGING_S) == first


def test_depths() -> None:
    queue = NotificationQueue[str](AGING_S)
    queue.push_many("abc", 2, 0.0)
    queue.push("d", 0, 0.0)
    assert (len(queue), queue.depth(2), queue.depth(0), queue.depth(1)) == (4, 3, 1, 0)


@settings(max_examples=200)
@given(steps)
def test_every_pop_is_of_the_highest_effective_priority(script: list[tuple[str, int]]) -> None:
    queue = NotificationQueue[int](AGING_S)
    lanes: list[list[tuple[int, float]]] = [[] for _ in range(LANES)]
    now, made = 0.0, 0

    def effective(priority: int, waited_s: float) -> int:
        return min(LANES - 1, priority + int(waited_s / AGING_S))

    for what, argument in script:
        if what == "wait":
            now += argument * GRAIN_S / 2
        elif what == "push":
            made += 1
            queue.push(made, argument, now)
            lanes[argument].append((made, now))
        else:
            item = queue.pop(now)
            heads = [(priority, *lane[0]) for priority, lane in enumerate(lanes) if lane]
            if item is None:
                assert not heads
                continue
            priority, came = next((priority, came) for priority, head, came in heads if head == item)
            lanes[priority].pop(0)
            mine = effective(priority, now - came + GRAIN_S)  # waits are known to one grain
            assert all(effective(other, now - at) <= mine for other, _, at in heads)
    assert len(queue) == sum(map(len, lanes))


@settings(max_examples=200)
@given(steps, st.integers(1, 7))
def test_many_at_once_are_the_same_as_one_by_one(script: list[tuple[str, int]], count: int) -> None:
    single, many = NotificationQueue[int](AGING_S), NotificationQueue[int](AGING_S)
    now, made = 0.0, 0
    for what, argument in script:
        if what == "wait":
            now += argument * GRAIN_S / 2
        elif what == "push":
            made += 1
            single.push(made, argument, now)
            many.push_many([made], argument, now)
        else:
            one_by_one = [item for _ in range(count) if (item := single.pop(now)) is not None]
            assert many.pop_many(count, now) == one_by_one
