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
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from shards.wire.ids import hash_user

STDERR = 2
_PLAIN = re.compile(r"[\w.:/@%+,*-]+", re.ASCII)
_COLOURS = {"debug": "2", "warning": "33", "error": "31", "critical": "1;31"}


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``auto`` is ``human`` where standard error is a terminal, and ``json`` elsewhere."""

    format: Literal["auto", "human", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


def logger() -> FilteringBoundLogger:
    """What a module logs by; it may be made before ``configure``."""
    made: FilteringBoundLogger = structlog.get_logger()
    return made


def configure(process: str, settings: LogSettings) -> None:
    """Once, at the start of a process. Every line names it; what libraries log or warn of becomes such lines too."""
    terminal = os.isatty(STDERR)
    human = settings.format == "human" or (settings.format == "auto" and terminal)
    structlog.configure(
        processors=[
            _Stamp(process),
            structlog.processors.format_exc_info,
            Human(terminal) if human else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=_StandardError,
    )
    logging.basicConfig(handlers=[_Library()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    sys.excepthook = log_uncaught


def log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The end of a process by a bug: one line, with the traceback as a field."""
    logger().critical("crashed", error=f"{kind.__name__}: {error}", exc_info=(kind, error, trace))


def of_user(user_id: str) -> str:
    """What stands for a recipient in a log: the hash that the ids of their notifications have as well."""
    return f"{hash_user(user_id):016x}"


class _Stamp:
    """Puts when and who before what."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._pid = os.getpid()

    def __call__(self, _logger: WrappedLogger, level: str, fields: EventDict) -> EventDict:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = fields.pop("event")
        return {"time": time, "level": level, "process": self._process, "pid": self._pid, "event": event, **fields}


class Human:
    """A line for people; a traceback follows it, as people read them."""

    def __init__(self, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: WrappedLogger, level: str, fields: EventDict) -> str:
        time, process, event = fields.pop("time"), fields.pop("process"), fields.pop("event")
        del fields["level"], fields["pid"]
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


class _StandardError:
    """Writes a line at once and whole. A log that cannot be written stops no delivery."""

    def __init__(self, *_args: object) -> None:
        pass

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(STDERR, f"{line}\n".encode(errors="backslashreplace"))

    debug = info = warning = error = critical = msg


class _Library(logging.Handler):
    """What libraries log by the standard module, warnings among it."""

    def emit(self, record: logging.LogRecord) -> None:
        logger().log(record.levelno, record.getMessage().strip(), library=record.name, exc_info=record.exc_info)
