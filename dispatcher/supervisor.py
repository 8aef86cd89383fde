"""The parent of all processes: starts them in order, restarts what dies, stops them in order.

Children are started anew (``python -m``), never forked, and die with their parent. Order: collector, shards,
router, as each needs those before it to keep its promises; stopping goes the other way.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import re
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from dispatcher import reshard
from dispatcher.collector import CollectorSettings
from dispatcher.router import RouterSettings
from dispatcher.settings import Settings
from shards.rules import DEFAULT_CATEGORIES
from shards.settings import ShardSettings
from shards.units import encode_hook

log = logging.getLogger("supervisor")

READY_S = 60.0
CHECK_S = 0.05
BACKOFF_BASE_S = 0.05
BACKOFF_MAX_S = 5.0
STABLE_S = 10.0  # a process that lived so long starts over with its backoff
CRASH_LOOP = 10  # starts in a row that did not last
STOP_ROUTER_S = 12.0
STOP_SHARD_S = 15.0
STOP_COLLECTOR_S = 5.0
DEFAULT_SHARDS = 4


class StartError(Exception):
    """The service cannot run: the message says why, and what to do."""


class BrokenError(StartError):
    """A process of the service does not start, or does not stay."""


class Identity(msgspec.Struct):
    """What an installation keeps for life, in ``identity.json`` of the data directory."""

    shards: int
    secret: int
    directory: str = reshard.HERE  # of the journals, in the data directory


class Child:
    """One process and its successors. ``settings`` gives the line that each start is handed."""

    def __init__(self, name: str, module: str, settings: Callable[[], bytes], directory: Path) -> None:
        self.name = name
        self._module = module
        self._settings = settings
        self._directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.failures = 0
        self.ready = False
        self._started = 0.0
        self.restart_at = 0.0

    def start(self) -> None:
        """Start a process; the one before it is dead and waited for."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._directory,
            env=environment,
        )
        self._started = time.monotonic()
        self.ready = False
        stdin: IO[bytes] = self._pipe(self.process.stdin)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(self._settings() + b"\n")
            stdin.close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

    @property
    def output(self) -> IO[bytes]:
        assert self.process is not None
        return self._pipe(self.process.stdout)

    def died(self) -> int | None:
        """The exit code of a process that has ended."""
        return self.process.poll() if self.process else None

    def schedule_restart(self, now: float) -> None:
        self.failures = 1 if now - self._started > STABLE_S else self.failures + 1
        delay_s = min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** (self.failures - 1)) if self.failures > 1 else 0.0
        self.restart_at = now + delay_s

    def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL when it does not end in time."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                log.warning("%s does not stop; it is killed, and what it had under way will be repeated", self.name)
                self.kill()
        self.output.close()
        self.process = None

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Supervisor:
    """``run`` returns when ``stop`` was called, from a signal handler as well, and everything has stopped."""

    def __init__(self, settings: Settings, on_ready: Callable[[], None] = lambda: None) -> None:
        self.settings = settings
        self.directory = Path(settings.dispatcher.data_dir).absolute()
        self._on_ready = on_ready
        self._stopping = False
        self._children: list[Child] = []

    def stop(self) -> None:
        self._stopping = True

    def run(self) -> None:
        """Raises ``StartError`` or ``SettingsError`` if the service cannot run."""
        with self._lock():
            self._make_children()
            self._warn_unconfigured()
            try:
                self._start_all()
                if not self._stopping:
                    self._on_ready()
                self._watch()
            finally:
                self._stop_all()

    # --- the data directory ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        directory = self.directory
        if directory.is_symlink():
            raise StartError(f"{directory} is a symbolic link; name the directory itself as data_dir")
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (directory / "run").mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"{directory}: {error.strerror}; data_dir must be a directory of this user") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StartError(
                    f"{directory} is in use by another instance; stop it, or use another data_dir"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def _identity(self) -> Identity:
        path = self.directory / "identity.json"
        wanted = self.settings.dispatcher.shards
        if path.exists():
            identity = msgspec.json.decode(path.read_bytes(), type=Identity)
            reshard.remove_leftovers(self.directory, identity.directory)
            return identity if wanted is None or wanted == identity.shards else self._reshard(identity, wanted)
        identity = Identity(wanted or DEFAULT_SHARDS, secrets.randbits(63))
        write_durably(path, msgspec.json.encode(identity))
        return identity

    def _reshard(self, old: Identity, shards: int) -> Identity:
        """The journals for another number of shards; the old ones go when ``identity.json`` names the new ones."""
        try:
            name = reshard.make_anew(self.directory, old.directory, old.shards, shards, lambda: self._stopping)
        except reshard.InterruptedReshardError:
            return old
        except reshard.ReshardError as error:
            raise BrokenError(str(error)) from None
        identity = Identity(shards, old.secret, name)
        write_durably(self.directory / "identity.json", msgspec.json.encode(identity))
        reshard.remove_leftovers(self.directory, name)
        return identity

    def _next_epoch(self) -> int:
        """A router's epoch is never used again: it is on disk before the router starts."""
        path = self.directory / "epoch"
        stored = int(path.read_text()) if path.exists() else 0
        epoch = max(stored + 1, time.time_ns() // 1000)
        write_durably(path, str(epoch).encode())
        return epoch

    def _warn_unconfigured(self) -> None:
        """Name the channels that the default routing would use, and that nothing is configured for."""
        named = {
            channel
            for name, category in DEFAULT_CATEGORIES.items()
            if name not in self.settings.categories
            for channel in category.channels
        }
        missing = sorted(named - {"inapp", *self.settings.channels})
        if missing:
            log.warning(
                "the default routing names %s, which is not configured: such deliveries are suppressed",
                ", ".join(missing),
            )

    # --- children ----------------------------------------------------------------------------------------------

    def _make_children(self) -> None:
        identity = self._identity()
        os.environ.pop("PYTHONSTARTUP", None)

        def child(name: str, module: str, settings: Callable[[], bytes]) -> None:
            self._children.append(Child(name, module, settings, self.directory))

        child(
            "collector",
            "dispatcher.collector",
            lambda: msgspec.json.encode(CollectorSettings("collector.db", identity.shards)),
        )
        for number in range(identity.shards):
            child(
                f"shard {number}",
                "shards.worker",
                functools.partial(self._shard_settings, number, identity),
            )
        child("router", "dispatcher.router", lambda: self._router_settings(identity))

    def _shard_settings(self, number: int, identity: Identity) -> bytes:
        settings = self.settings
        return msgspec.json.encode(
            ShardSettings(
                shard=number,
                shards=identity.shards,
                path=reshard.journal_path(identity.directory, number),
                durability=settings.dispatcher.durability,
                incarnation=time.time_ns() // 1000,
                secret=identity.secret,
                categories=settings.categories,
                rate_limits=settings.rate_limits,
                retry=settings.retry,
                priorities=settings.priorities,
                idempotency=settings.idempotency,
                retention=settings.retention,
                bounds=settings.bounds,
                channels=settings.channels,
            ),
            enc_hook=encode_hook,
        )

    def _router_settings(self, identity: Identity) -> bytes:
        service, limits = self.settings.dispatcher, self.settings.limits
        return msgspec.json.encode(
            RouterSettings(
                epoch=self._next_epoch(),
                shards=identity.shards,
                ingest=self._absolute(service.ingest),
                submit=self._absolute(service.submit),
                stream=self._absolute(service.stream),
                receipt_timeout_s=float(service.receipt_timeout),
                message_bytes=limits.message_bytes,
                batch=limits.batch,
                window_frames=limits.window_frames,
                window_bytes=limits.window_bytes,
                requests=limits.requests,
            )
        )

    @staticmethod
    def _absolute(endpoint: str) -> str:
        """An ipc path is the user's, relative to where they stand; children stand in the data directory."""
        match = re.fullmatch(r"ipc://(.+)", endpoint)
        return f"ipc://{Path(match[1]).absolute()}" if match else endpoint

    def _start_all(self) -> None:
        """Collector and shards together, the router when they are ready."""
        for group in (self._children[:-1], self._children[-1:]):
            for child in group:
                child.start()
            deadline = time.monotonic() + READY_S
            while not self._stopping and not all(child.ready for child in group):
                self._see_ready(group, CHECK_S)
                for child in group:
                    if child.died() is not None:
                        raise BrokenError(f"the {child.name} does not start; its message is above")
                if time.monotonic() > deadline:
                    waits = ", ".join(child.name for child in group if not child.ready)
                    raise BrokenError(f"not ready within {READY_S:.0f} s: {waits}")

    def _see_ready(self, children: list[Child], seconds: float) -> None:
        with selectors.DefaultSelector() as selector:
            for child in children:
                if not child.ready and child.process is not None:
                    selector.register(child.output, selectors.EVENT_READ, child)
            if not selector.get_map():
                time.sleep(seconds)
            for key, _ in selector.select(seconds) if selector.get_map() else ():
                if key.data.output.readline() == b"ready\n":
                    key.data.ready = True
                elif key.data.died() is None:
                    time.sleep(seconds)  # its pipe is closed: it dies, which the caller will see

    def _watch(self) -> None:
        while not self._stopping:
            self._see_ready(self._children, CHECK_S)
            now = time.monotonic()
            for child in self._children:
                code = child.died()
                if code is not None:
                    child.output.close()
                    child.process = None
                    child.schedule_restart(now)
                    if child.failures > CRASH_LOOP:
                        raise BrokenError(f"the {child.name} died {CRASH_LOOP} times in a row; giving up")
                    log.warning("%s died (%s); restarting", child.name, describe_exit(code))
                if child.process is None and now >= child.restart_at:
                    child.start()

    def _stop_all(self) -> None:
        router, shards, collector = self._children[-1], self._children[1:-1], self._children[0]
        router.stop(STOP_ROUTER_S)
        for child in shards:
            if child.process is not None:
                child.process.send_signal(signal.SIGCONT)
                child.process.terminate()
        for child in shards:
            child.stop(STOP_SHARD_S)
        collector.stop(STOP_COLLECTOR_S)


def describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file so that after a power cut it has either the old content or the new."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
