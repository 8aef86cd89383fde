"""Where tasks end: each worker process counts them in a file of its own, which the benchmark reads meanwhile."""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DIRECTORY, MOST = "BENCH_SINK", "BENCH_TASKS"  # of the environment
WORD = 8


class Sink:
    """How many tasks this process has done, and for each how many seconds it took where the task says when it began."""

    def __init__(self, directory: Path, most: int) -> None:
        with (directory / str(os.getpid())).open("w+b") as file:
            file.truncate(WORD * (most + 1))
            self._words = mmap.mmap(file.fileno(), 0)
        self._count = 0

    def add(self, sent: float) -> None:
        elapsed_s = time.monotonic() - sent if sent else 0.0
        self._count += 1
        struct.pack_into("d", self._words, WORD * self._count, elapsed_s)
        struct.pack_into("q", self._words, 0, self._count)


_lock = threading.Lock()
_sinks: dict[int, Sink] = {}


def deliver(document: dict[str, Any]) -> None:
    """The task: it takes a notification and does nothing with it. A worker may fork before the first one."""
    with _lock:  # a worker may have several threads
        sink = _sinks.get(os.getpid())
        if sink is None:
            sink = _sinks[os.getpid()] = Sink(Path(os.environ[DIRECTORY]), int(os.environ[MOST]))
        sink.add(document["payload"]["sent"])


def done(directory: Path) -> int:
    """How many tasks all processes have done."""
    return sum(len(times) for times in _times(directory))


def elapsed_s(directory: Path) -> list[float]:
    """Of the tasks that said when they began, in order."""
    return sorted(one for times in _times(directory) for one in times if one)


def _times(directory: Path) -> Iterator[memoryview[float]]:
    for path in directory.iterdir():
        data = path.read_bytes()
        if data:  # else it is just being made
            (count,) = struct.unpack_from("q", data)
            yield memoryview(data)[WORD : WORD * (count + 1)].cast("d")
