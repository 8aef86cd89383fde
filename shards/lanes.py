"""The four priority lanes of one channel: FIFO within a lane, the highest effective priority first.

A waiting item rises one lane per ``aging_s``, so that a stream of urgent work delays the rest and never starves
it. Lanes are plain deques; how long the head of a lane has waited is known from marks, one per ``aging_s / 32`` at
most, so that age costs nothing per item.

>>> queue = NotificationQueue[str](aging_s=30.0)
>>> queue.push("newsletter", Priority.LOW, now=0.0)
>>> queue.push_many(["order 1", "order 2"], Priority.NORMAL, now=0.0)
>>> queue.push("login", Priority.CRITICAL, now=0.0)
>>> len(queue), queue.depth(Priority.NORMAL)
(4, 2)
>>> queue.pop(now=1.0)
'login'
>>> queue.pop_many(2, now=1.0)
['order 1', 'order 2']

After a minute what was low counts as high, and is the older one:

>>> queue.push("alarm", Priority.HIGH, now=61.0)
>>> queue.pop_many(10, now=61.0)
['newsletter', 'alarm']
>>> queue.pop(now=61.0) is None
True
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from shards.wire.notification import Priority

LANES = len(Priority)
MARKS_PER_STEP = 32

T = TypeVar("T")


class _Lane(Generic[T]):
    __slots__ = ("items", "marks", "popped")

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.popped = 0
        self.marks: deque[tuple[int, float]] = deque()  # (ordinal of the first item, when it came)

    def head_mark(self) -> tuple[int, float]:
        """The mark that covers the head item; drops those before it."""
        marks = self.marks
        while len(marks) > 1 and marks[1][0] <= self.popped:
            marks.popleft()
        return marks[0]


class NotificationQueue(Generic[T]):
    """A queue of items, each with a ``Priority``: 0 (low) to 3 (critical), as integers.

    ``aging_s`` is how long an item waits until it counts as one priority higher. ``now`` is in seconds on any clock
    that never goes back, such as ``time.monotonic``. Nothing here blocks: ``pop`` of an empty queue answers None.
    It is as long as what is pushed, so who fills it bounds it. One thread at a time may use it.
    """

    __slots__ = ("_aging_s", "_append", "_descending", "_grain_s", "_lanes", "_next_mark", "_next_rise")

    def __init__(self, aging_s: float = 30.0) -> None:
        self._lanes = tuple(_Lane[T]() for _ in range(LANES))
        self._append = tuple(lane.items.append for lane in self._lanes)
        self._descending = tuple((lane.items, lane) for lane in self._lanes[::-1])
        self._aging_s = aging_s
        self._grain_s = aging_s / MARKS_PER_STEP
        self._next_mark = -math.inf
        self._next_rise = math.inf  # no head has waited for a whole step before then

    def set_aging(self, aging_s: float) -> None:
        """From now on an item rises one lane per ``aging_s``, those that wait as well."""
        if aging_s == self._aging_s:
            return
        newest_mark = self._next_mark - self._grain_s
        self._aging_s = aging_s
        self._grain_s = aging_s / MARKS_PER_STEP
        self._next_mark = newest_mark + self._grain_s
        self._next_rise = -math.inf  # the next pop finds it

    def __len__(self) -> int:
        return sum(len(lane.items) for lane in self._lanes)

    def depth(self, priority: int) -> int:
        """How many items of this priority wait, those that have risen as well."""
        return len(self._lanes[priority].items)

    def push(self, item: T, priority: int, now: float) -> None:
        """To the end of its lane."""
        if now >= self._next_mark:
            self._mark(now)
        self._append[priority](item)

    def push_many(self, items: Iterable[T], priority: int, now: float) -> None:
        """To the end of their lane, in their order."""
        if now >= self._next_mark:
            self._mark(now)
        self._lanes[priority].items.extend(items)

    def put_back(self, item: T, priority: int) -> None:
        """Return the item that was popped last to the head of its lane."""
        lane = self._lanes[priority]
        lane.popped -= 1
        lane.items.appendleft(item)

    def readmit(self, item: T, priority: int) -> None:
        """Return an item that was popped a while ago to the head of its lane; it counts as old as that head was."""
        self.put_back(item, priority)
        self._next_rise = -math.inf  # it may be due to rise: the next pop finds it

    def pop(self, now: float) -> T | None:
        """The item that is due first; None if there is none."""
        if now < self._next_rise:
            for items, lane in self._descending:
                if items:
                    lane.popped += 1
                    return items.popleft()
            return None
        popped = self.pop_many(1, now)
        return popped[0] if popped else None

    def pop_many(self, count: int, now: float) -> list[T]:
        """At most ``count`` items, in the order in which they are due."""
        out: list[T] = []
        if now < self._next_rise:
            for _, lane in self._descending:
                self._take(lane, count - len(out), out)
            return out
        while len(out) < count and (found := self._first(now)) is not None:
            lane, run = found
            self._take(lane, min(count - len(out), run), out)
        return out

    def _take(self, lane: _Lane[T], count: int, out: list[T]) -> None:
        items = lane.items
        if count >= len(items):
            lane.popped += len(items)
            out.extend(items)
            items.clear()
        elif count > 0:
            lane.popped += count
            popleft = items.popleft
            out.extend([popleft() for _ in range(count)])

    def _mark(self, now: float) -> None:
        self._next_mark = now + self._grain_s
        self._next_rise = min(self._next_rise, now + self._aging_s)
        for lane in self._lanes:
            if not lane.items:
                lane.marks.clear()
            lane.marks.append((lane.popped + len(lane.items), now))

    def _first(self, now: float) -> tuple[_Lane[T], int] | None:
        """The lane whose head is due first, and how many of its items share the head's mark."""
        best: tuple[int, float] | None = None
        found: tuple[_Lane[T], int] | None = None
        next_rise = self._next_mark - self._grain_s + self._aging_s  # of what comes under the newest mark
        for priority, lane in enumerate(self._lanes):
            if not lane.items:
                continue
            _, came = lane.head_mark()
            steps = int((now - came) / self._aging_s)
            effective = min(LANES - 1, priority + steps)
            if priority < LANES - 1:
                next_rise = min(next_rise, came + self._aging_s)
            rank = (effective, -came)
            if best is None or rank >= best:
                best = rank
                run = lane.marks[1][0] - lane.popped if len(lane.marks) > 1 else len(lane.items)
                found = lane, run
        self._next_rise = next_rise
        return found
