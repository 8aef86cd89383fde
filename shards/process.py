"""What every child process does at its start: it dies with its parent, says when it is ready, stops when told.

A child is told in two lines on standard input: who it is, and its settings. Two such lines in a file, and SIGHUP, tell
it to go by other settings from then on. It says how it is in lines on standard output: ``ready``, ``ready suspects``
(its predecessor died while deliveries were under way, and may have died of one), ``failed`` and why, ``reloaded`` and
the version of the configuration that it now goes by; a router says ``reload`` and a number where a client asks for it,
and ``put`` and a number where all that was asked up to that one is to keep templates; a shard says ``knew`` and a name
for each channel that there was once and is no more, before it is ready.
Any other line, such as ``working``, means that a long start goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn

import msgspec

from shards import logs

PR_SET_PDEATHSIG = 1
STDOUT = 1
WRONG_CONFIGURATION = 2  # the exit code of a process that no other start would help
WORDS_MAX = 1_000

log = logs.logger()


class Bell:
    """Readable from ``ring`` to ``hear``: ends a poll, which would go on waiting after the handler of a signal."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._event

    def ring(self) -> None:
        os.eventfd_write(self._event, 1)

    def hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)


class Stop:
    """What signals ask for; the main loop acts on it, after ``bell``. ``requested`` is the end, by SIGTERM."""

    def __init__(self) -> None:
        self.bell = Bell()
        self.requested = False
        self.process = ""  # whose signals these are
        self._reload = False

    def request(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True
        self.bell.ring()

    def request_reload(self, _signal: int, _frame: FrameType | None) -> None:
        self._reload = True
        self.bell.ring()

    def other_settings(self) -> bytes | None:
        """Once after SIGHUP, those that are to be gone by from now on. Where none are laid out, it was not for us."""
        if not self._reload:
            return None
        self._reload = False
        try:
            first, settings = settings_file(self.process).read_bytes().splitlines()
        except FileNotFoundError:
            return None
        _set_up_log(msgspec.json.decode(first, type=Origin))
        return settings


class Origin(msgspec.Struct, frozen=True):
    """Who a child is: the name that its log lines have, and the process that it must not outlive."""

    process: str
    parent: int
    log: logs.LogSettings


def handover(process: str, log: logs.LogSettings, settings: bytes) -> bytes:
    """What a child of this process is given on standard input; ``begin_child`` reads it."""
    return msgspec.json.encode(Origin(process, os.getpid(), log)) + b"\n" + settings + b"\n"


def settings_file(process: str) -> Path:
    """Where the supervisor lays out other settings, in the data directory."""
    return Path("run") / f"settings-{process.replace(' ', '-')}"


def begin_child(role: str) -> tuple[Stop, bytes]:
    """Tie this process to its parent, set up its log, and read its settings."""
    _tie_to_parent()
    _supervisor()
    os.dup2(logs.STDERR, STDOUT)  # what a plug-in or a library prints is for the log,
    sys.stdout = sys.stderr  # line by line
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.request)
    signal.signal(signal.SIGHUP, stop.request_reload)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor stops in order
    os.umask(0o077)
    _statm()
    first, settings = sys.stdin.buffer.readline(), sys.stdin.buffer.readline()
    if not settings:
        raise SystemExit(f"{role} is started by the supervisor, which hands it its settings")
    origin = msgspec.json.decode(first, type=Origin)
    if os.getppid() != origin.parent:
        raise SystemExit(1)  # it died before this process was tied to it
    stop.process = origin.process
    _set_up_log(origin)
    return stop, settings


def _tie_to_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def die_with(parent: int) -> None:
    """Be killed when this process, which has started us, ends."""
    _tie_to_parent()
    if os.getppid() != parent:
        raise SystemExit(1)  # it ended before


def _set_up_log(origin: Origin) -> None:
    logs.configure(origin.process, origin.log)
    sys.excepthook = _crash


def _crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logs.log_uncaught(kind, error, trace)
    say(f"failed {kind.__name__}: {error}")


def fail(why: str, code: int = 1) -> NoReturn:
    """End this process for a reason that is no bug; ``why`` is for the operator, and names the remedy."""
    log.critical("failed", error=why)
    say(f"failed {why}")
    raise SystemExit(code)


def settle_memory() -> None:
    """Keep the collector of cycles off what lives on, and make it rare: the hot paths make no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def say(words: str) -> None:
    """Tell the supervisor something, as one line."""
    line = " ".join(words.split())[:WORDS_MAX] + "\n"
    os.write(_supervisor(), line.encode(errors="backslashreplace"))


def say_ready(suspects: bool = False) -> None:
    """Tell the supervisor, after everything is bound; ``suspects`` as the module's first lines say."""
    settle_memory()
    say("ready suspects" if suspects else "ready")


@functools.cache
def _supervisor() -> int:
    """What standard output was at the start."""
    return os.dup(STDOUT)


@functools.cache
def _statm() -> int:
    """Open for good, so that ``usage`` needs no descriptor where there is none left."""
    return os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)


def usage() -> dict[str, float]:
    """CPU seconds and resident memory of this process."""
    times = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(os.pread(_statm(), 200, 0).split()[1])
    return {
        "pid": os.getpid(),
        "cpu_s": round(times.ru_utime + times.ru_stime, 3),
        "rss_mb": round(pages * resource.getpagesize() / 2**20, 1),
    }
