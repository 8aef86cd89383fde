"""Structured logs on standard error, one line per event: for people on a terminal, as JSON elsewhere.

An event is a short text that never varies, and fields beside it. No bodies and no titles go into a log; of a
recipient only ``of_user``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

import msgspec

from shards.wire.ids import hash_user

STDERR = 2
_PLAIN = re.compile(r"[\w.:/@%+,*-]+", re.ASCII)
_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}  # as in the standard module

Fields = dict[str, Any]


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``auto`` is ``human`` where standard error is a terminal, and ``json`` elsewhere."""

    format: Literal["auto", "human", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Logger:
    """What a module logs by; it may be made before ``configure``. Each line has the fields that it is bound to."""

    def __init__(self, fields: Fields | None = None) -> None:
        self._fields = fields or {}

    def bind(self, **fields: Any) -> Logger:
        return Logger(self._fields | fields)

    def debug(self, event: str, **fields: Any) -> None:
        self.log("debug", event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        self.log("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.log("warning", event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self.log("error", event, **fields)

    def critical(self, event: str, **fields: Any) -> None:
        self.log("critical", event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self.log("error", event, **fields, exception=_trace(sys.exception()))

    def log(self, level: str, event: str, /, **fields: Any) -> None:
        if _LEVELS[level] >= output.threshold:
            output.write(level, event, self._fields | fields)


class Output:
    """Where all lines of this process go: before ``configure``, to people who run a part of it by itself."""

    def __init__(self) -> None:
        self.threshold = _LEVELS["info"]
        self.write: Callable[[str, str, Fields], None] = _writer("", Human(colours=False))


def logger() -> Logger:
    return Logger()


def configure(process: str, settings: LogSettings) -> None:
    """Once, at the start of a process. Every line names it; what libraries log or warn of becomes such lines too."""
    terminal = os.isatty(STDERR)
    human = settings.format == "human" or (settings.format == "auto" and terminal)
    output.threshold = _LEVELS[settings.level]
    output.write = _writer(process, Human(terminal) if human else _as_json)
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    sys.excepthook = log_uncaught


def log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The end of a process by a bug: one line, with the traceback as a field."""
    logger().critical("crashed", error=f"{kind.__name__}: {error}", exception=_trace(error.with_traceback(trace)))


def of_user(user_id: str) -> str:
    """What stands for a recipient in a log: the hash that the ids of their notifications have as well."""
    return f"{hash_user(user_id):016x}"


def _trace(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _writer(process: str, shown: Callable[[Fields], str]) -> Callable[[str, str, Fields], None]:
    """Writes a line at once and whole. A log that cannot be written stops no delivery."""
    pid = os.getpid()

    def write(level: str, event: str, fields: Fields) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head = {"time": time, "level": level, "process": process, "pid": pid, "event": event}
        with contextlib.suppress(OSError):
            os.write(STDERR, f"{shown(head | fields)}\n".encode(errors="backslashreplace"))

    return write


def _as_json(fields: Fields) -> str:
    return json.dumps(fields, default=repr)


class Human:
    """A line for people; a traceback follows it, as people read them."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, fields: Fields) -> str:
        time, level, process, _pid, event = (fields.pop(name) for name in ("time", "level", "process", "pid", "event"))
        trace = fields.pop("exception", None)
        values = "".join(f" {self._paint('2', key + '=')}{_value(value)}" for key, value in fields.items())
        line = f"{time} {self._paint(_COLOURS.get(level, ''), f'{level:8}')} {process:9}  {event} {values}".rstrip()
        return f"{line}\n{trace}" if trace else line

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours and colour else text


def _value(value: object) -> str:
    """Quoted where it is more than a word: so no value can forge a line, or steer a terminal."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class _Library(logging.Handler):
    """What libraries log by the standard module, warnings among it."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        fields = {"exception": _trace(error)} if error else {}
        logger().log(_level(record.levelno), record.getMessage().strip(), library=record.name, **fields)


def _level(number: int) -> str:
    """The highest that this is at least."""
    return max((name for name, least in _LEVELS.items() if least <= number), key=_LEVELS.__getitem__, default="debug")


output = Output()
