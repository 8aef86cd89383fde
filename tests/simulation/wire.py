"""The world between a shard and the rest, simulated: time, and sockets that lose, repeat and reorder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import zmq

from shards.changes import Now


class Clock:
    """``mono`` only grows; wall time is set and jumps as it does on real machines. Also in the place of ``time``."""

    def __init__(self) -> None:
        self.mono = 1_000.0
        self.wall_us = 1_700_000_000_000_000

    def now(self) -> Now:
        return Now(self.mono, self.wall_us)

    def monotonic(self) -> float:
        return self.mono

    def time_ns(self) -> int:
        return self.wall_us * 1_000

    def advance(self, seconds: float) -> None:
        self.mono += seconds
        self.wall_us += int(seconds * 1e6)


@dataclass
class Faults:
    """Probabilities per message; all zero while the simulation drains."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0

    def stop(self) -> None:
        self.loss = self.duplication = self.reordering = 0.0


class Wire:
    """Messages on several pipes, read from any of them, each in order but for the faults."""

    def __init__(self, random: Random, faults: Faults) -> None:
        self._random = random
        self._faults = faults
        self._pipes: dict[object, deque[bytes]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pipes.values()))

    def put(self, pipe: object, message: bytes) -> None:
        draw = self._random.random
        if draw() < self._faults.loss:
            return
        queue = self._pipes.setdefault(pipe, deque())
        queue.append(message)
        if draw() < self._faults.duplication:
            queue.append(message)
        if draw() < self._faults.reordering:
            self._random.shuffle(queue)

    def get(self) -> bytes | None:
        full = [pipe for pipe, queue in self._pipes.items() if queue]
        return self._pipes[self._random.choice(full)].popleft() if full else None

    def break_off(self) -> None:
        """A peer died: of each pipe, some of what was first is lost."""
        for queue in self._pipes.values():
            for _ in range(self._random.randint(0, len(queue))):
                queue.popleft()


class Inlet:
    """The receiving socket that a shard polls."""

    def __init__(self, wire: Wire, reached: Callable[[str], None]) -> None:
        self.wire = wire
        self._reached = reached

    def poll(self, _timeout_ms: int) -> bool:
        return len(self.wire) > 0

    def recv(self, _flags: int) -> bytes:
        self._reached("before a receive")
        message = self.wire.get()
        if message is None:
            raise zmq.Again
        return message


class Outlet:
    """The sending socket of a shard."""

    def __init__(self, send: Callable[[bytes], None], reached: Callable[[str], None]) -> None:
        self._send = send
        self._reached = reached

    def send(self, message: bytes, _flags: int) -> None:
        self._reached("before a send")
        self._send(message)


class Poller:
    def __init__(self, *inlets: Inlet) -> None:
        self._inlets = inlets

    def poll(self, _timeout_ms: int) -> list[tuple[Inlet, int]]:
        return [(inlet, zmq.POLLIN) for inlet in self._inlets if len(inlet.wire)]
