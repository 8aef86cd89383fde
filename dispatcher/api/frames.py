"""What is sent: a message, and a notification that is to become a part of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from dispatcher.api.errors import DispatcherError
from dispatcher.api.results import Receipt
from shards.wire.encoding import pack
from shards.wire.errors import Error
from shards.wire.requests import MESSAGE_BYTES_HARD_MAX

FRAME_ITEMS = 500  # notifications; more gain nothing
FRAME_BYTES = 1_000_000  # below what a dispatcher takes by default

TOO_LARGE = Error("too_large", f"it is larger than any dispatcher takes: {MESSAGE_BYTES_HARD_MAX} bytes")

Sink = Callable[["Call", bytes | None, DispatcherError | None], None]


class Call:
    """One message, and who wants its answer: ``sink`` is given that or an error, once.

    ``items`` are a frame's notifications, and ``first`` is the place of the first one among the sender's. Where such a
    frame is halved, the sink is called for each part.
    """

    __slots__ = (
        "deadline", "due", "first", "is_queued", "items", "last", "message", "not_taken", "number", "sink", "timeout_s",
        "tries",
    )  # fmt: skip

    def __init__(
        self, number: int, message: bytes, timeout_s: float, sink: Sink, items: Sequence[Any] = (), first: int = 0
    ) -> None:
        self.number = number
        self.message = message
        self.timeout_s = timeout_s
        self.sink = sink
        self.items = items
        self.first = first
        self.deadline = math.inf
        self.due = math.inf  # when it is sent again
        self.tries = 0
        self.not_taken = 0  # of the tries, those that are known to have come to nothing
        self.is_queued = False
        self.last: Error | None = None  # what the last try was answered


class Single:
    """A notification that is to be gathered, as MessagePack; ``is_made``: its key was made for it."""

    __slots__ = ("deadline", "is_made", "raw", "sink", "timeout_s")

    def __init__(
        self,
        raw: msgspec.Raw,
        is_made: bool,
        timeout_s: float,
        deadline: float,
        sink: Callable[[Receipt | None, DispatcherError | None], None],
    ) -> None:
        self.raw = raw
        self.is_made = is_made
        self.timeout_s = timeout_s
        self.sink = sink
        self.deadline = deadline


def frame(number: int, items: Sequence[Any]) -> bytes:
    return pack({"op": "submit", "seq": number, "notifications": items})
