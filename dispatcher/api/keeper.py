"""A thread that starts an embedded dispatcher, and another one when it ends unasked.

The thread is the dispatcher's parent as the kernel sees it, so it lives as long as the service does.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from dispatcher.errors import StartError

BACKOFF_S = (0.0, 0.2, 1.0, 5.0, 15.0)  # before a start, by how many have failed since the last that was ready
LOG_BYTES_MAX = 4 * 2**20  # of a log that is gone on with
SHOWN = 5  # last lines, where no line says what is wrong
WORDS_MAX = 2_000
READY = re.compile(r"ready: ingest (.+)  submit (.+)  stream (.+)")  # paths may have spaces

log = logging.getLogger("dispatcher")


class Keeper:
    """``options`` are those of ``serve``. ``start`` raises ``StartError``."""

    def __init__(self, options: list[str], log_file: Path) -> None:
        self.endpoints = ("", "", "")  # of ingest, submit and stream
        self._options = options
        self._log_file = log_file
        self._log_from = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # a process that starts while it is stopped is stopped as well
        self._told = threading.Event()  # whether the first start has come to something
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="dispatcher keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._told.wait()
        if self._failure:
            raise StartError(self._failure)

    def stop(self, wait_s: float, *, join: bool = True) -> None:
        """End it in order, or by force after ``wait_s``. Legal more than once."""
        self._stopping.set()
        with self._lock:
            if self._process is not None:
                self._process.terminate()
        if not join or not self._thread.ident:
            return
        self._thread.join(wait_s)
        if self._thread.is_alive():
            with self._lock:
                if self._process is not None:
                    self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        try:
            self._keep()
        except Exception as error:
            log.exception("nobody keeps the embedded dispatcher any more")
            self._failure = f"python -m dispatcher cannot be kept: {error}"
        finally:
            self._told.set()  # whatever happens: the constructor waits for it

    def _keep(self) -> None:
        failures = 0
        while not self._stopping.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]):
            why = self._live()
            if not self._told.is_set():
                self._failure = why
                return
            failures = 1 if not why else failures + 1
            if not self._stopping.is_set():
                log.warning("the embedded dispatcher ended, and is started again: %s", why or self._last_words())

    def _live(self) -> str:
        """One process, from its start to its end; why it was never ready, if it was not."""
        try:
            with self._lock:
                if self._stopping.is_set():
                    return ""
                self._process = self._spawn()
        except OSError as error:
            return f"python -m dispatcher cannot be started: {error}"
        output = self._process.stdout
        assert output is not None
        with output:
            ready = READY.match(output.readline().decode(errors="replace"))
            if ready:
                self.endpoints = (ready[1], ready[2], ready[3])
                self._pass_on_errors()
                self._told.set()
            output.read()
        code = self._process.wait()
        with self._lock:
            self._process = None
        if ready:
            return ""
        return self._last_words() or f"the dispatcher ended with exit code {code}, and said nothing"

    def _spawn(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        with _opened(self._log_file) as log_file:
            self._log_from = log_file.tell()
            return subprocess.Popen(
                [sys.executable, "-m", "dispatcher", "serve", *self._options, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
                start_new_session=True,  # Ctrl-C is for this process, which stops it in order
            )

    def _said(self) -> list[str]:
        """The log of the last process, line by line."""
        with self._log_file.open("rb") as file:
            file.seek(self._log_from)
            return file.read().decode(errors="replace").splitlines()

    def _pass_on_errors(self) -> None:
        """What went wrong at the start and kept nobody from starting, such as a damaged journal, is told here too."""
        for line in self._said():
            if '"level": "error"' in line:
                log.error("the embedded dispatcher says: %s", line)

    def _last_words(self) -> str:
        """What the last process said: why it cannot run, or else the end of its log."""
        lines = self._said()
        told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        raw = [line for line in lines if not line.startswith(("error: ", "{"))]  # such as a traceback's
        return "\n".join(told + raw[-1:] if told else lines[-SHOWN:])[-WORDS_MAX:]


def _opened(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    file = os.fdopen(descriptor, "ab")
    file.seek(0, os.SEEK_END)
    return file
