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

Fields = dict[str, Any]
_ours = logging.getLogger("dispatcher")


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

    def log(self, level: int, event: str, /, *, exc_info: Any = None, **fields: Any) -> None:
        """``level`` and ``exc_info`` are those of the standard module."""
        _ours.log(level, event, exc_info=exc_info, extra={"fields": self._fields | fields})

    def debug(self, event: str, **fields: Any) -> None:
        self.log(logging.DEBUG, event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        self.log(logging.INFO, event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        self.log(logging.WARNING, event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        self.log(logging.ERROR, event, **fields)

    def critical(self, event: str, **fields: Any) -> None:
        self.log(logging.CRITICAL, event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self.log(logging.ERROR, event, exc_info=True, **fields)


def logger() -> Logger:
    return Logger()


def configure(process: str, settings: LogSettings) -> None:
    """Once, at the start of a process. Every line names it; what libraries log or warn of becomes such lines too."""
    terminal = os.isatty(STDERR)
    human = settings.format == "human" or (settings.format == "auto" and terminal)
    logging.basicConfig(
        handlers=[_StandardError(process, Human(terminal) if human else _as_json)], level=logging.WARNING, force=True
    )
    _ours.setLevel(settings.level.upper())
    logging.captureWarnings(True)
    sys.excepthook = log_uncaught


def log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The end of a process by a bug: one line, with the traceback as a field."""
    logger().log(logging.CRITICAL, "crashed", error=f"{kind.__name__}: {error}", exc_info=(kind, error, trace))


def of_user(user_id: str) -> str:
    """What stands for a recipient in a log: the hash that the ids of their notifications have as well."""
    return f"{hash_user(user_id):016x}"


def said(record: logging.LogRecord) -> str:
    """The event; a library's as it was written, where what it was to be filled with does not fit."""
    try:
        return record.getMessage().strip()
    except (TypeError, ValueError, KeyError):
        return str(record.msg).strip()


def fields_of(record: logging.LogRecord) -> Fields:
    """What is beside the event; of a library's line, its name."""
    fields: Fields = getattr(record, "fields", None) or ({} if record.name == _ours.name else {"library": record.name})
    if record.exc_info and record.exc_info[1]:
        return {**fields, "exception": "".join(traceback.format_exception(*record.exc_info)).rstrip()}
    return fields


class _StandardError(logging.Handler):
    """Writes a line at once and whole. A log that cannot be written stops no delivery."""

    def __init__(self, process: str, shown: Callable[[Fields], str]) -> None:
        super().__init__()
        self._who = {"process": process, "pid": os.getpid()}
        self._shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        line = self._shown(self._head(record) | fields_of(record))
        with contextlib.suppress(OSError):
            os.write(STDERR, f"{line}\n".encode(errors="backslashreplace"))

    def _head(self, record: logging.LogRecord) -> Fields:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": time, "level": record.levelname.lower(), **self._who, "event": said(record)}


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
