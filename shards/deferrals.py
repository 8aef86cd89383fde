"""When deferred deliveries are due: the journal has them, memory only the next instant of each lane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class Timer(NamedTuple):
    """A delivery that is deferred until ``due_ms``, as the journal keeps it."""

    lane: int
    due_ms: int
    seq: int
    slot: int


def waits_until_ms(due_ms: int, expires_ms: int | None) -> int:
    """Until when a delivery is deferred that is not to be sent before ``due_ms``: its expiry ends the wait."""
    return due_ms if expires_ms is None else min(due_ms, expires_ms)


class Dues:
    """The first instant of each lane, in milliseconds since the epoch."""

    def __init__(self, first: Mapping[int, int]) -> None:
        self._first = dict(first)

    def add(self, lane: int, due_ms: int) -> None:
        known = self._first.get(lane)
        if known is None or due_ms < known:
            self._first[lane] = due_ms

    def replace(self, lane: int, due_ms: int | None) -> None:
        """What is due after all that was looked at; None if nothing is left."""
        if due_ms is None:
            self._first.pop(lane, None)
        else:
            self._first[lane] = due_ms

    def lanes(self, now_ms: int) -> list[int]:
        """Those of which something is due."""
        return [lane for lane, due_ms in self._first.items() if due_ms <= now_ms]

    def items(self) -> list[tuple[int, int]]:
        return list(self._first.items())


class Deferrals:
    """What this turn sets and removes, and how many wait in each lane."""

    def __init__(self, first: Mapping[int, int], counts: Mapping[int, int]) -> None:
        self.dues = Dues(first)
        self.counts = Counter(counts)
        self.added: dict[Timer, None] = {}  # a set, in order
        self.removed: list[Timer] = []

    def add(self, timer: Timer) -> None:
        self.added[timer] = None
        self.counts[timer.lane] += 1
        self.dues.add(timer.lane, timer.due_ms)

    def remove(self, timers: list[Timer]) -> None:
        for timer in timers:
            self.counts[timer.lane] -= 1
            if timer in self.added:  # in this turn
                del self.added[timer]
            else:
                self.removed.append(timer)

    def take(self, lane: int, timers: list[Timer], left_ms: int | None) -> None:
        """The first ones of a lane are looked at now. ``left_ms`` is when the journal's others are due."""
        self.remove(timers)
        self.dues.replace(lane, left_ms)
        for timer in self.added:  # in this turn: the journal does not have them yet
            if timer.lane == lane:
                self.dues.add(lane, timer.due_ms)

    def committed(self) -> None:
        self.added, self.removed = {}, []
