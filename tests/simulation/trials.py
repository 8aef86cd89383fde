"""What brings a shard down: frames that cannot be judged, deliveries that kill its process, and who is suspected."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from shards.changes import Now
from shards.core import Core
from shards.frames import Entry
from shards.judging import Judge, Judged
from shards.shard import Shard
from shards.suspects import CRASHES_MAX
from shards.wire.link import Data
from tests.simulation.producer import UNJUDGEABLE
from tests.simulation.stored import Place, Stored

MARK = struct.Struct("<QII")


class FaultyJudge(Judge):
    """Has a bug that some frames meet: before or after what it does."""

    def judge(self, data: Data, seq: int, now_ms: int) -> Judged:
        if UNJUDGEABLE not in data.body:
            return super().judge(data, seq, now_ms)
        if seq % 2:
            super().judge(data, seq, now_ms)
        raise ZeroDivisionError("a bug in judging")


class Trials:
    """``poisoned`` says of an attempt whether it brings the process down; ``blow`` does that."""

    def __init__(self, stored: Stored, blow: Callable[[str], None]) -> None:
        self.poison_starts: Counter[tuple[Place, int]] = Counter()  # by delivery, and how often it was replayed
        self.alone: Counter[str] = Counter()  # suspects that were started, by channel
        self._stored = stored
        self._blow = blow
        self._under_way: dict[str, set[Place]] = {}  # of channels whose attempts are marked
        self._crashes: Counter[tuple[Place, int]] = Counter()
        self._expected: set[Place] = set()  # that must be suspected once the journal is open again

    # --- attempts ----------------------------------------------------------------------------------------------

    def begin(self, channel: str, places: Iterable[Place]) -> None:
        """What a channel is told to start, all at once. A suspect is alone, and has no other beside it."""
        chosen, suspects = set(places), self._stored.suspects
        under_way = self._under_way.setdefault(channel, set())
        if on_trial := chosen & suspects.keys():
            assert len(chosen) == 1, f"suspects: {on_trial} is tried together with {chosen - on_trial}"
            others = under_way & suspects.keys()
            assert not others, f"suspects: {on_trial} is tried beside {others} on {channel}"
            self.alone[channel] += 1
        under_way |= chosen

    def start(self, channel: str, entry: Entry) -> None:
        place = entry[0].seq, entry[1]
        if self._stored.entered[place[0]].positions[entry[2]].is_poison:
            number = place, self._stored.revivals[place]
            self.poison_starts[number] += 1
            starts = self.poison_starts[number]
            assert starts <= CRASHES_MAX, f"poison: {place} has brought {starts} processes down"
            self._blow(f"by the poison in {place} on {channel}")

    def end(self, channel: str, place: Place) -> None:
        self._under_way[channel].remove(place)

    # --- crashes -----------------------------------------------------------------------------------------------

    def crashed(self, marks: Path) -> None:
        """What the dead process was doing is on the page of marks; whoever was on trial already is counted alone."""
        page = marks.read_bytes() if marks.exists() else b""
        found = {(seq, slot): bool(alone) for seq, slot, alone in MARK.iter_unpack(page[: len(page) // 16 * 16]) if seq}
        lost = set().union(*self._under_way.values()) - found.keys()
        assert not lost, f"marks: {lost} were under way"
        for place in found:
            self._crashes[place, self._stored.revivals[place]] += 1
        self._expected |= {place for place in found if place in self._stored.open}
        self._under_way.clear()

    def dropped(self) -> None:
        """The shard is made anew, and the process lives: nothing under way has brought it down."""
        self._under_way.clear()

    def opened(self, shard: Shard) -> None:
        """Nobody got away: each is suspected now, or is given up."""
        lost = {place for place in self._expected if place in self._stored.open} - self._stored.suspects.keys()
        assert not lost, f"suspects: {lost} were under way at a crash, and are not suspected"
        self._expected.clear()
        assert not shard.marks.found(), "marks: some are left from another life"
        self._memory(shard.core)

    def _memory(self, core: Core) -> None:
        given_up = {place for place, crashes in self._stored.suspects.items() if crashes >= CRASHES_MAX}
        known = self._stored.suspects.keys() - given_up
        assert core.suspects._crashes.keys() == known, f"suspects: {core.suspects._crashes}, not {known}"

    def turned(self, shard: Shard, now: Now) -> None:
        """In memory as on disk; who is due is tried unless another is on trial."""
        if shard.core.changes:
            return
        self._memory(shard.core)
        suspects = shard.core.suspects
        for number, waiting in suspects._waiting.items():
            settings, in_flight = shard.core.settings, shard.core.in_flight[number]
            full = in_flight >= settings.channels[shard.core.channel_names[number]].concurrency
            full = full or in_flight + len(shard.core.retrying[number]) >= settings.bounds.retrying
            full = full or number in shard.core.paused or shard.core.holds.get(number, 0.0) > now.mono
            slowing = shard.core.slowings.get(number)
            full = full or (slowing is not None and slowing.next_at(now.mono) is not None)
            assert not waiting or full or number in suspects._on_trial, f"suspects: {len(waiting)} wait for nothing"

    def committed(self) -> None:
        """A suspect's end and its acquittal are one commit; who is given up was under way at enough crashes."""
        ended = self._stored.suspects.keys() - self._stored.open.keys()
        assert not ended, f"suspects: {ended} have ended, and are suspected"
        for place in self._stored.poisoned:
            crashes = self._crashes[place, self._stored.revivals[place]]
            assert crashes >= CRASHES_MAX, f"poison: {place} is given up after {crashes} crashes"

    def drained(self, shard: Shard) -> None:
        assert not self._stored.suspects, f"suspects: {self._stored.suspects} are left"
        assert not shard.core.suspects, "suspects are left in memory"
        assert not shard.marks.found(), "marks are left"
