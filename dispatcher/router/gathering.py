"""From pieces to frames: small ones are gathered, so that a shard journals few large frames rather than many small."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

from dispatcher.router.receipts import Receipt
from dispatcher.router.splitter import Piece, Split
from shards.wire.link import INGEST, POSITIONS_MAX, SUBMIT

FRAME_NOTIFICATIONS = 500  # a gathered frame is sent when it has so many, and at the end of the turn
FRAME_BYTES = 262_144


class Part(NamedTuple):
    """Consecutive notifications of a frame that belong to one submit (or to none, from ``ingest``)."""

    receipt: Receipt | None
    positions: list[int] | range
    hashes: array[int]


class Frame(NamedTuple):
    """What one shard gets: an encoded list of entries, and whose they are."""

    shard: int
    source: int
    fanned: bool
    body: bytes
    parts: list[Part]


class Gatherer:
    """Gathers pieces of one shard, one encoding and one source into frames."""

    def __init__(self, shard: int, as_json: bool, source: int) -> None:
        self.shard = shard
        self.as_json = as_json
        self.source = source
        self._entries: list[Any] = []
        self._parts: list[Part] = []
        self._count = 0
        self.size = 0
        self._fanned = False

    def add(self, piece: Piece, receipt: Receipt | None) -> list[Frame]:
        """The frames that are full with this piece."""
        part = Part(receipt, piece.positions, piece.hashes)
        if piece.whole is not None:
            # it must not overtake what was gathered before it
            return [*self.flush(), Frame(self.shard, self.source, piece.fanned, piece.whole, [part])]
        frames = []
        if self._count + len(piece.hashes) > POSITIONS_MAX:
            frames += self.flush()
        self._entries += piece.entries
        self._parts.append(part)
        self._count += len(piece.hashes)
        self.size += piece.size
        self._fanned = self._fanned or piece.fanned
        if self._count >= FRAME_NOTIFICATIONS or self.size >= FRAME_BYTES:
            frames += self.flush()
        return frames

    def flush(self) -> list[Frame]:
        if not self._parts:
            return []
        if self.as_json:
            body = b"[" + b",".join(self._entries) + b"]"
        else:
            body = b"\xdd" + len(self._entries).to_bytes(4, "big") + b"".join(self._entries)
        frame = Frame(self.shard, self.source, self._fanned, body, self._parts)
        self._entries, self._parts = [], []
        self._count = self.size = 0
        self._fanned = False
        return [frame]


class Gathering:
    """All that is being gathered in a turn; ``keep`` gets the frames."""

    def __init__(self, shards: int, keep: Callable[[Frame], None]) -> None:
        self._keep = keep
        self._gatherers = {
            (shard, as_json, source): Gatherer(shard, as_json, source)
            for shard in range(shards)
            for as_json in (False, True)
            for source in (SUBMIT, INGEST)
        }
        self._begun: set[tuple[int, bool, int]] = set()

    def size(self, shard: int, as_json: bool, source: int) -> int:
        """Bytes that are in no frame yet."""
        return self._gatherers[shard, as_json, source].size

    def add(self, found: Split, as_json: bool, source: int, receipt: Receipt | None) -> None:
        for piece in found.pieces:
            key = (piece.shard, as_json, source)
            for frame in self._gatherers[key].add(piece, receipt):
                self._keep(frame)
            self._begun.add(key)

    def flush(self) -> None:
        """At the end of the turn."""
        for key in self._begun:
            for frame in self._gatherers[key].flush():
                self._keep(frame)
        self._begun.clear()
