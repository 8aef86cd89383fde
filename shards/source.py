"""A journal that others are made from: its frames as they are now, and what goes along with each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shards import ledger
from shards.changes import Place, decode_notes
from shards.cutting import Part
from shards.digests import PLACE_SHIFT, Digest
from shards.ledger import words
from shards.marks import Mark
from shards.reader import Loss, Reader
from shards.schema import DamagedError
from shards.tables.state import State

_results = msgspec.msgpack.Decoder(list[tuple[int, int, int, tuple[int | None, str, str] | None]])


class Found(NamedTuple):
    """A frame as a source has it, under its number there."""

    source: Source
    seq: int
    part: Part


class Source:
    """A journal to take from. ``losses`` makes reading it tolerant; ``fallback`` is for one whose ``meta`` is lost."""

    def __init__(
        self,
        path: Path,
        marks: Iterable[Mark] = (),
        losses: list[Loss] | None = None,
        fallback: tuple[str, Sequence[str]] = ("", ()),
    ) -> None:
        self.path = path
        self.reader = Reader(path, losses)
        self.losses = losses
        try:
            self._begin(marks, fallback)
        except BaseException:
            self.reader.close()
            raise

    def _begin(self, marks: Iterable[Mark], fallback: tuple[str, Sequence[str]]) -> None:
        """All but the frames, which are read one by one."""
        reader = self.reader
        known = reader.meta()
        self.generation = str(known.get("generation", fallback[0]))
        self.channels = (
            msgspec.msgpack.decode(known["channels"], type=list[str]) if "channels" in known else list(fallback[1])
        )
        self.merged = int(known.get("merged", 0))  # up to here, frames have the same number in all sources
        row = reader.row("state", 1)
        self.state = msgspec.msgpack.decode(row[1], type=State) if row else None
        numbered = len(self.state.counters.channels) if self.state else 0
        self.channels += [f"channel-{number}" for number in range(len(self.channels), numbered)]
        self.total = reader.count("frames")
        self.digests = [msgspec.msgpack.decode(row[-1], type=Digest) for row in reader.rows("digests")]
        self._gathered = set(self._items())
        self.waiting: set[int] = set()  # of these, those that were found to wait
        self._numbers = (array("q"), array("q"))  # a frame's number here, and its new one
        self._results: dict[int, list[tuple[int, int, int, Any]]] = {}
        for number, blob, _ in reader.rows("results"):
            for seq, slot, value, note in _results.decode(blob):
                self._results.setdefault(seq, []).append((number, slot, value, note))
        self._origins = list(reader.rows("origins"))
        self._origin = 0
        self._dead = reader.rows("dead")
        self._next_dead = next(self._dead, None)
        self.suspects: dict[Place, int] = {(seq, slot): crashes for seq, slot, crashes in reader.rows("suspects")}
        suspected = frozenset(self.suspects)
        for mark in marks:
            place = mark.seq, mark.slot
            if mark.alone or place not in suspected:
                self.suspects[place] = self.suspects.get(place, 0) + 1

    def _items(self) -> Iterator[int]:
        """Of the digests that will be sent, as ``item`` numbers them."""
        for digest in self.digests:
            is_sent = digest.due_ms is not None or self.has_frame((digest.carrier or 0) >> PLACE_SHIFT)
            if is_sent and digest.channel in self.channels:
                channel = self.channels.index(digest.channel)
                yield from (item(place, channel) for place in digest.places)

    def has_frame(self, seq: int) -> bool:
        return self.reader.row("frames", seq) is not None and self.reader.row("ledger", seq) is not None

    def close(self) -> None:
        self.reader.close()

    def frames(self) -> Iterator[Found]:
        """In their order, with what the log has of their ledgers."""
        seen = 0
        for seq, at_us, source, fanned, inbox, widths, verdict, digests, body, config, rules in self.reader.rows(
            "frames"
        ):
            row = self.reader.row("ledger", seq)
            if row is None:
                if self.losses is None:
                    raise DamagedError(f"{self.path}: frame {seq} has no ledger")
                self.losses.append(Loss("frames", f"frame {seq} has no ledger: {sum(widths)} deliveries"))
                continue
            seen += 1
            _, _, _, updated_ms, log, slots, notes = row
            settled, said = words(slots), decode_notes(notes)
            for number, slot, value, note in self._results.get(seq, ()):
                if number > log:
                    settled[slot] = value
                    if note is not None:
                        said[slot] = note
            self._free(seq, widths, settled)
            part = Part(
                at_us,
                source,
                bool(fanned),
                bool(inbox),
                widths,
                verdict,
                digests,
                body,
                updated_ms,
                settled,
                said,
                config,
                rules,
            )
            yield Found(self, seq, part)
        if self.reader.count("ledger") > seen:
            self._miss_frames()

    def _free(self, seq: int, widths: bytes, slots: array[int]) -> None:
        """What waits for a digest that is not there is decided again: nobody else would."""
        wait = {value for value in set(slots) if waits_for_digest(value)}
        if not wait:
            return
        slot = 0
        for index, width in enumerate(widths):
            for at in range(slot, slot + width):
                value = slots[at]
                if value not in wait:
                    continue
                number = item(seq << PLACE_SHIFT | index, ledger.channel_of(value))
                if number in self._gathered:
                    self.waiting.add(number)
                else:
                    slots[at] = value & ledger.KEEP
                    if self.losses is not None:
                        what = f"position {index} of frame {seq} waits for a digest that is not there"
                        self.losses.append(Loss("digests", what))
            slot += width

    def _miss_frames(self) -> None:
        for seq, still_open, _, _, _, slots, _ in self.reader.rows("ledger"):
            if self.new_number(seq) is None:
                what = f"frame {seq} is lost: {len(slots) // 4} deliveries, {still_open} of them not final"
                if self.losses is None:
                    raise DamagedError(f"{self.path}: {what}")
                self.losses.append(Loss("frames", what))

    def origin(self, seq: int) -> tuple[str, int]:
        """Asked in rising order."""
        origins = self._origins
        while self._origin < len(origins) and seq >= origins[self._origin][0] + origins[self._origin][1]:
            self._origin += 1
        if self._origin < len(origins) and seq >= origins[self._origin][0]:
            first, _, generation, old = origins[self._origin]
            return generation, old + seq - first
        return self.generation, seq

    def dead_upto(self, seq: int) -> Iterator[tuple[Any, ...]]:
        """Dead letters of frames up to ``seq``; asked in rising order."""
        while self._next_dead is not None and self._next_dead[0] <= seq:
            yield self._next_dead
            self._next_dead = next(self._dead, None)

    def number(self, seq: int, new: int) -> None:
        self._numbers[0].append(seq)
        self._numbers[1].append(new)

    def new_number(self, seq: int) -> int | None:
        """None of a frame that is no more."""
        at = bisect_left(self._numbers[0], seq)
        return self._numbers[1][at] if at < len(self._numbers[0]) and self._numbers[0][at] == seq else None


def item(place: int, channel: int) -> int:
    """A delivery of a notification, as one number."""
    return place << 8 | channel


def waits_for_digest(value: int) -> bool:
    return ledger.outcome_of(value) == ledger.DEFERRED and ledger.reason_of(value) == ledger.REASON["digest"]
