"""A small client of the ``submit`` socket, as any program might have one; the command line uses it."""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq

from shards.wire import Error


class ClientError(Exception):
    """The dispatcher answered with an error, or not at all."""

    def __init__(self, error: Error) -> None:
        where = f" ({error.field})" if error.field else ""
        super().__init__(f"{error.code}{where}: {error.message}")
        self.error = error


class Answer(msgspec.Struct):
    """What every answer has."""

    ok: bool
    error: Error | None = None


def read_answer(message: bytes) -> dict[str, Any]:
    """An answer's document; ``msgspec.MsgspecError`` if it is none."""
    try:
        document = msgspec.msgpack.decode(message, type=dict[str, Any])
        answer = msgspec.convert(document, Answer)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    if not answer.ok and answer.error is None:
        raise msgspec.DecodeError("it has no error, and is not ok")
    return document


class Client:
    """Requests one after the other, each with a timeout in seconds. A context manager; not for several threads.

    Raises ``zmq.ZMQError`` if ``submit`` is not an endpoint.
    """

    def __init__(self, submit: str = "tcp://127.0.0.1:7712", timeout_s: float = 10.0) -> None:
        self.submit_endpoint = submit
        self._timeout_s = timeout_s
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        try:
            self._socket.connect(submit)
        except zmq.ZMQError:
            self.close()
            raise
        self._numbers = itertools.count(1)

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer's document; raises ``ClientError`` for ``ok: false`` and for silence.

        ``msgspec.MsgspecError`` where whoever listens there is no dispatcher.
        """
        number = next(self._numbers)
        message = {"op": op, "seq": number, **{key: value for key, value in fields.items() if value is not None}}
        self._socket.send_multipart([b"", msgspec.msgpack.encode(message)])
        while self._socket.poll(int(self._timeout_s * 1000)):
            answer = read_answer(self._socket.recv_multipart()[-1])
            if answer.pop("seq", None) != number:
                continue  # of a request that was given up
            if not answer.pop("ok"):
                raise ClientError(msgspec.convert(answer["error"], Error))
            return answer
        raise ClientError(
            Error(
                "unavailable",
                f"no answer from {self.submit_endpoint} within {self._timeout_s:g} s; is the dispatcher running there?",
            )
        )

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
