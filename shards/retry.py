"""When a failed delivery is tried again: exponential back-off with full jitter, and the heap that waits.

Full jitter draws the wait uniformly between 0 and the computed delay, which spreads a burst of failures best
("Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

import msgspec

from shards.units import Seconds

T = TypeVar("T")


class RetryPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``max_retries`` counts the attempts after the first. Without jitter the waits are base * factor**k, capped."""

    max_retries: int = 5
    base: Seconds = Seconds(1.0)
    factor: float = 2.0
    max: Seconds = Seconds(300.0)
    jitter: Literal["full", "none"] = "full"

    def __post_init__(self) -> None:
        if not 0 <= self.max_retries <= 250:
            raise ValueError(f"max_retries is {self.max_retries}; it must be between 0 and 250")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; it must be at least 1")

    def exhausted(self, attempts: int) -> bool:
        """Whether a delivery that failed ``attempts`` times has no retry left."""
        return attempts > self.max_retries

    def ceiling_s(self, attempts: int) -> float:
        """The longest wait after failure number ``attempts`` (1 is the first)."""
        exponent = min(attempts - 1, 64)  # beyond that any base exceeds any cap; 2.0**1024 would overflow
        return min(self.max, self.base * self.factor**exponent)

    def delay_s(self, attempts: int, random: Callable[[], float]) -> float:
        """The wait after failure number ``attempts``; ``random`` draws from [0, 1)."""
        ceiling = self.ceiling_s(attempts)
        return ceiling * random() if self.jitter == "full" else ceiling


class DueHeap(Generic[T]):
    """Items by due time, in seconds; those due at the same time leave in the order in which they came."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, due: float, item: T) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, item))

    def pop_due(self, now: float) -> list[T]:
        heap = self._heap
        out = []
        while heap and heap[0][0] <= now:
            out.append(heapq.heappop(heap)[2])
        return out

    def next_due(self) -> float | None:
        """When the first item is due; None if there is none."""
        return self._heap[0][0] if self._heap else None
