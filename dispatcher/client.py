"""A small client of the ``submit`` socket, as any program might have one; the command line uses it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from dispatcher.curve import ClientKeys
from shards.wire import Error

PROBE_S = 0.5


class ClientError(Exception):
    """The dispatcher answered with an error, or not at all."""

    def __init__(self, error: Error) -> None:
        where = f" ({error.field})" if error.field else ""
        super().__init__(f"{error.code}{where}: {error.message}")
        self.error = error


class NoAnswerError(ClientError):
    """Nobody answered in time: the result is not known."""


class Answer(msgspec.Struct):
    """What every answer has."""

    ok: bool
    error: Error | None = None


def read_answer(message: bytes) -> tuple[Error | None, dict[str, Any]]:
    """An answer's error or document; ``msgspec.MsgspecError`` if it is none, as no dispatcher sends it."""
    try:
        document = msgspec.msgpack.decode(message, type=dict[str, Any])
        answer = msgspec.convert(document, Answer)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    if not answer.ok and answer.error is None:
        raise msgspec.DecodeError("it has no error, and is not ok")
    del document["ok"]
    return answer.error, document


POLL_MS = 100  # a signal that comes just before a poll is seen after it
PIPELINE_MAX = 1_000  # requests under way at once, far below what the dispatcher allows all its clients together


class Client:
    """Requests, each with a timeout in seconds. A context manager; not for several threads.

    ``keys`` are for a dispatcher that asks for CURVE. Raises ``zmq.ZMQError`` if ``submit`` is not an endpoint.
    """

    def __init__(
        self, submit: str = "tcp://127.0.0.1:7712", timeout_s: float = 10.0, keys: ClientKeys | None = None
    ) -> None:
        self.submit_endpoint = submit
        self._timeout_s = timeout_s
        self.on_wait: Callable[[], None] = lambda: None  # is called about every ``POLL_MS`` of a wait for an answer
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._keys = keys
        if keys:
            keys.apply(self._socket)
        try:
            self._socket.connect(submit)
        except zmq.ZMQError:
            self.close()
            raise
        self._numbers = itertools.count(1)

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer's document; raises ``ClientError`` for ``ok: false`` and for silence."""
        number = self._send(op, fields)
        while True:
            answered, error, answer = self._receive()
            if answered != number:
                continue  # of a request that was given up
            if error is not None:
                raise ClientError(error)
            return answer

    def pipelined(self, op: str, requests: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Error | None]]:
        """Many requests under way at once: the place of each, from 0, and its error, as the answers come.

        Raises ``NoAnswerError`` once no answer comes within the timeout.
        """
        waiting: dict[int, int] = {}
        for place, fields in enumerate(requests):
            waiting[self._send(op, fields)] = place
            if len(waiting) >= PIPELINE_MAX:
                while len(waiting) > PIPELINE_MAX // 2:  # one at a time would wake every process for each request
                    yield from self._answered(waiting)
        while waiting:
            yield from self._answered(waiting)

    def _answered(self, waiting: dict[int, int]) -> Iterator[tuple[int, Error | None]]:
        number, error, _ = self._receive()
        if number in waiting:
            yield waiting.pop(number), error

    def _send(self, op: str, fields: dict[str, Any]) -> int:
        number = next(self._numbers)
        message = {"op": op, "seq": number, **{key: value for key, value in fields.items() if value is not None}}
        self._socket.send_multipart([b"", msgspec.msgpack.encode(message)])
        return number

    def _receive(self) -> tuple[int, Error | None, dict[str, Any]]:
        """The number of the request, and its error or its answer."""
        deadline = time.monotonic() + self._timeout_s
        while not self._socket.poll(min(POLL_MS, max(0, int((deadline - time.monotonic()) * 1000)))):
            if time.monotonic() < deadline:
                self.on_wait()
                continue
            text = f"no answer from {self.submit_endpoint} within {self._timeout_s:g} s; {self._guess()}"
            raise NoAnswerError(Error("unavailable", text))
        error, answer = read_answer(self._socket.recv_multipart()[-1])
        return answer.pop("seq", None), error, answer

    def _guess(self) -> str:
        """Why there is no answer, by what becomes of another connection."""
        seen: set[int] = set()
        events = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
        with self._context.socket(zmq.DEALER) as probe, probe.get_monitor_socket(events) as monitor:
            if self._keys:
                self._keys.apply(probe)
            probe.connect(self.submit_endpoint)
            end = time.monotonic() + PROBE_S
            while zmq.EVENT_HANDSHAKE_SUCCEEDED not in seen and monitor.poll(
                int(max(0.0, end - time.monotonic()) * 1000)
            ):
                seen.add(recv_monitor_message(monitor)["event"])
            probe.disable_monitor()
        if zmq.EVENT_CONNECTED not in seen or zmq.EVENT_HANDSHAKE_SUCCEEDED in seen:
            return "is the dispatcher running there?"
        if self._keys is None:
            return "it asks for keys: name yours (--secret-key) and the server's (--server-key)"
        key = self._keys.own.public.decode()
        return f"it refuses the keys: is {key} on its allow-list, is the server's key right, has it CURVE at all?"

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
