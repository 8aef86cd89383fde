"""The router's end of the link to one shard: numbered frames, kept until the shard's journal has them.

No sockets here: the owner sends what ``unsent`` gives and hands over the reports. The rules are those of
docs/architecture.md, "The link".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from shards import logs
from shards.wire.errors import Error
from shards.wire.link import Data, Ping, Report

log = logs.logger()

T = TypeVar("T")


class SupersededError(Exception):
    """A shard has seen a newer router: this one must exit."""


class Pending(NamedTuple, Generic[T]):
    """A frame that waits for its shard; ``owner`` is who wants to know of its release."""

    data: Data
    owner: T


class Released(NamedTuple, Generic[T]):
    """A frame that is on disk: its ``seq`` there, and its owner."""

    n: int
    seq: int
    owner: T


class Link(Generic[T]):
    """``window_frames`` and ``window_bytes`` bound what waits."""

    def __init__(self, shard: int, epoch: int, window_frames: int, window_bytes: int) -> None:
        self.shard = shard
        self.epoch = epoch
        self.gen = 0
        self.conn = 1
        self.generation = ""  # of the shard's journal, from its reports
        self._window: deque[Pending[T]] = deque()
        self._bytes = 0
        self._released = 0  # the last number that was released
        self._sent = 0  # the last number sent on this connection
        self._incarnation = 0  # the newest whose greeting was obeyed
        self._frames_max = window_frames
        self._bytes_max = window_bytes

    def __len__(self) -> int:
        return len(self._window)

    @property
    def hi(self) -> int:
        """The last number given out."""
        return self._released + len(self._window)

    def has_room(self, size: int) -> bool:
        """Whether a frame of this size still fits; an empty window takes any."""
        return not self._window or (len(self._window) < self._frames_max and self._bytes + size <= self._bytes_max)

    def add(self, source: int, at_us: int, fanned: bool, body: bytes, owner: T, error: Error | None = None) -> None:
        """Number a frame and keep it."""
        data = Data(self.epoch, self.gen, self.conn, self.hi + 1, source, at_us, fanned, body, error)
        self._window.append(Pending(data, owner))
        self._bytes += len(body)

    def unsent(self) -> Iterator[Data]:
        """Frames that are to be sent on this connection, in order; ``sent`` confirms each."""
        while self._sent < self.hi:
            data = self._window[self._sent - self._released].data
            data.conn, data.gen = self.conn, self.gen
            yield data

    def sent(self) -> None:
        self._sent += 1

    def ping(self) -> Ping:
        return Ping(self.epoch, self.gen, self.conn, self._sent)

    def report(self, report: Report) -> tuple[list[Released[T]], bool]:
        """What the shard's report releases, and whether the owner must reconnect and send the window again.

        Raises ``SupersededError`` where the shard serves a newer router.
        """
        if report.epoch > self.epoch:
            raise SupersededError(
                f"shard {self.shard} serves router epoch {report.epoch}, and this one is {self.epoch}"
            )
        self.generation = report.generation
        ours = report.epoch == self.epoch and report.gen == self.gen
        released = self._release(report.have, report.base) if ours else []
        if not report.resend:
            return released, False
        current = report.conn == self.conn
        if not current and not (report.conn == 0 and report.incarnation > self._incarnation):
            return released, False
        self._incarnation = max(self._incarnation, report.incarnation)
        if current and (report.have if ours else 0) < self._released:
            self._renumber(report)
        self.conn += 1
        self._sent = self._released
        return released, True

    def _release(self, have: int, base: int) -> list[Released[T]]:
        released = []
        while self._released < have and self._window:
            data, owner = self._window.popleft()
            self._bytes -= len(data.body)
            self._released += 1
            released.append(Released(self._released, base + self._released, owner))
        self._sent = max(self._sent, self._released)
        return released

    def _renumber(self, report: Report) -> None:
        """The journal lost frames that it had acknowledged: what is still here starts a new series."""
        log.error(
            "a journal lost frames that it had acknowledged",
            shard=self.shard,
            has=report.have,
            had_acknowledged=self._released,
        )
        self.gen += 1
        self._released = 0
        for n, pending in enumerate(self._window, 1):
            pending.data.n = n
