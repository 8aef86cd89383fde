"""How much is under way to each endpoint of a channel: one that hangs holds up its own deliveries, and no others.

An endpoint begins with ``limit`` places. A failure halves them, down to one; a success adds one, so that an endpoint
in trouble is asked less and less, and is used again as it recovers. What finds no place waits here as in a lane, by
priority and in its order, up to ``waiting_max`` of each endpoint and priority, and ``total_max`` of all.
"""

from __future__ import annotations

from collections.abc import Iterator

from shards.changes import Place
from shards.frames import Entry
from shards.lanes import NotificationQueue

ENDPOINTS_MAX = 100_000  # remembered: beyond, those that nothing is under way to are forgotten


class _Gate:
    __slots__ = ("limit", "until", "waiting", "within")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.within = 0
        self.until = 0.0  # the endpoint asked for patience until then
        self.waiting: NotificationQueue[Entry] | None = None


class Gates:
    """Of one channel; times are monotonic seconds."""

    def __init__(self, limit: int, waiting_max: int, total_max: int, aging_s: float) -> None:
        self.waiting = 0  # deliveries
        self._limit = limit
        self._waiting_max = waiting_max
        self._total_max = total_max
        self._aging_s = aging_s
        self._gates: dict[str, _Gate] = {}
        self._within: dict[Place, str] = {}
        self._patient: set[str] = set()  # with deliveries that wait

    def enter(self, key: str, place: Place, now: float) -> bool:
        """Take a place for a delivery; False if there is none, or others wait for one."""
        gate = self._gates.get(key)
        if gate is None:
            if len(self._gates) >= ENDPOINTS_MAX:
                self._forget()
            gate = self._gates[key] = _Gate(self._limit)
        if gate.waiting or gate.within >= gate.limit or gate.until > now:
            return False
        gate.within += 1
        self._within[place] = key
        return True

    def wait(self, key: str, entry: Entry, priority: int, now: float) -> bool:
        """Queue a delivery that found no place; False if too many wait already."""
        gate = self._gates[key]
        queue = gate.waiting or NotificationQueue(self._aging_s)
        if self.waiting >= self._total_max or queue.depth(priority) >= self._waiting_max:
            return False
        queue.push(entry, priority, now)
        gate.waiting = queue
        self.waiting += 1
        self._patient.add(key)
        return True

    def until(self, key: str) -> float:
        """When the endpoint may be asked again."""
        return self._gates[key].until

    def leave(self, place: Place, now: float, *, failed: bool = False, asked_s: float = 0.0) -> None:
        """An attempt has ended; ``asked_s`` is how long the endpoint asked to be left alone."""
        key = self._within.pop(place, None)
        if key is None:
            return
        gate = self._gates[key]
        gate.within -= 1
        gate.limit = max(1, gate.limit // 2) if failed else min(self._limit, gate.limit + 1)
        gate.until = max(gate.until, now + asked_s) if asked_s else gate.until
        if not gate.within and not gate.waiting and gate.limit == self._limit and gate.until <= now:
            del self._gates[key]

    def ready(self, now: float, count: int) -> Iterator[Entry]:
        """At most ``count`` deliveries that have waited and take a place now, an endpoint at a time."""
        for key in list(self._patient):
            gate = self._gates[key]
            while count > 0 and gate.waiting and gate.within < gate.limit and gate.until <= now:
                entry = gate.waiting.pop(now)
                assert entry is not None  # a queue that is empty is false
                self.waiting -= 1
                gate.within += 1
                self._within[entry[0].seq, entry[1]] = key
                count -= 1
                yield entry
            if not gate.waiting:
                gate.waiting = None
                self._patient.discard(key)

    def next_due(self, now: float) -> float | None:
        """When the first endpoint may be asked again for which deliveries wait."""
        dues = [self._gates[key].until for key in self._patient]
        return min((due for due in dues if due > now), default=None)

    def _forget(self) -> None:
        self._gates = {key: gate for key, gate in self._gates.items() if gate.within or gate.waiting}
