"""The link between router and shard: numbered frames down, facts about the journal up."""

from __future__ import annotations

from msgspec import Struct

from shards.wire.errors import Error

SUBMIT, INGEST, UNROUTABLE, EXPANSION = 0, 1, 2, 3  # where a frame's notifications came from
POSITIONS_MAX = 60_000  # of one frame: a position must fit 16 bits in an inbox entry


class Data(Struct, array_like=True, tag="D", gc=False):
    """A numbered frame, router to shard: ``body`` is an encoded list of entries, some of them ``fanned`` out.

    ``at_us`` is when the router had it, in microseconds since the epoch.
    """

    epoch: int
    gen: int
    conn: int
    n: int
    source: int
    at_us: int
    fanned: bool
    body: bytes
    error: Error | None = None  # of UNROUTABLE: why; the body is then the raw message. Of EXPANSION it is a ``Turn``'s


class Ping(Struct, array_like=True, tag="P", gc=False):
    """Sent every 100 ms: ``hi`` is the last number sent on this connection."""

    epoch: int
    gen: int
    conn: int
    hi: int


class Ask(Struct, array_like=True, tag="V", gc=False):
    """The router asks for verdicts whose report was lost with its shard."""

    epoch: int
    gen: int
    numbers: list[int]


ToShard = Data | Ping | Ask


class Duplicate(Struct, array_like=True, gc=False, frozen=True):
    index: int
    id: str
    mismatch: bool


class Rejection(Struct, array_like=True, gc=False, frozen=True):
    index: int
    error: Error
    near: list[str] = []  # of an unknown topic: names that are known here


class Verdict(Struct, array_like=True, gc=False, frozen=True):
    """The exceptions of a frame, by position after fan-out; what is not named here was accepted."""

    duplicates: list[Duplicate] = []
    rejected: list[Rejection] = []


class Report(Struct, array_like=True, tag="A", gc=False):
    """A fact about a shard's journal: of epoch ``(epoch, gen)`` it has the frames up to ``have``.

    ``resend`` makes it a request to send the window again. ``verdicts`` are ``(n, verdict)`` of frames just
    journaled, or of frames that were asked for.
    """

    shard: int
    incarnation: int
    epoch: int
    gen: int
    conn: int
    have: int
    base: int
    generation: str
    resend: bool = False
    verdicts: list[tuple[int, Verdict | None]] = []


class Turn(Struct, array_like=True, tag="B", gc=False):
    """A shard is ready for the next page of a broadcast. It becomes a numbered frame, whose body is ``(id, step)``."""

    shard: int
    id: str
    step: int


class Stalled(Struct, array_like=True, tag="X", gc=False):
    """A shard cannot write its journal; said again and again until a ``Report`` says otherwise."""

    shard: int
    reason: str
