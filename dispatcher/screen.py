"""The whole terminal, for a view that changes; what it was like before comes back, however the program ends."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Literal, NoReturn, Self

from dispatcher.terminal import fit, width

Style = Literal["", "bold", "alert"]
Line = tuple[str, Style]

ENTER = "\x1b[?1049h\x1b[?25l"  # the other screen, and no cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
FRAME, SHOWN = "\x1b[?2026h", "\x1b[?2026l"  # a terminal that knows them shows nothing of a frame but all of it
BEGIN: dict[Style, str] = {"": "", "bold": "\x1b[1m", "alert": "\x1b[1;31m"}
COLOURLESS: dict[Style, str] = BEGIN | {"alert": "\x1b[1;7m"}
END = "\x1b[0m"
CLEAR = "\x1b[K"  # the rest of a line; it goes before the text, as behind a full one it takes the last letter
QUIT = "q"  # also what is read where the terminal is gone
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
READ_MAX = 64
COLUMNS, ROWS = 80, 24  # of a terminal that does not say


def is_there() -> bool:
    """Whether standard input and output are a terminal that can move its cursor."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Screen:
    """A context manager. Whatever would end the program raises ``KeyboardInterrupt`` inside.

    ``NO_COLOR`` (no-color.org) in the environment leaves bold and inverse letters.
    """

    def __enter__(self) -> Self:
        self._begin = COLOURLESS if os.environ.get("NO_COLOR") else BEGIN
        self._input = sys.stdin.fileno()
        self._output = sys.stdout.fileno()
        self._before = termios.tcgetattr(self._input)
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_fd = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        handlers: dict[signal.Signals, Any] = dict.fromkeys(ENDS, _interrupt)
        handlers |= {signal.SIGWINCH: lambda *_: None, signal.SIGTSTP: self._suspend}
        self._handlers = {one: signal.signal(one, handler) for one, handler in handlers.items()}
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave()
        except (OSError, termios.error):  # it is gone
            pass
        for one, handler in self._handlers.items():
            signal.signal(one, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        os.close(self._woken)
        os.close(self._wake)

    def _enter(self) -> None:
        tty.setcbreak(self._input, termios.TCSANOW)
        self._write(ENTER)

    def _leave(self) -> None:
        termios.tcsetattr(self._input, termios.TCSANOW, self._before)
        self._write(LEAVE)

    def _suspend(self, _signal: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal, and ours is drawn again after ``fg``."""
        self._leave()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)
        self._enter()

    def key(self, wait_s: float) -> str | None:
        """What was typed within so many seconds, the empty text if it is to be drawn again, or None."""
        ready, _, _ = select.select([self._input, self._woken], [], [], wait_s)
        if self._input in ready:
            try:
                return os.read(self._input, READ_MAX).decode(errors="replace") or QUIT
            except OSError:
                return QUIT
        if self._woken in ready:
            os.read(self._woken, READ_MAX)
            return ""
        return None

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, at this moment."""
        columns, rows = os.get_terminal_size(self._output)
        return columns or COLUMNS, rows or ROWS

    def draw(self, lines: Sequence[Line]) -> None:
        """As much of them as there is room for."""
        columns, rows = self.size
        shown = list(lines[:rows])
        if len(lines) > rows:
            shown[-1] = (f"... {len(lines) - rows + 1} lines more; a taller window shows them", "bold")
        drawn = "\n".join(
            f"{CLEAR}{self._begin[style]}{text if width(text) <= columns else fit(text, columns)}{END}"
            for text, style in shown
        )
        below = "\n\x1b[J" if len(shown) < rows else ""
        self._write(f"{FRAME}\x1b[H{drawn}{below}{SHOWN}")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
