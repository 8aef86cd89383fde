"""A small client of the ``submit`` socket, as any program might have one; the command line uses it."""

from __future__ import annotations

import itertools
import time
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


class Client:
    """Requests one after the other, each with a timeout in seconds. A context manager; not for several threads.

    ``keys`` are for a dispatcher that asks for CURVE. Raises ``zmq.ZMQError`` if ``submit`` is not an endpoint.
    """

    def __init__(
        self, submit: str = "tcp://127.0.0.1:7712", timeout_s: float = 10.0, keys: ClientKeys | None = None
    ) -> None:
        self.submit_endpoint = submit
        self._timeout_s = timeout_s
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
        number = next(self._numbers)
        message = {"op": op, "seq": number, **{key: value for key, value in fields.items() if value is not None}}
        self._socket.send_multipart([b"", msgspec.msgpack.encode(message)])
        while self._socket.poll(int(self._timeout_s * 1000)):
            answer = msgspec.msgpack.decode(self._socket.recv_multipart()[1])
            if answer.pop("seq", None) != number:
                continue  # of a request that was given up
            if not answer.pop("ok"):
                raise ClientError(msgspec.convert(answer["error"], Error))
            return dict(answer)
        raise ClientError(
            Error(
                "unavailable",
                f"no answer from {self.submit_endpoint} within {self._timeout_s:g} s; {self._guess()}",
            )
        )

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
