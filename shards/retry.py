"""When a failed delivery is tried again: exponential back-off with full jitter, and the heap that waits.

Full jitter draws the wait uniformly between 0 and the computed delay, which spreads a burst of failures best
("Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

>>> policy = RetryPolicy(max_retries=3, base=1.0, factor=2.0, jitter="none")
>>> [policy.ceiling_s(attempts) for attempts in (1, 2, 3)]
[1.0, 2.0, 4.0]
>>> policy.exhausted(3), policy.exhausted(4)
(False, True)

The jitter is drawn by a generator of the caller, so that a test knows what comes:

>>> RetryPolicy(jitter="full").delay_s(3, random=lambda: 0.5)
2.0

What a service asks for is honoured, up to a day:

>>> policy.delay_s(1, random=lambda: 0.5, throttled=True, asked_s=120.0)
120.0
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import msgspec

from shards.units import Seconds

if TYPE_CHECKING:
    Duration = float  # any number of seconds will do in a program; a file's "5m" is read as ``Seconds``
else:
    Duration = Seconds

T = TypeVar("T")

RETRIES_MAX = 250  # attempts have 8 bits in the ledger
RETRY_AFTER_MAX_S = 86_400.0
FIFTH = 0.2


class RetryPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``max_retries`` counts the attempts after the first. Without jitter the waits are base * factor**k, capped.

    ``base`` and ``max`` are in seconds. ``jitter`` is "full" (between 0 and the wait), "fifth" (a fifth more or less)
    or "none". ``schedule`` names the waits one by one instead, and so how many there are. ``throttled_min`` is the
    shortest wait after an answer that asks for patience, and after none at all. ``ValueError``: out of range.
    """

    max_retries: int = 5
    base: Duration = Seconds(1.0)
    factor: float = 2.0
    max: Duration = Seconds(300.0)
    jitter: Literal["full", "fifth", "none"] = "full"
    schedule: tuple[Duration, ...] = ()
    throttled_min: Duration = Seconds(0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.max_retries <= RETRIES_MAX:
            raise ValueError(f"max_retries is {self.max_retries}; it must be between 0 and {RETRIES_MAX}")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}; it must be at least 1")
        if len(self.schedule) > RETRIES_MAX:
            raise ValueError(f"schedule has {len(self.schedule)} waits; at most {RETRIES_MAX}")

    def exhausted(self, attempts: int) -> bool:
        """Whether a delivery that failed ``attempts`` times has no retry left."""
        return attempts > (len(self.schedule) or self.max_retries)

    def ceiling_s(self, attempts: int) -> float:
        """The wait after failure number ``attempts`` (1 is the first), before jitter."""
        if self.schedule:
            return float(self.schedule[min(max(attempts, 1), len(self.schedule)) - 1])
        exponent = min(attempts - 1, 64)  # beyond that any base exceeds any cap; 2.0**1024 would overflow
        return min(self.max, self.base * self.factor**exponent)

    def longest_s(self, attempts: int) -> float:
        """No wait is longer that ``delay_s`` has given, unless the service asked for patience."""
        return self.ceiling_s(attempts) * (1 + FIFTH if self.jitter == "fifth" else 1)

    def delay_s(
        self, attempts: int, random: Callable[[], float], *, throttled: bool = False, asked_s: float = 0.0
    ) -> float:
        """The wait after failure number ``attempts``; ``random`` draws from [0, 1).

        What the service asked for (``Retry-After``) is honoured between the computed wait and a day.
        """
        delay = self.ceiling_s(attempts)
        match self.jitter:
            case "full":
                delay *= random()
            case "fifth":
                delay *= 1 - FIFTH + 2 * FIFTH * random()
        if throttled:
            delay = max(delay, self.throttled_min)
        return max(delay, min(asked_s, RETRY_AFTER_MAX_S))


WEBHOOK_RETRY = RetryPolicy(  # Standard Webhooks: eight attempts over some 28 hours
    schedule=tuple(map(Seconds, (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000))),
    jitter="fifth",
    throttled_min=Seconds(60.0),
)


class DueHeap(Generic[T]):
    """Items by due time, in seconds; those due at the same time leave in the order in which they came.

    >>> heap = DueHeap[str]()
    >>> heap.push(12.0, "second")
    >>> heap.push(11.0, "first")
    >>> heap.next_due(), heap.pop_due(10.9), heap.pop_due(12.0)
    (11.0, [], ['first', 'second'])
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, due: float, item: T) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, item))

    def pop_due(self, now: float) -> list[T]:
        """Take out all that is due; nothing before its time."""
        heap = self._heap
        out = []
        while heap and heap[0][0] <= now:
            out.append(heapq.heappop(heap)[2])
        return out

    def next_due(self) -> float | None:
        """When the first item is due; None if there is none."""
        return self._heap[0][0] if self._heap else None
