"""What is logged in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shards import logs


@contextmanager
def captured_logs() -> Iterator[list[dict[str, Any]]]:
    """Lines of every level are added to this list, instead of being written: ``level``, ``event`` and the fields."""
    lines: list[dict[str, Any]] = []
    output = logs.output
    before = output.threshold, output.write
    output.threshold, output.write = (
        0,
        lambda level, event, fields: lines.append({"level": level, "event": event} | fields),
    )
    try:
        yield lines
    finally:
        output.threshold, output.write = before
