"""The ids in receipts: opaque to others, to us a place in a journal. They outlive the journal they were given in."""

from __future__ import annotations

from typing import Protocol

from shards.wire.ids import make_id, parse_id

SEQ_MAX = 2**47  # far beyond any; a place must fit SQLite's integers


class Origins(Protocol):
    """What a journal knows of where its frames came from."""

    def origin(self, seq: int) -> tuple[str, int]:
        """The generation that numbered a frame first, and its number there."""

    def seq_of(self, generation: str, old: int) -> int | None:
        """The frame that had this number there; None if none came from it."""


class Identifiers:
    """An id keeps naming its first place, wherever a new number of shards or a rescue has moved the frame."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins

    def make(self, user_hash: int, seq: int, index: int) -> str:
        generation, old = self._origins.origin(seq)
        return make_id(generation, user_hash, old, index)

    def find(self, text: str) -> tuple[int, int, int] | None:
        """``(user hash, seq, index)``; None if this journal has no such frame. ``RequestError`` if it is no id."""
        generation, user_hash, old, index = parse_id(text)
        seq = self._origins.seq_of(generation, old) if old <= SEQ_MAX else None
        return None if seq is None else (user_hash, seq, index)
