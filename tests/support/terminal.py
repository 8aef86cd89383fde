"""A program in a terminal of its own: what it draws is read, and keys are typed."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from types import TracebackType
from typing import Any, Self

from tests.support.service import ROOT

# makes standard input the controlling terminal, so that Ctrl-C and a new size are signals, and becomes the program
TAKE = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
HOME = "\x1b[H"  # where a frame begins
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
END_S = 30


class Terminal:
    """A context manager, in which ``python -m dispatcher`` runs with ``args``."""

    def __init__(self, *args: str, columns: int = 80, rows: int = 24, environment: dict[str, str]) -> None:
        self._args = (sys.executable, "-m", "dispatcher", *args)
        self._environment = environment
        self._ours, self._its = os.openpty()
        os.set_blocking(self._ours, False)
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

    def frame(self) -> list[str]:
        """The lines of the last frame that is complete, without colours."""
        frames = self.read().split(HOME)
        lines = [CODES.sub("", line) for line in frames[-2].split("\r\n")] if len(frames) > 2 else []
        return lines[:-1] if lines[-1:] == [""] else lines

    def ended(self) -> int:
        """The exit code, once it has ended."""
        code = self.process.wait(END_S)
        self.read()
        return code
