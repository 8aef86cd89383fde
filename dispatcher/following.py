"""A user's in-app notifications as they are delivered: the stream tells at once, the inbox tells all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq

from dispatcher.client import POLL_MS, Client, ClientError
from dispatcher.curve import ClientKeys

SUBMIT = "tcp://127.0.0.1:7712"
STREAM = "tcp://127.0.0.1:7713"
CHECK_S = 5.0  # without news the inbox is asked this often: nothing comes after the last document that got lost
ANSWER_S = 2.0  # without an answer it is asked again
AWAY = ("unavailable", "overloaded")
PAGE = 500


def follow(
    user_id: str,
    after: int = 0,
    *,
    submit: str = SUBMIT,
    stream: str = STREAM,
    keys: ClientKeys | None = None,
    stopping: threading.Event | None = None,
) -> Generator[dict[str, Any], None, None]:
    """The items of ``inbox.list`` with a cursor above ``after``, each once and in order, for ever.

    The ``cursor`` of the last one that was dealt with is what to go on after. It ends once ``stopping`` is set. A
    dispatcher that is away is waited for; what it refuses raises ``ClientError``.
    """
    stopping = stopping or threading.Event()
    check_at = 0.0
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with context.socket(zmq.SUB) as socket, Client(submit, ANSWER_S, keys) as client:
            socket.set(zmq.LINGER, 0)
            if keys:
                keys.apply(socket)
            socket.subscribe(b"inapp." + user_id.encode() + b"\0")
            socket.connect(stream)
            while not stopping.is_set():
                item = msgspec.json.decode(socket.recv_multipart()[1]) if socket.poll(POLL_MS) else None
                if item["cursor"] <= after if item else time.monotonic() < check_at:
                    continue
                try:
                    for each in [item] if item and item["cursor"] == after + 1 else _inbox(client, user_id, after):
                        after = each["cursor"]
                        yield each
                except ClientError as error:
                    if error.error.code not in AWAY:
                        raise
                    continue
                check_at = time.monotonic() + CHECK_S
    finally:
        context.term()


def _inbox(client: Client, user_id: str, after: int) -> Iterator[dict[str, Any]]:
    cursor: int | None = after
    while cursor is not None:
        page = client.request("inbox.list", user_id=user_id, cursor=cursor, limit=PAGE)
        yield from page["items"]
        cursor = page["next"]


class Following:
    """``follow`` in a thread of its own, which calls ``callback`` with each item. A context manager.

    ``cursor`` is that of the last item of which the callback has returned. An exception in the callback ends it:
    ``stop`` raises it.
    """

    def __init__(
        self,
        user_id: str,
        callback: Callable[[dict[str, Any]], object],
        after: int = 0,
        *,
        submit: str = SUBMIT,
        stream: str = STREAM,
        keys: ClientKeys | None = None,
    ) -> None:
        self.cursor = after
        self._callback = callback
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._items = follow(user_id, after, submit=submit, stream=stream, keys=keys, stopping=self._stopping)
        self._thread = threading.Thread(target=self._run, name=f"following {user_id:.40}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for item in self._items:
                self._callback(item)
                self.cursor = item["cursor"]
        except Exception as error:  # noqa: BLE001 - the callback's, handed to whoever stops
            self._error = error
        finally:
            self._items.close()

    def stop(self) -> None:
        """Returns when the callback will be called no more. Legal more than once."""
        self._stopping.set()
        self._thread.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
