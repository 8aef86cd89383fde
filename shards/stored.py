"""What the core reads back of what is stored; it never writes by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from shards.broadcasts import Stored as StoredTopics
from shards.deferrals import Timer
from shards.digests import Digest
from shards.digests import Store as StoredDigests
from shards.health import Stored as StoredHealth
from shards.identifiers import Origins
from shards.preferences import UserDocument


class StoredFrame(NamedTuple):
    """A frame as the journal gives it back."""

    seq: int
    at_us: int
    source: int
    fanned: bool
    body: bytes
    widths: bytes
    open: int
    mask: int
    slots: bytes
    notes: bytes | None


class StoredFrames(Protocol):
    def get(self, seq: int) -> StoredFrame | None: ...

    def open(self, lane: int, after: int, count: int) -> Iterator[StoredFrame]: ...

    def content(self, seq: int) -> tuple[bytes, bool, bytes | None] | None: ...


class StoredWaiting(StoredDigests, Protocol):
    def timers(self, lane: int, now_ms: int, count: int) -> list[Timer]: ...

    def due_after(self, lane: int, timers: list[Timer]) -> int | None: ...

    def first_dues(self) -> dict[int, int]: ...

    def deferred(self) -> dict[int, int]: ...

    def first_windows(self) -> dict[int, int]: ...

    def due_windows(self, lane: int, now_ms: int, count: int) -> list[Digest]: ...

    def window_due_after(self, lane: int, now_ms: int) -> int | None: ...

    def digests_at(self, places: Sequence[int]) -> list[Digest]: ...


class StoredUsers(Protocol):
    def get(self, user_id: str) -> UserDocument | None: ...


class Journal(Origins, Protocol):
    """By table."""

    @property
    def frames(self) -> StoredFrames: ...

    @property
    def waiting(self) -> StoredWaiting: ...

    @property
    def users(self) -> StoredUsers: ...

    @property
    def health(self) -> StoredHealth: ...

    @property
    def topics(self) -> StoredTopics: ...
