"""What is logged in this process."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shards.logs import fields_of


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append({"level": record.levelname.lower(), "event": record.getMessage(), **fields_of(record)})


@contextmanager
def captured_logs() -> Iterator[list[dict[str, Any]]]:
    """Lines of every level are added to this list: ``level``, ``event`` and the fields."""
    logger, handler = logging.getLogger("dispatcher"), _Lines()
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
