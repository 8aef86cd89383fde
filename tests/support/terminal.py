"""A program in a terminal of its own: an emulator shows what it draws, and keys are typed."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import termios
from types import TracebackType
from typing import Any, Self

import pyte

from dispatcher.screen import SHOWN
from tests.support.service import ROOT, wait_until

# makes standard input the controlling terminal, so that Ctrl-C and a new size are signals, and becomes the program
TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A context manager, in which ``python -m dispatcher`` runs with ``args``."""

    def __init__(self, *args: str, columns: int = 80, rows: int = 24, environment: dict[str, str]) -> None:
        self._args = (sys.executable, "-m", "dispatcher", *args)
        self._environment = {"TERM": "xterm-256color"} | environment
        self._ours, self._its = os.openpty()
        os.set_blocking(self._ours, False)
        self.emulator = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self.emulator)
        self._fed = 0
        self.resize(columns, rows)
        self.output = ""

    def __enter__(self) -> Self:
        self.before = self.attributes()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE, *self._args],
            cwd=ROOT,
            env=self._environment,
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._its)

    def attributes(self) -> list[Any]:
        """What Ctrl-C and the like do, and whether what is typed is shown."""
        return termios.tcgetattr(self._its)

    def resize(self, columns: int, rows: int) -> None:
        self.emulator.resize(rows, columns)
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def read(self) -> str:
        """All that was drawn so far."""
        while True:
            try:
                self.output += os.read(self._ours, 65_536).decode(errors="replace")
            except BlockingIOError:
                return self.output

    @property
    def frames(self) -> int:
        """How many were drawn so far."""
        return self.read().count(SHOWN)

    def frame(self) -> list[str]:
        """The lines that are seen, all of the same frame; none before the first one."""
        has_ended = self.process.poll() is not None
        output = self.read()
        end = len(output) if has_ended else output.rfind(SHOWN) + len(SHOWN)
        if end > self._fed and (has_ended or SHOWN in output):
            self._stream.feed(output[self._fed : end])
            self._fed = end
        lines = [line.rstrip() for line in self.emulator.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def letter(self, row: int) -> pyte.screens.Char:
        """The first one of a line that is seen, with its colours."""
        return self.emulator.buffer[row][0]

    def ended(self, timeout_s: float = 30.0) -> int:
        """The exit code, once it has ended."""
        wait_until(lambda: self.read() is None or self.process.poll() is not None, timeout_s, "its end")
        self.read()
        return self.process.wait()
