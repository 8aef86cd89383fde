"""Invariants P, O and D: which attempt may start now."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TypeVar

from shards import ledger
from shards.frames import Entry
from shards.lanes import LANES, MARKS_PER_STEP, NotificationQueue
from tests.simulation.endpoints import Endpoints
from tests.simulation.stored import Place, Stored
from tests.simulation.wire import Clock

T = TypeVar("T")
Number = tuple[Place, int, int]  # an attempt: its delivery, how often that was replayed, attempts before


class CheckedQueue(NotificationQueue[T]):
    """Invariant P: what leaves is the head of its lane, and no other lane's head had a higher effective priority."""

    __slots__ = ("_aging", "_last", "came")

    def __init__(self, aging_s: float) -> None:
        super().__init__(aging_s)
        self._aging = aging_s
        self.came: list[deque[tuple[T, float]]] = [deque() for _ in range(LANES)]
        self._last: tuple[T, float] | None = None

    def push(self, item: T, priority: int, now: float) -> None:
        super().push(item, priority, now)
        self.came[priority].append((item, now))

    def put_back(self, item: T, priority: int) -> None:
        super().put_back(item, priority)
        assert self._last is not None
        assert self._last[0] is item, "P: only what was popped last can be put back"
        self.came[priority].appendleft(self._last)

    def readmit(self, item: T, priority: int) -> None:
        self._last = item, math.inf
        super().readmit(item, priority)
        self.came[priority][0] = item, self._lanes[priority].head_mark()[1]

    def pop(self, now: float) -> T | None:
        item = super().pop(now)
        heads = {priority: lane[0] for priority, lane in enumerate(self.came) if lane}
        if item is None:
            assert not heads, "P: the queue says it is empty, and is not"
            return None
        taken = [priority for priority, (head, _) in heads.items() if head is item]
        assert len(taken) == 1, "O: what leaves a lane was not its head"
        self._last = self.came[taken[0]].popleft()
        grain = self._aging / MARKS_PER_STEP  # waits are known to this precision
        mine = self._effective(taken[0], now - self._last[1] + grain)
        for priority, (_, came) in heads.items():
            assert self._effective(priority, now - came - 1e-6) <= mine, f"P: {taken} was taken before {priority}"
        return item

    def _effective(self, priority: int, waited_s: float) -> int:
        return min(LANES - 1, priority + int(max(0.0, waited_s) / self._aging))


class Attempts:
    """Every attempt that starts, over all lives of the shard."""

    def __init__(self, stored: Stored, clock: Clock, endpoints: Endpoints) -> None:
        self.starts: Counter[str] = Counter()  # by channel
        self._stored = stored
        self._clock = clock
        self._endpoints = endpoints
        self._untried: set[Place] = set()  # put back, which others may have passed
        self._life: set[Number] = set()  # started in this life
        self._ever: set[Number] = set()
        self._may_repeat: set[Number] = set()  # was in flight, or finished after the last commit, at a crash
        self._newest: dict[tuple[int, str], Place] = {}  # by lane and endpoint
        self._first: dict[tuple[int, str], Place] = {}

    def restart(self) -> None:
        self._may_repeat = {number for number in self._ever if self._is_open(number)}
        self._life.clear()
        self._newest.clear()

    def _is_open(self, number: Number) -> bool:
        place, revival, attempts = number
        word = self._stored.open.get(place)
        return word is not None and (self._stored.revivals[place], ledger.attempts_of(word)) == (revival, attempts)

    def untried(self, entry: Entry) -> None:
        """It was not attempted after all, or the attempt does not count: the same number is started again."""
        place = entry[0].seq, entry[1]
        number = place, self._stored.revivals[place], ledger.attempts_of(entry[0].slots[entry[1]])
        self._life.discard(number)
        self._ever.discard(number)
        self._untried.add(place)

    def start(self, channel: str, entry: Entry, is_digest: bool) -> None:
        frame, slot, index, user, key = entry
        place, value = (frame.seq, slot), frame.slots[slot]
        committed = self._stored.open.get(place)
        assert committed is not None, f"D: {place} starts, and is final or not committed"
        assert value == committed, f"D: {place} starts from {value:#x}, and {committed:#x} is committed"
        assert self._stored.channel_names[ledger.channel_of(value)] == channel, f"{place} starts on {channel}"
        sent = self._stored.entered[frame.seq].positions[index]
        assert sent.user_id == user.user_id, f"{place} goes to {user.user_id}, not {sent}"
        assert is_digest or sent.key == key, f"{place} goes as {key}, not {sent}"
        assert is_digest or place not in self._stored.withdrawn, (
            f"{place} starts again, and somebody was told that it will not"
        )
        expires_ms = sent.said.get("expires_at") if sent.said and not is_digest else None
        assert expires_ms is None or expires_ms * 1000 > self._clock.wall_us, f"{place} starts after it has expired"
        attempts, revival = ledger.attempts_of(value), self._stored.revivals[place]
        number = (place, revival, attempts)
        assert number not in self._life, f"D: attempt {attempts + 1} of {place} is started twice in one life"
        assert number not in self._ever or number in self._may_repeat, f"D: attempt {attempts + 1} of {place} again"
        is_repeated = number in self._ever
        self._life.add(number)
        self._ever.add(number)
        self.starts[channel] += 1
        if attempts or revival or is_digest or place in self._stored.suspects:
            return
        if place in self._stored.late or place in self._untried:
            return
        # in order whoever the user is, to each endpoint: so a hot user delays nobody who came before
        lane = ledger.lane_of_word(value), self._endpoints.origin(channel, user.user_id)
        assert place > self._newest.get(lane, (0, -1)), f"O: {place} on {channel} after {self._newest[lane]}"
        self._newest[lane] = place
        # what expired in memory only, at a crash, may live again where the wall clock went back
        if not is_repeated and expires_ms is None:
            assert place > self._first.get(lane, (0, -1)), f"O: {place} on {channel} after {self._first[lane]}"
            self._first[lane] = place
