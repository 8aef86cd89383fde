"""How much is under way to each endpoint of a channel: one that hangs holds up its own deliveries, and no others.

An endpoint begins with one place. A success adds one, up to ``per_endpoint``; a failure halves them, down to one. All
that have not answered yet, or took longer than ``SLOW_S`` the last time, share half of the channel's places: however
many of them there are, the other half is for those that answer quickly.

What finds no place waits here by priority and age, as in a lane, and the endpoints take turns. None may have more
waiting than there is room left, so that there is always some for others. What is over waits on disk: about as
long as its endpoint will take for what is before it, or all that are slow together, and in batches, as each look is a
write.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator

from shards.changes import Place
from shards.frames import Entry
from shards.lanes import LANES

SLOW_S = 1.0
AHEAD_MAX_S = 600.0  # what is on disk is looked at again after so long, if the endpoint has recovered or not,
LOOK_S = 0.005  # and so far apart, at the most
REMEMBERED_MAX = 20_000  # endpoints that nothing is under way to; who asked for patience, as many


class _Gate:
    __slots__ = ("depths", "due", "is_slow", "limit", "since", "took_s", "waiting", "within")

    def __init__(self) -> None:
        self.limit = 1
        self.within = 0
        self.is_slow = True  # until it has shown that it is not
        self.took_s = 0.0  # an attempt, on average
        self.since = 0.0  # when an attempt ended, or began when none was under way
        self.due = 0.0  # of the last delivery on disk
        self.waiting: list[tuple[float, int, int, Entry]] = []  # a heap: a queue of lanes takes kilobytes
        self.depths: list[int] = []  # of what waits, by priority

    @property
    def has_place(self) -> bool:
        return self.within < self.limit

    def begin(self, now: float) -> None:
        if not self.within:
            self.since = now
        self.within += 1

    def learn(self, took_s: float, now: float) -> None:
        self.took_s += (took_s - self.took_s) / (4 if self.took_s else 1)
        self.since = now

    def pace_s(self, now: float) -> float:
        """How long it takes for a delivery, others being under way at the same time."""
        return max(self.took_s, now - self.since if self.within else 0.0) / self.limit


class Gates:
    """Of one channel; times are monotonic seconds.

    ``limit`` is for each endpoint; of the channel's ``places`` those that are slow have half. ``waiting_max`` bounds
    what waits here.
    """

    def __init__(self, limit: int, places: int, waiting_max: int, aging_s: float) -> None:
        self.waiting = 0  # deliveries
        self.waited_first = False  # whether they or new ones are to be asked first, in turns
        self._limit = limit
        self._waiting_max = waiting_max
        self._aging_s = aging_s
        self._all_slow = _Gate()  # as if they were one endpoint
        self._active: dict[str, _Gate] = {}  # with deliveries under way, or waiting
        self._idle: dict[str, _Gate] = {}  # the one that was active last is the last
        self._within: dict[Place, tuple[str, float]] = {}  # and when it began
        self._order = 0
        self._slow_next = False
        self._turns: tuple[dict[str, None], ...] = ({}, {})  # quick, slow: with deliveries that may start, in order
        self.rests: dict[str, float] = {}  # until when URLs are to be left alone
        self.set_places(places)

    def set_places(self, places: int) -> None:
        """How many the channel has; there may be more under way for a while."""
        self._all_slow.limit = max(1, places // 2)

    def enter(self, key: str, place: Place, now: float) -> bool:
        """Take a place for a delivery; False if there is none, or others wait for one. It is to ``wait`` then."""
        gate = self._gate(key)
        if gate.waiting or not self._has_place(gate):
            return False
        self._take(key, gate, place, now)
        return True

    def wait(self, key: str, entry: Entry, priority: int, now: float) -> bool:
        """Queue a delivery that found no place; False if too many wait already."""
        gate = self._gate(key)
        depths = gate.depths or [0] * LANES
        if depths[priority] >= self._waiting_max - self.waiting:
            return False
        heapq.heappush(gate.waiting, (now / self._aging_s - priority, self._order, priority, entry))
        gate.depths = depths
        depths[priority] += 1
        self._order += 1
        self.waiting += 1
        self._activate(key, gate)
        self._line_up(key, gate)
        return True

    def later_s(self, key: str, now: float) -> float:
        """How long a delivery is to be on disk that may not even wait."""
        gate = self._gate(key)
        ahead = len(gate.waiting)
        if gate.is_slow and not gate.within and not ahead:  # what it waits for is a place of those that are slow
            gate, ahead = self._all_slow, len(self._turns[True])
        pace_s = gate.pace_s(now)
        ahead_s = min(AHEAD_MAX_S, ahead * pace_s)
        gate.due = max(gate.due, now + ahead_s) + min(pace_s, LOOK_S)
        return math.ceil(max(gate.due, now + 1)) - now

    def leave(self, place: Place, now: float, succeeded: bool | None = None) -> None:
        """An attempt has ended; None if it was not made."""
        key, began = self._within.pop(place, ("", 0.0))
        gate = self._active.get(key)
        if gate is None:
            return
        gate.within -= 1
        self._all_slow.within -= gate.is_slow
        if succeeded is not None:
            took_s = now - began
            gate.learn(took_s, now)
            if gate.is_slow:
                self._all_slow.learn(took_s, now)
            gate.limit = min(self._limit, gate.limit + 1) if succeeded else max(1, gate.limit // 2)
            if gate.is_slow != (took_s > SLOW_S):
                self._turns[gate.is_slow].pop(key, None)
                self._all_slow.within += -gate.within if gate.is_slow else gate.within
                gate.is_slow = not gate.is_slow
        self._line_up(key, gate)
        if not gate.within and not gate.waiting:
            self._idle[key] = self._active.pop(key)
            if len(self._idle) > REMEMBERED_MAX:
                del self._idle[next(iter(self._idle))]

    def waiting_at(self, key: str) -> int:
        return len(self._gate(key).waiting)

    def ready(self, now: float) -> Iterator[Entry]:
        """Deliveries that have waited and take a place now, an endpoint after the other."""
        while turns := self._next_turns():
            key = next(iter(turns))
            gate = self._active[key]
            del turns[key]
            if not gate.has_place:
                continue
            _, _, priority, entry = heapq.heappop(gate.waiting)
            gate.depths[priority] -= 1
            if not gate.waiting:
                gate.depths = []
            self.waiting -= 1
            self._take(key, gate, (entry[0].seq, entry[1]), now)
            self._line_up(key, gate)
            yield entry

    def _next_turns(self) -> dict[str, None]:
        """Those that are quick and those that are slow go in turns; empty where nobody may start."""
        self._slow_next = not self._slow_next
        may_slow = self._turns[True] if self._all_slow.has_place else {}
        return (may_slow or self._turns[False]) if self._slow_next else (self._turns[False] or may_slow)

    def rest(self, url: str, until: float, now: float) -> None:
        """An endpoint asks to be left alone; others of the same host do not."""
        if len(self.rests) >= REMEMBERED_MAX:
            self.rests = {url: until for url, until in self.rests.items() if until > now}
        if len(self.rests) < REMEMBERED_MAX:
            self.rests[url] = max(until, self.rests.get(url, 0.0))

    def _gate(self, key: str) -> _Gate:
        return self._active.get(key) or self._idle.get(key) or _Gate()

    def _activate(self, key: str, gate: _Gate) -> None:
        self._idle.pop(key, None)
        self._active[key] = gate

    def _has_place(self, gate: _Gate) -> bool:
        return gate.has_place and (not gate.is_slow or self._all_slow.has_place)

    def _take(self, key: str, gate: _Gate, place: Place, now: float) -> None:
        gate.begin(now)
        if gate.is_slow:
            self._all_slow.begin(now)
        self._within[place] = key, now
        self._activate(key, gate)

    def _line_up(self, key: str, gate: _Gate) -> None:
        if gate.waiting and gate.has_place:
            self._turns[gate.is_slow].setdefault(key)
