"""In-app notifications as they are delivered: the stream tells at once, the inbox tells all."""

from __future__ import annotations

import inspect
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec
import zmq

from dispatcher.api.arguments import integer, text
from dispatcher.api.errors import OverloadedError, ShutdownError, UnavailableError
from dispatcher.api.futures import running
from dispatcher.api.results import InboxItem

if TYPE_CHECKING:
    from dispatcher.api.engine import Engine

POLL_MS = 100  # how soon a feed hears that it is to stop
CHECK_S = 5.0  # without news the inbox is asked this often: nothing comes after the last document that got lost
SETTLED_S = 1.0  # from a connection until what comes is heard
ANSWER_S = 2.0  # without an answer it is asked again
PAGE = 500
USERS_MAX = 10_000  # of whom it is known what they had last, where everybody is followed

Items = Generator[InboxItem, None, None]
log = logging.getLogger("dispatcher")
_item = msgspec.json.Decoder(InboxItem).decode


class Feed:
    """The stream and the inboxes of one dispatcher, for one thread. ``stopping`` ends what it gives.

    Raises ``ShutdownError``.
    """

    def __init__(self, engine: Engine, stream: str, stopping: threading.Event) -> None:
        if engine.is_closing:
            raise ShutdownError
        self._engine = engine
        self._stream = stream
        self._stopping = stopping

    def of_user(self, user_id: str, after: int) -> Items:
        """The items with a cursor above ``after``, each once and in order, for ever.

        A dispatcher that is away is waited for; what it refuses raises ``DispatcherError``.
        """
        return self._of_user(text("user_id", user_id), integer("after", after, 0))

    def _of_user(self, user_id: str, after: int) -> Items:
        with self._subscribed(b"inapp." + user_id.encode() + b"\0") as socket:
            check_at = 0.0
            while self._goes_on:
                item = _item(socket.recv_multipart()[1]) if socket.poll(POLL_MS) else None
                if item.cursor <= after if item else time.monotonic() < check_at:
                    continue
                try:
                    for each in [item] if item and item.cursor == after + 1 else self._inbox(user_id, after):
                        after = each.cursor
                        yield each
                except (UnavailableError, OverloadedError):
                    continue
                check_at = time.monotonic() + CHECK_S

    def of_all(self) -> Items:
        """Every user's items from now on, each once, and each user's in order.

        Where the stream leaves some out, as it does when the dispatcher restarts, the inboxes of those users tell.
        """
        last: OrderedDict[str, int] = OrderedDict()
        behind: dict[str, None] = {}  # users of whom items may be missing
        check_at = math.inf
        with self._subscribed(b"inapp.") as socket, socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED) as monitor:
            while self._goes_on:
                if monitor.poll(0):  # connected again, and subscribed in a moment
                    monitor.recv_multipart()
                    check_at = time.monotonic() + SETTLED_S
                if socket.poll(POLL_MS):
                    item = _item(socket.recv_multipart()[1])
                    known = last.get(item.user_id)
                    if known is None or item.cursor == known + 1:
                        _remember(last, item)
                        yield item
                    elif item.cursor > known:
                        behind[item.user_id] = None
                if time.monotonic() >= check_at:
                    check_at = math.inf
                    behind |= dict.fromkeys(last)
                for user_id in list(behind):
                    try:
                        for item in self._inbox(user_id, last[user_id]):
                            _remember(last, item)
                            yield item
                    except (UnavailableError, OverloadedError):
                        break
                    except KeyError:
                        pass  # it was so long ago that it is not remembered
                    del behind[user_id]
            socket.disable_monitor()

    @property
    def _goes_on(self) -> bool:
        return not self._stopping.is_set() and not self._engine.is_closing

    def _subscribed(self, prefix: bytes) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
        socket.set(zmq.LINGER, 0)
        if self._engine.keys:
            self._engine.keys.apply(socket)
        socket.subscribe(prefix)
        socket.connect(self._stream)
        return socket

    def _inbox(self, user_id: str, after: int) -> Iterator[InboxItem]:
        cursor: int | None = after
        while cursor is not None:
            page = self._answer(self._engine.request("inbox.list", _asked(user_id, cursor), ANSWER_S))
            yield from msgspec.convert(page["items"], list[InboxItem])
            cursor = page["next"]

    def _answer(self, future: Future[dict[str, Any]]) -> dict[str, Any]:
        while self._goes_on:
            wait([future], POLL_MS / 1000)
            if future.done():
                return future.result()
        raise ShutdownError


def _asked(user_id: str, cursor: int) -> dict[str, Any]:
    return {"user_id": user_id, "cursor": cursor, "limit": PAGE}


def _remember(last: OrderedDict[str, int], item: InboxItem) -> None:
    last[item.user_id] = item.cursor
    last.move_to_end(item.user_id)
    if len(last) > USERS_MAX:
        last.popitem(last=False)


def check_callback(callback: object) -> None:
    if not callable(callback):
        raise TypeError(f"callback must be a function of an item, and not {type(callback).__name__}")


class Subscription:
    """Calls ``callback`` with each item, one after the other, in a thread of its own. A context manager.

    ``cursor`` is that of the last item of which the callback has returned: what to go on after the next time. An
    exception in the callback is logged and ends the subscription, so that no item is passed over; ``stop`` raises it.
    """

    def __init__(
        self,
        engine: Engine,
        stream: str,
        callback: Callable[[InboxItem], object],
        user_id: str | None,
        after: int,
    ) -> None:
        if user_id is None and after:
            raise ValueError("after: a cursor is of one user; name the user_id as well")
        check_callback(callback)
        if inspect.iscoroutinefunction(callback):
            raise TypeError(
                "callback is a coroutine function, which AsyncNotificationService awaits; here give a plain one"
            )
        self.cursor = after
        self.ended: Future[None] = running()
        self._callback = callback
        self._stopping = threading.Event()
        feed = Feed(engine, stream, self._stopping)
        self._items = feed.of_all() if user_id is None else feed.of_user(user_id, after)
        name = f"inapp {user_id or 'of all':.40}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for item in self._items:
                self._callback(item)
                self.cursor = item.cursor
                if self._stopping.is_set():
                    break
        except ShutdownError:
            self.ended.set_result(None)  # of the service, which stops what is left of it
        except Exception as error:
            log.exception("a subscription to in-app notifications has ended")
            self.ended.set_exception(error)
        else:
            self.ended.set_result(None)
        finally:
            self._items.close()

    def stop(self) -> None:
        """Returns when the callback will be called no more; raises what has ended it, once. Legal more than once."""
        self.end()
        if threading.current_thread() is self._thread:
            return
        ended, self.ended = self.ended, running()
        self.ended.set_result(None)
        ended.result()

    def end(self, timeout_s: float | None = None) -> None:
        """``stop`` that raises nothing, and waits so long at most for the callback."""
        self.stop_soon()
        if threading.current_thread() is not self._thread:  # a callback may stop its own subscription
            self._thread.join(timeout_s)

    def stop_soon(self) -> None:
        """Wait for nothing: a callback that is under way is the last one."""
        self._stopping.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
