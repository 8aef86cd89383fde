"""Producers for the benchmarks that need a running service: as many batches as it takes, pipelined, with receipts."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

import msgspec
import zmq

from shards.wire.encoding import pack
from shards.wire.notification import Notification

WINDOW = 8
ANSWER_S = 60.0


class Submitter:
    """One DEALER; a context manager."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.connect(endpoint)

    def submit(self, batches: Iterable[list[Notification]]) -> int:
        """How many notifications were accepted; returns when all are acknowledged."""
        waiting: dict[int, bytes] = {}
        accepted = 0
        for seq, batch in enumerate(batches):
            waiting[seq] = pack({"op": "submit", "seq": seq, "notifications": batch})
            self._socket.send_multipart([b"", waiting[seq]])
            while len(waiting) >= WINDOW:
                accepted += self._receive(waiting)
        while waiting:
            accepted += self._receive(waiting)
        return accepted

    def _receive(self, waiting: dict[int, bytes]) -> int:
        if not self._socket.poll(int(ANSWER_S * 1000)):
            raise TimeoutError(f"no receipt within {ANSWER_S:g} s")
        answer = msgspec.msgpack.decode(self._socket.recv_multipart()[1])
        if answer["ok"]:
            del waiting[answer["seq"]]
            return int(answer["accepted"])
        if answer["error"]["code"] not in ("overloaded", "unavailable"):
            raise RuntimeError(f"a submit was refused: {answer['error']}")
        self._socket.send_multipart([b"", waiting[answer["seq"]]])
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)
