"""Many requests at once over one DEALER, told apart by ``seq``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq

AT_ONCE = 50
ANSWER_S = 5.0
TRIES = 10


class Pipeline:
    """A context manager; not for several threads."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, 0)
        self._socket.set(zmq.RECONNECT_IVL, 20)
        self._socket.connect(endpoint)
        self._last = 0

    def send(self, seq: int, request: dict[str, Any]) -> None:
        self._socket.send_multipart([b"", msgspec.msgpack.encode({**request, "seq": seq})])

    def answers(self, wait_s: float) -> Iterator[dict[str, Any]]:
        """What has come, after waiting for the first at most so long."""
        wait_ms = int(wait_s * 1000)
        while self._socket.poll(wait_ms):
            yield msgspec.msgpack.decode(self._socket.recv_multipart()[1])
            wait_ms = 0

    def exchange(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers in the order of the requests; sent again where there is none, or where it is ``unavailable``."""
        found: dict[int, dict[str, Any]] = {}
        base = self._last
        self._last += len(requests)
        waiting: set[int] = set()
        unsent = list(range(len(requests)))[::-1]
        silent = 0
        while len(found) < len(requests):
            while unsent and len(waiting) < AT_ONCE:
                at = unsent.pop()
                waiting.add(at)
                self.send(base + at, requests[at])
            came = False
            for answer in self.answers(ANSWER_S):
                at = answer["seq"] - base
                if at in waiting:
                    came = True
                    waiting.discard(at)
                    if answer["ok"] or answer["error"]["code"] not in ("unavailable", "overloaded"):
                        found[at] = answer
                    else:
                        unsent.append(at)
            silent = 0 if came else silent + 1
            assert silent < TRIES, f"no answer within {TRIES * ANSWER_S:g} s to {requests[min(waiting)]}"
            if not came:
                unsent += waiting
                waiting.clear()
        return [found[at] for at in range(len(requests))]

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
