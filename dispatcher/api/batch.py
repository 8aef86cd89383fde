"""Many notifications at once: pulled as there is room for them, in frames of 500, of which 32 are under way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from dispatcher.api.errors import DispatcherError, RejectedError, RequestError
from dispatcher.api.exchange import UNDER_WAY
from dispatcher.api.frames import FRAME_BYTES, FRAME_ITEMS, TOO_LARGE, Call
from dispatcher.api.futures import running
from dispatcher.api.keys import UNSENDABLE, Given, encoded, keyed
from dispatcher.api.receiving import Gathering, read_receipt
from dispatcher.api.results import BatchReceipt
from shards.wire.errors import Error
from shards.wire.notification import Notification
from shards.wire.requests import MESSAGE_BYTES_HARD_MAX

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dispatcher.api.engine import Engine
    from dispatcher.api.steps import Steps

NOTIFICATIONS_UNDER_WAY = UNDER_WAY * FRAME_ITEMS
AT_A_TIME = 4  # replies
SUFFIXES = [f"-{at:x}" for at in range(FRAME_ITEMS)]


class Frame:
    """The sink of one frame, in the engine's thread: makes room again, and passes replies on to the batch.

    ``made`` has the places in the batch of those with a key that was made for them.
    """

    __slots__ = ("_engine", "_mailbox", "_size", "first", "left", "made")

    def __init__(
        self, engine: Engine, mailbox: Mailbox, first: int, count: int, size: int, made: Collection[int]
    ) -> None:
        self._engine = engine
        self._mailbox = mailbox
        self.left = count
        self._size = size
        self.first = first
        self.made = made

    def __call__(self, call: Call, message: bytes | None, error: DispatcherError | None) -> None:
        count = len(call.items)
        self.left -= count
        self._engine.release(count, 0 if self.left else self._size)
        self._mailbox.put(Reply(self, call, message, error))


class Reply(NamedTuple):
    """To a frame, or to a part of one."""

    frame: Frame
    call: Call
    message: bytes | None
    error: DispatcherError | None


class Mailbox:
    """Replies on their way from the engine's thread to the steps of one batch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: deque[Reply] = deque()
        self._waiting: Future[None] | None = None
        self._least = 1

    def put(self, reply: Reply) -> None:
        with self._lock:
            self._replies.append(reply)
            if self._waiting is None or len(self._replies) < self._least:
                return
            waiting, self._waiting = self._waiting, None
        waiting.set_result(None)

    def take(self, least: int) -> Steps[list[Reply]]:
        """All that there are, once there are so many: waking for each would cost more than it."""
        with self._lock:
            if len(self._replies) < least:
                self._waiting = waiting = running()
                self._least = least
            else:
                waiting = None
        if waiting is not None:
            yield waiting
        return [self._replies.popleft() for _ in range(len(self._replies))]


class Batch:
    """``are_made``: every notification has a key already, and that was made for it."""

    def __init__(
        self, engine: Engine, notifications: Iterable[Given], timeout_s: float, *, are_made: bool = False
    ) -> None:
        self._engine = engine
        self._source = iter(notifications)
        self._timeout_s = timeout_s
        self._are_made = are_made
        self._gathering = Gathering()
        self._mailbox = Mailbox()
        self._frames: set[Frame] = set()
        self._under_way = 0  # notifications

    def steps(self) -> Steps[BatchReceipt]:
        """Raises what a frame ends with where nobody knows of its notifications, such as ``UnavailableError``."""
        try:
            while chunk := list(islice(self._source, self._engine.at_once)):
                yield from self._submit(chunk)
                if self._under_way >= NOTIFICATIONS_UNDER_WAY:
                    yield from self._take(AT_A_TIME)
            while self._under_way:
                yield from self._take(min(AT_A_TIME, len(self._frames)))
        finally:
            if self._under_way:
                self._engine.forget(self._frames)
        return self._gathering.receipt()

    def _submit(self, chunk: list[Any]) -> Steps[None]:
        first = self._gathering.expect(len(chunk))
        wrong, made = self._give_keys(chunk, first)
        if not wrong:
            try:
                yield from self._send(first, chunk, made)
            except UNSENDABLE:
                wrong = True
            else:
                return
        yield from self._send_one_by_one(first, chunk, made)

    def _give_keys(self, chunk: list[Any], first: int) -> tuple[bool, Collection[int]]:
        """Whether something is no notification, which is a ``RejectedError`` then; and which keys were made."""
        if self._are_made:
            return False, range(first, first + len(chunk))
        without = [
            at
            for at, one in enumerate(chunk)
            if type(one) is not Notification or (one.idempotency_key is None and one.id is None)
        ]
        if not without:
            return False, ()
        base = self._engine.new_key()
        wrong, made = False, []
        for at in without:
            one, key = chunk[at], base + SUFFIXES[at]
            if type(one) is Notification:  # as keyed does it
                chunk[at] = one = one.__copy__()  # type: ignore[attr-defined]  # as in keyed
                one.idempotency_key = key
                made.append(first + at)
                continue
            try:
                chunk[at], is_made = keyed(one, key)
            except TypeError as error:
                chunk[at], wrong = RejectedError(Error("bad_value", str(error))), True
                continue
            except RejectedError as error:
                chunk[at], wrong = error, True
                continue
            if is_made:
                made.append(first + at)
        return wrong, range(first, first + len(chunk)) if len(made) == len(chunk) else frozenset(made)

    def _send_one_by_one(self, first: int, chunk: list[Any], made: Collection[int]) -> Steps[None]:
        """Something in the chunk cannot be sent: send what is between."""
        run: list[Any] = []
        for at, one in enumerate(chunk, first):
            try:
                if isinstance(one, RejectedError):
                    raise one
                run.append(encoded(one))
            except RejectedError as error:
                self._gathering.reject(at, error.error)
                yield from self._send(at - len(run), run, made)
                run = []
        yield from self._send(first + len(chunk) - len(run), run, made)

    def _send(self, first: int, items: list[Any], made: Collection[int]) -> Steps[None]:
        """Raises ``UNSENDABLE`` before anything is sent."""
        if not items:
            return
        number, message = self._engine.encode(items)
        if len(message) > FRAME_BYTES and len(items) > 1:
            middle = len(items) // 2
            yield from self._send(first, items[:middle], made)
            yield from self._send(first + middle, items[middle:], made)
            return
        if len(message) > MESSAGE_BYTES_HARD_MAX:
            self._gathering.reject(first, TOO_LARGE)
            return
        while not self._engine.reserve(len(items), len(message)):
            yield self._engine.room()
        sink = Frame(self._engine, self._mailbox, first, len(items), len(message), made)
        self._frames.add(sink)
        self._under_way += len(items)
        self._engine.send(Call(number, message, self._timeout_s, sink, items))

    def _take(self, least: int) -> Steps[None]:
        for reply in (yield from self._mailbox.take(least)):
            self._read(*reply)

    def _read(self, frame: Frame, call: Call, message: bytes | None, error: DispatcherError | None) -> None:
        self._under_way -= len(call.items)
        if not frame.left:
            self._frames.discard(frame)
        first = frame.first + call.first
        if message is not None:
            self._gathering.take(first, read_receipt(message), frame.made, call.tries > 1)
        elif isinstance(error, RequestError):  # such as too_large, of one that was alone in its frame
            self._gathering.reject(first, error.error)
        elif error is not None:
            raise error
