"""A service that takes so many requests a second, and answers 429 to what is over."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque

from tests.support.endpoint import Endpoint, Request, answer


class ThrottledEndpoint(Endpoint):
    """``rate`` in any second; 0 takes everything. ``asks`` is the ``Retry-After`` of what it refuses, if it has one."""

    def __init__(self, rate: int, asks: str = "") -> None:
        super().__init__()
        self.rate = rate
        self.refused = 0
        self._refusal = answer(429, **({"Retry_After": asks} if asks else {}))
        self._times: deque[float] = deque()
        self._turn = threading.Lock()

    def _answer(self, connection: socket.socket, request: Request) -> None:
        if self._takes():
            super()._answer(connection, request)
        else:
            connection.sendall(self._refusal)

    def _takes(self) -> bool:
        now = time.monotonic()
        with self._turn:
            while self._times and self._times[0] <= now - 1.0:
                self._times.popleft()
            if self.rate and len(self._times) >= self.rate:
                self.refused += 1
                return False
            self._times.append(now)
            return True
