"""The thread that owns a service's connection: callers of all threads hand it calls, and get futures.

It sleeps until there is something to do. Everything that decides is in ``exchange``.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from dispatcher.api import answers, errors
from dispatcher.api.connection import Connection
from dispatcher.api.errors import DispatcherError, NoAnswerError, ShutdownError
from dispatcher.api.exchange import Exchange
from dispatcher.api.frames import FRAME_ITEMS, TOO_LARGE, Call, Single, Sink, frame
from dispatcher.api.futures import running, settle, waits_for_itself
from shards.wire.encoding import pack
from shards.wire.errors import Error
from shards.wire.notification import MADE_KEY
from shards.wire.requests import MESSAGE_BYTES_HARD_MAX

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dispatcher.api.results import Receipt
    from dispatcher.curve import ClientKeys

PENDING_BYTES_MAX = 64 * 2**20
MESSAGES_PER_TURN = 100
WAIT_S_MAX = 10 * 365 * 86_400.0  # of the end; a thread cannot be waited for without a bound and with one beyond
POLL_MAX_S = 3_600.0  # a timeout may be longer than what a poll can be told
EXIT_S = 5.0  # at the end of the program, for what is under way

log = logging.getLogger("dispatcher")
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_inherited: list[Any] = []  # of the parent process: not to be touched, and so never collected


class Engine:
    """Raises ``zmq.ZMQError`` if ``submit`` is no endpoint.

    In a child process that was forked it opens a connection of its own when it is first used there.
    """

    def __init__(
        self,
        submit: str,
        *,
        timeout_s: float = 30.0,
        max_pending: int = 100_000,
        keys: ClientKeys | None = None,
        retries: bool = True,
    ) -> None:
        self.submit = submit
        self.timeout_s = timeout_s
        self.keys = keys
        self._max_pending = max_pending
        self._retries = retries
        self._refuses = False
        self._lock = threading.Lock()
        self._pending = 0
        self._pending_bytes = 0
        self._for_room: list[Future[None]] = []
        self._open()
        _engines.add(self)

    def _open(self) -> None:
        self._incoming: deque[Call | Single | Callable[[], None]] = deque()
        self._is_asleep = False
        self._end_at = math.inf
        self._connection = Connection(self.submit, self.keys)
        self._exchange = Exchange(self.submit, self._connection.why_silent, retries=self._retries)
        self._key = f"{MADE_KEY}{secrets.token_urlsafe(12)}-"
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._has_bell = True  # else its number may be that of somebody else's file
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._is_open = True
        self._thread.start()

    def _leave_to_parent(self) -> None:
        """In a forked child."""
        _inherited.append((self._connection, self._exchange, self._lock))
        self._is_open = False
        self._pending = self._pending_bytes = 0
        self._for_room = []
        if self._has_bell:
            self._has_bell = False
            os.close(self._bell)
        self._lock = threading.Lock()

    # --- for callers -------------------------------------------------------------------------------------------

    def request(
        self, op: str, fields: dict[str, Any], timeout_s: float | None = None, *, even_closing: bool = False
    ) -> Future[dict[str, Any]]:
        """Any operation; a field that is None is left out. The future raises ``DispatcherError``."""
        given = {key: value for key, value in fields.items() if value is not None}
        future: Future[dict[str, Any]] = running()

        def sink(_: Call, message: bytes | None, error: DispatcherError | None) -> None:
            settle(future, None if message is None else answers.read_document(message), error)

        self._ensure_open()
        number = self._exchange.number()
        message = pack({"op": op, "seq": number, **given})
        if len(message) > MESSAGE_BYTES_HARD_MAX:
            raise errors.of(TOO_LARGE)
        self._hand_over(Call(number, message, self.timeout_s if timeout_s is None else timeout_s, sink), even_closing)
        return future

    def submit_one(self, raw: msgspec.Raw, is_made: bool, timeout_s: float | None = None) -> Future[Receipt]:
        """A notification, which ``reserve`` has let in. The future raises ``DispatcherError``."""
        future: Future[Receipt] = running()

        def sink(receipt: Receipt | None, error: DispatcherError | None) -> None:
            self.release(1, len(raw))
            settle(future, receipt, error)

        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        self._hand_over(Single(raw, is_made, timeout_s, time.monotonic() + timeout_s, sink))
        return future

    def encode(self, items: Sequence[Any]) -> tuple[int, bytes]:
        """A frame, which is numbered by this. Raises what ``msgspec`` does for what cannot be sent."""
        self._ensure_open()
        number = self._exchange.number()
        return number, frame(number, items)

    def send(self, call: Call) -> None:
        """A frame of ``encode``, which ``reserve`` has let in."""
        self._hand_over(call)

    def new_key(self) -> str:
        """One that no other notification has, of any process."""
        self._ensure_open()
        return f"{self._key}{self._exchange.number():x}"

    def forget(self, sinks: Collection[Sink]) -> None:
        """Nobody wants the answers to these any more."""
        with contextlib.suppress(ShutdownError):
            self._hand_over(lambda: self._exchange.forget(sinks), even_closing=True)

    # --- room --------------------------------------------------------------------------------------------------

    @property
    def at_once(self) -> int:
        """How many notifications to reserve at most."""
        return max(1, min(FRAME_ITEMS, self._max_pending))

    def reserve(self, count: int, size: int) -> bool:
        """Let in so many notifications and bytes, if there is room. Raises ``ShutdownError``."""
        self._ensure_open()
        with self._lock:
            if self._refuses:
                raise ShutdownError
            if self._pending and (
                self._pending + count > self._max_pending or self._pending_bytes + size > PENDING_BYTES_MAX
            ):
                return False
            self._pending += count
            self._pending_bytes += size
            return True

    def room(self) -> Future[None]:
        """Done when ``reserve`` may succeed that did not."""
        future: Future[None] = running()
        with self._lock:
            if self._pending and not self._refuses:
                self._for_room.append(future)
                return future
        future.set_result(None)
        return future

    def release(self, count: int, size: int) -> None:
        with self._lock:
            self._pending -= count
            self._pending_bytes -= size
            waiting, self._for_room = self._for_room, []
        for future in waiting:
            future.set_result(None)

    # --- the end -----------------------------------------------------------------------------------------------

    @property
    def is_closing(self) -> bool:
        return self._refuses

    def refuse(self) -> None:
        """Take nothing more from now on. What is under way goes on."""
        with self._lock:
            self._refuses = True
            waiting, self._for_room = self._for_room, []
        for future in waiting:
            future.set_result(None)

    def close(self, wait_s: float, *, join: bool = True) -> None:
        """Refuse, wait so long at most for what is under way, and disconnect. Legal more than once."""
        self.refuse()
        if not self._is_open:
            return
        wait_s = min(wait_s, WAIT_S_MAX)
        self._end_at = time.monotonic() + wait_s
        self._ring()
        if join and threading.current_thread() is not self._thread:
            self._thread.join(wait_s + 5.0)

    # --- the thread --------------------------------------------------------------------------------------------

    def _ensure_open(self) -> None:
        if not self._is_open and not self._refuses:
            with self._lock:
                if not self._is_open:
                    self._open()

    def _hand_over(self, what: Call | Single | Callable[[], None], even_closing: bool = False) -> None:
        with self._lock:
            if not self._is_open or (self._refuses and not even_closing):
                raise ShutdownError
            self._incoming.append(what)
            if not self._is_asleep or (type(what) is Single and self._can_wait):
                return
            self._is_asleep = False
            os.eventfd_write(self._bell, 1)

    @property
    def _can_wait(self) -> bool:
        """Whether the last single has time until the next answer: to wake the thread costs more than its work."""
        return self._exchange.is_gathering and len(self._incoming) % FRAME_ITEMS != 0

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        waits_for_itself()
        try:
            self._live()
        except Exception:
            log.exception("the connection to %s has failed; the next call opens another one", self.submit)
        finally:
            self._finish()

    def _live(self) -> None:
        poller = zmq.Poller()
        connection, exchange = self._connection, self._exchange
        poller.register(connection.monitor, zmq.POLLIN)
        poller.register(self._bell, zmq.POLLIN)
        poller.register(connection.socket, zmq.POLLIN)
        while True:
            now = time.monotonic()
            _take(self._incoming, exchange, now)
            exchange.on_time(now)
            is_blocked = self._send(now)
            if self._refuses and (now >= self._end_at or (self._end_at < math.inf and not exchange)):
                break
            poller.register(connection.socket, zmq.POLLIN | zmq.POLLOUT if is_blocked else zmq.POLLIN)
            self._is_asleep = True
            wait_s = 0.0 if self._incoming else exchange.wait_s(now)
            if self._end_at < math.inf:
                left_s = max(0.0, self._end_at - now)
                wait_s = left_s if wait_s is None else min(wait_s, left_s)
            ready = dict(poller.poll(None if wait_s is None else math.ceil(min(wait_s, POLL_MAX_S) * 1000)))
            self._is_asleep = False
            if self._bell in ready:
                os.eventfd_read(self._bell)
            if connection.monitor in ready and connection.was_lost():
                exchange.on_lost()
            if ready.get(connection.socket, 0) & zmq.POLLIN:
                self._receive(time.monotonic())

    def _send(self, now: float) -> bool:
        """Whether something waits for the connection."""
        while (call := self._exchange.outgoing()) is not None:
            if not self._connection.sent(call.message):
                return True
            self._exchange.sent(call, now)
        return False

    def _receive(self, now: float) -> None:
        for _ in range(MESSAGES_PER_TURN):
            message = self._connection.received()
            if message is None:
                return
            try:
                self._exchange.on_message(message, now)
            except msgspec.MsgspecError as error:
                text = f"{self.submit} does not answer as a dispatcher: {error}"
                self._exchange.end_all(NoAnswerError(Error("unavailable", text)))

    def _finish(self) -> None:
        with self._lock:  # from here on another thread may open anew, and that is to be left alone
            self._is_open = self._has_bell = False
            connection, exchange, incoming, bell = self._connection, self._exchange, self._incoming, self._bell
        _take(incoming, exchange, time.monotonic())
        why = "the service was shut down" if self._refuses else "the connection failed"
        text = f"{why} before there was an answer; whether it was taken is not known"
        exchange.end_all(errors.of(Error("unavailable", text)))
        connection.close()
        os.close(bell)


def _take(incoming: deque[Call | Single | Callable[[], None]], exchange: Exchange, now: float) -> None:
    while incoming:
        one = incoming.popleft()
        if isinstance(one, Single):
            exchange.add_single(one)
        elif isinstance(one, Call):
            exchange.add(one, now)
        else:
            one()


def _close_all() -> None:
    """At the end of a program that has not shut its services down."""
    for engine in list(_engines):
        engine.close(EXIT_S)


def _leave_all_to_parent() -> None:
    for engine in list(_engines):
        engine._leave_to_parent()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_leave_all_to_parent)
