"""Deliveries that were under way when the shard died: one of them may be what it died of.

Each is tried alone: per channel one at a time, beside everybody else's deliveries, the least suspected first. One whose
attempt ends, however it ends, is a suspect no more. One that was alone when the shard died again has one crash more,
and ``CRASHES_MAX`` of them make it a dead letter, so that a poisonous message stops nobody for long.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import count

from shards.changes import Place
from shards.frames import Entry, Frame

CRASHES_MAX = 3


class Suspects:
    """``crashes`` has what the journal knows: how often the shard died under each of them."""

    def __init__(self, crashes: Mapping[Place, int]) -> None:
        self._crashes = dict(crashes)
        self._waiting: dict[int, list[tuple[int, int, Entry]]] = {}  # channel -> heap of (crashes, order, entry)
        self._on_trial: dict[int, Place] = {}  # by channel
        self._order = count()

    def __len__(self) -> int:
        return len(self._crashes)

    def __contains__(self, place: object) -> bool:
        return place in self._crashes

    def wait(self, channel: int, entry: Entry) -> None:
        """A suspect that is due: it waits until it can be alone."""
        crashes = self._crashes[entry[0].seq, entry[1]]
        heapq.heappush(self._waiting.setdefault(channel, []), (crashes, next(self._order), entry))

    def has_waiting(self, channel: int) -> bool:
        return bool(self._waiting.get(channel))

    def next(self, channel: int) -> Entry | None:
        """The one to try now; None if there is none, or another is on trial."""
        heap = self._waiting.get(channel)
        if not heap or channel in self._on_trial:
            return None
        entry = heapq.heappop(heap)[2]
        self._on_trial[channel] = entry[0].seq, entry[1]
        return entry

    def again(self, channel: int, entry: Entry) -> None:
        """The one on trial was not tried after all: it is to be, as much suspected as before."""
        if self._on_trial.get(channel) == (entry[0].seq, entry[1]):
            del self._on_trial[channel]
        self.wait(channel, entry)

    def acquit(self, channel: int, frame: Frame, slot: int) -> bool:
        """The attempt of a delivery has ended; whether it was a suspect."""
        place = frame.seq, slot
        if self._on_trial.get(channel) == place:
            del self._on_trial[channel]
        return self._crashes.pop(place, None) is not None
