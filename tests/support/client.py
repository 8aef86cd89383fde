"""A client of the public sockets, written from docs/protocol.md alone: it shares no code with the dispatcher."""

from __future__ import annotations

import itertools
import json
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec
import zmq


class Keys(NamedTuple):
    """What a client needs where the dispatcher asks for CURVE."""

    server: bytes
    public: bytes
    secret: bytes

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        socket.curve_serverkey = self.server
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret


class SubmitClient:
    """One DEALER on ``submit``; requests one after the other. A context manager."""

    def __init__(self, endpoint: str, timeout_s: float = 10.0, keys: Keys | None = None) -> None:
        self._timeout_s = timeout_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        if keys:
            keys.apply(self._socket)
        self._socket.connect(endpoint)
        self._numbers = itertools.count(1)

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer's document; fails the test if it is not ``ok``."""
        answer = self._numbered(op, fields)
        assert answer["ok"], f"{op} {fields}: {answer['error']}"
        return answer

    def refused(self, op: str, **fields: Any) -> dict[str, Any]:
        """The error of a request that must fail."""
        answer = self._numbered(op, fields)
        assert not answer["ok"], f"{op} {fields} is not refused: {answer}"
        return dict(answer["error"])

    def submit(self, *notifications: dict[str, Any]) -> dict[str, Any]:
        return self.request("submit", notifications=list(notifications))

    def pipelined(self, *requests: dict[str, Any]) -> list[dict[str, Any]]:
        """All requests at once; the answers in the order of the requests."""
        first = next(self._numbers)
        for number, request in enumerate(requests, first):
            self._socket.send_multipart([b"", msgspec.msgpack.encode({**request, "seq": number})])
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < len(requests):
            answer = msgspec.msgpack.decode(self._receive())
            answers[answer["seq"]] = answer
        self._numbers = itertools.count(first + len(requests))
        return [answers[number] for number in range(first, first + len(requests))]

    def exchange(self, document: Any, *, as_json: bool) -> dict[str, Any]:
        """Any document out, and the answer, which must have the same encoding."""
        body = json.dumps(document).encode() if as_json else msgspec.msgpack.encode(document)
        answer = self.exchange_bytes(body)
        return dict(json.loads(answer) if as_json else msgspec.msgpack.decode(answer))

    def exchange_bytes(self, body: bytes) -> bytes:
        self._socket.send_multipart([b"", body])
        return self._receive()

    def _numbered(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send_multipart([b"", msgspec.msgpack.encode({"op": op, "seq": number, **fields})])
        while True:
            answer: dict[str, Any] = msgspec.msgpack.decode(self._receive())
            if answer.pop("seq", None) == number:  # others are of requests that were given up
                return answer

    def _receive(self) -> bytes:
        assert self._socket.poll(int(self._timeout_s * 1000)), f"no answer within {self._timeout_s:g} s"
        delimiter, body = self._socket.recv_multipart()
        assert delimiter == b""
        return body

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Subscriber:
    """A SUB on ``stream``. Subscriptions take a moment to arrive: wait for a first document before relying on them."""

    def __init__(self, endpoint: str, *prefixes: bytes, keys: Keys | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.LINGER, 0)
        if keys:
            keys.apply(self._socket)
        for prefix in prefixes:
            self._socket.subscribe(prefix)
        self._socket.connect(endpoint)

    def read(self, timeout_s: float) -> tuple[bytes, dict[str, Any]] | None:
        """The next topic and document; None if none comes in time."""
        if not self._socket.poll(int(timeout_s * 1000)):
            return None
        topic, document = self._socket.recv_multipart()
        return topic, dict(json.loads(document))

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
