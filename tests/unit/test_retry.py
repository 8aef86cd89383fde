"""Back-off, jitter, and the heap of what waits."""

from __future__ import annotations

import pytest

from shards.retry import DueHeap, RetryPolicy
from shards.units import Seconds

PLAIN = RetryPolicy(jitter="none")


def zero() -> float:
    return 0.0


def test_the_waits_without_jitter() -> None:
    assert [PLAIN.delay_s(attempts, zero) for attempts in range(1, 6)] == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_the_wait_is_capped_however_often_it_failed() -> None:
    assert PLAIN.delay_s(10, zero) == 300.0
    assert PLAIN.delay_s(255, zero) == 300.0


@pytest.mark.parametrize(("drawn", "delay_s"), [(0.0, 0.0), (0.5, 2.0), (0.999, 3.996)])
def test_full_jitter_is_a_share_of_the_wait(drawn: float, delay_s: float) -> None:
    assert RetryPolicy().delay_s(3, lambda: drawn) == pytest.approx(delay_s)


def test_retries_come_after_the_first_attempt() -> None:
    policy = RetryPolicy(max_retries=2)
    assert [policy.exhausted(attempts) for attempts in (1, 2, 3)] == [False, False, True]
    assert RetryPolicy(max_retries=0).exhausted(1)


def test_what_a_policy_refuses() -> None:
    with pytest.raises(ValueError, match="max_retries"):
        RetryPolicy(max_retries=251)
    with pytest.raises(ValueError, match="factor"):
        RetryPolicy(factor=0.5)
    assert RetryPolicy(base=Seconds(0.0)).ceiling_s(3) == 0.0


def test_the_heap_gives_what_is_due_in_order() -> None:
    heap = DueHeap[str]()
    for due, item in ((3.0, "c"), (1.0, "a"), (2.0, "b")):
        heap.push(due, item)
    assert heap.next_due() == 1.0
    assert heap.pop_due(2.0) == ["a", "b"]
    assert (len(heap), heap.next_due()) == (1, 3.0)


def test_those_due_together_leave_as_they_came() -> None:
    heap = DueHeap[object]()
    items = [object() for _ in range(5)]  # which cannot be compared
    for item in items:
        heap.push(1.0, item)
    assert heap.pop_due(1.0) == items


def test_an_empty_heap() -> None:
    heap = DueHeap[str]()
    assert heap.next_due() is None
    assert heap.pop_due(1e9) == []
