"""What every child process does at its start: it dies with its parent, says when it is ready, stops when told."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Stop:
    """Set by SIGTERM; the main loop acts on it."""

    def __init__(self) -> None:
        self.requested = False

    def request(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True


def begin_child(role: str) -> tuple[Stop, bytes]:
    """Tie this process to its parent and read its settings, the one line on standard input."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.request)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor stops in order
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
    os.umask(0o077)
    settings = sys.stdin.buffer.readline()
    if not settings:
        raise SystemExit(f"{role} is started by the supervisor, which hands it its settings")
    return stop, settings


def settle_memory() -> None:
    """Keep the collector of cycles off what lives on, and make it rare: the hot paths make no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def say_ready() -> None:
    """Tell the supervisor, after everything is bound."""
    settle_memory()
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def usage() -> dict[str, float]:
    """CPU seconds and resident memory of this process."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "pid": os.getpid(),
        "cpu_s": round(times.ru_utime + times.ru_stime, 3),
        "rss_mb": round(pages * resource.getpagesize() / 2**20, 1),
    }
