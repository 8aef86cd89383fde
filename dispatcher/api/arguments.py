"""What callers give, looked at before it is used: an error says what the argument must be, and what it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

PORT_MAX = 65_535


def many(name: str, value: object, of: str) -> Iterable[Any]:
    """A text is iterable as well, by its letters, and a mapping by its keys; neither is ever meant."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping):
        raise TypeError(f"{name} must be a list of {of}, even for one, and not {_kind(value)}")
    return value


def mapping(name: str, value: object, like: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping like {like}, and not {_kind(value)}")
    return dict(value)


def text(name: str, value: object) -> str:
    if not isinstance(value, str):
        instead = f"; give its {name}" if hasattr(value, name) else ""
        raise TypeError(f"{name} must be a text, and not {_kind(value)}{instead}")
    return value


def integer(name: str, value: object, least: int, most: int | None = None) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, and not {_kind(value)}")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name} must be {least} {'or more' if most is None else f'to {most}'}, and not {value}")
    return value


def seconds(name: str, value: object, *, above_0: bool = False) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, and not {_kind(value)}")
    if not (value > 0 if above_0 else value >= 0):  # nor NaN
        raise ValueError(f"{name} must be {'more than 0' if above_0 else '0 or more'} seconds, and not {value}")
    return value


def endpoint(name: str, value: object, like: str) -> str:
    """As far as ZeroMQ does not look at it itself."""
    found = re.fullmatch(r"(?:ipc://.+|tcp://.+:(\d+))", text(name, value))
    if found is None or int(found[1] or 0) > PORT_MAX:
        raise ValueError(f"{name}={value!r} is no endpoint; one is like {like}")
    return found[0]


def path(name: str, value: object, *, or_else: str = "") -> None:
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path{or_else}, and not {_kind(value)}")


def milliseconds(name: str, time: datetime) -> int:
    if time.tzinfo is None:
        raise ValueError(f"{name} has no time zone; datetime.now(UTC) is one that has")
    return round(time.timestamp() * 1000)


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__
