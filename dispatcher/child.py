"""One child process and its successors: started with its settings, listened to, ended, and when to start the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dispatcher.data_directory import write_durably
from dispatcher.settings import ENVIRONMENT_PREFIX
from shards import logs
from shards.logs import LogSettings
from shards.process import handover, settings_file

READY_S = 60.0  # from its start, or from its last word, to `ready`
BACKOFF_BASE_S = 0.1
BACKOFF_MAX_S = 5.0
STABLE_S = 10.0  # a process that lived so long starts over with its backoff
READ_BYTES = 65_536

log = logs.logger()


class Child:
    """``settings`` gives what each start is handed. What a process says is in ``shards/process.py``."""

    def __init__(
        self, name: str, module: str, settings: Callable[[], bytes], directory: Path, log_settings: LogSettings
    ) -> None:
        self.name = name
        self.failures = 0  # ends in a row, each soon after its start
        self.ready = False
        self.code = 0  # of the last process that ended
        self.why = ""  # it ended, or could not be started
        self.restart_at = 0.0
        self.starts = 0
        self.version = 0  # of the configuration that it last said to have changed to
        self.asked = 0  # the number of the change that it last asked for,
        self.asked_to_read = 0  # and of the last one that is to read the configuration again
        self.knew: set[str] = set()  # channels that there were once
        self.log_settings = log_settings
        self._module = module
        self._settings = settings
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._heard = 0.0
        self._line = b""
        self._last_word = ""
        self._refused = 0  # starts in a row that the machine did not allow

    def start(self) -> bool:
        """Start a process; the one before it is dead and waited for. Where the machine cannot: later."""
        now = time.monotonic()
        try:
            self._process = self._spawn()
        except OSError as error:
            self._refused += 1
            self.why = f"cannot be started: {error}"
            wait_s = backoff_s(self._refused + 1)
            self.restart_at = now + wait_s
            log.error("cannot be started", child=self.name, error=str(error), again_in_s=wait_s)
            return False
        self._refused = 0
        self.starts += 1
        self.version = 0
        self._started = self._heard = now
        self.ready = False
        self._line, self._last_word = b"", ""
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        handed = handover(self.name, self.log_settings, self._settings())
        with os.fdopen(os.memfd_create("settings"), "w+b") as stdin:  # not a pipe: writing it waits for nobody
            stdin.write(handed)
            stdin.seek(0)
            inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT_PREFIX)}
            process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=stdin,
                stdout=subprocess.PIPE,
                cwd=self._directory,
                env={**inherited, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
            )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return process

    @property
    def running(self) -> bool:
        """Whether there is a process, which may have ended and not been seen to."""
        return self._process is not None

    def output(self) -> int | None:
        """The descriptor to wait on before ``listen``."""
        pipe = self._process.stdout if self._process else None
        return pipe.fileno() if pipe and not pipe.closed else None

    def listen(self) -> bool:
        """Take what it says; whether it may have said more."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            found = os.read(self._process.stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return False
        if not found:
            self._process.stdout.close()
            return False
        self._heard = time.monotonic()
        *lines, self._line = (self._line + found).split(b"\n")
        for line in lines:
            self._on_line(line.decode(errors="replace"))
        return True

    def _on_line(self, line: str) -> None:
        match line.split(" ", 1):
            case ["ready"]:
                self.ready = True
            case ["ready", "suspects"]:
                self.ready = True
                self.failures = 0  # the shard itself counts the crashes of what was under way
                log.warning("may have died of a delivery", child=self.name)
            case ["failed", why]:
                self._last_word = why
            case ["reloaded", version]:
                self.version = int(version)
            case ["reload", number]:
                self.asked = self.asked_to_read = int(number)
            case ["put", number]:
                self.asked = int(number)
            case ["knew", channel]:
                self.knew.add(channel)
            case _:
                log.debug("said", child=self.name, line=line)

    def overdue(self, now: float) -> bool:
        """Whether it should long be ready."""
        return self._process is not None and not self.ready and now - self._heard > READY_S

    def reap(self) -> bool:
        """Whether the process has ended since the last call; then there is none any more, and ``why`` says how."""
        process = self._process
        if process is None or process.poll() is None:
            return False
        while self.output() is not None and self.listen():
            pass
        if process.stdout is not None:
            process.stdout.close()
        self._process = None
        self.code = process.returncode
        self.why = describe_exit(self.code) + (f": {self._last_word}" if self._last_word else "")
        return True

    def schedule_restart(self, now: float) -> None:
        """When the next ``start`` is due, now that the process has ended."""
        self.failures = 1 if now - self._started > STABLE_S else self.failures + 1
        self.restart_at = now + backoff_s(self.failures)

    def change(self, settings: bytes | None = None) -> None:
        """Have it go by other settings, by default those of a start; it must be ready, or it dies of it."""
        assert self._process is not None
        given = self._settings() if settings is None else settings
        write_durably(self._directory / settings_file(self.name), handover(self.name, self.log_settings, given))
        self._process.send_signal(signal.SIGHUP)

    def terminate(self) -> None:
        """Ask it to end; a stopped process would not hear it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()

    def kill(self, why: str = "") -> None:
        """End it at once; ``reap`` then finds it ended."""
        if self._process is not None:
            self._last_word = why
            self._process.kill()
            self._process.wait()


def backoff_s(failures: int) -> float:
    """The wait after so many failures in a row: none after the first."""
    return min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2 ** (failures - 2)) if failures > 1 else 0.0


def describe_exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
