"""What one turn did, to be stored in one transaction."""

from __future__ import annotations

from array import array
from typing import Any, Literal, NamedTuple

import msgspec

from shards.broadcast import Broadcast
from shards.findings import instant
from shards.frames import Frame, Run
from shards.wire.outbox import DeadLetter

Note = tuple[int | None, str, str]  # of a delivery that failed: next attempt in ms, error class, last error
Place = tuple[int, int]  # a delivery: frame and slot


class Now(NamedTuple):
    """The time of a turn: ``mono`` in seconds for waits and limits, ``wall_us`` since the epoch for records."""

    mono: float
    wall_us: int


class Dead(NamedTuple):
    seq: int
    slot: int
    letter: DeadLetter


class Pause(NamedTuple):
    """Why a channel sends nothing, and since when."""

    reason: Literal["operator", "misconfigured", "no_worker"]
    since_ms: int
    message: str = ""

    @property
    def why(self) -> str:
        """The reason of a delivery that waits for its end."""
        return self.reason if self.reason == "no_worker" else "channel_paused"

    def document(self) -> dict[str, Any]:
        return {"why": self.reason, "message": self.message, **instant("since", self.since_ms)}


class Wait(NamedTuple):
    """What a delivery waits for beside its turn, where its channel is not paused."""

    why: Literal["no_provider", "endpoint"]
    message: str

    def document(self) -> dict[str, Any]:
        return {"why": self.why, "message": self.message}


# One delivery's new word, with its note if it has one.
Result = tuple[Frame, int, int, Note | None]


class Changes:
    def __init__(self) -> None:
        self.frames: list[Frame] = []  # new or changed; each once
        self.results: list[Result] = []  # single changes, to be logged where their frame is not written anyway
        self.dead: list[Dead] = []
        self.revived: list[Place] = []  # dead letters that are none any more
        self.moved: list[int] = []  # frames of which a delivery goes to the inbox instead
        self.acquitted: list[Place] = []  # suspects whose attempt has ended
        self.inbox = array("q")  # user hash, place, user hash, place, ...
        self.inbox_runs: list[Run] = []
        self.broadcasts: dict[str, Broadcast] = {}
        self.pages: list[tuple[str, int]] = []  # a broadcast, and a frame that came of it

    def __bool__(self) -> bool:
        return bool(self.frames or self.dead or self.revived or self.broadcasts)


def decode_notes(blob: bytes | None) -> dict[int, Note]:
    return msgspec.msgpack.decode(blob, type=dict[int, Note]) if blob else {}
