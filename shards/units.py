"""Units of the configuration: durations such as "30s", rates such as "10/second", and how they are read from text.

A duration is a float of seconds in code, and text with a unit wherever people write it.
"""

from __future__ import annotations

import re
from typing import Any

PERIODS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Seconds(float):
    """A duration in seconds."""

    @classmethod
    def parse(cls, value: object) -> Seconds:
        """From "50ms", "1.5h", ... or a number of seconds; ``ValueError`` says what a duration looks like."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        else:
            match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)", value) if isinstance(value, str) else None
            if match is None:
                raise ValueError(f'{value!r} is not a duration such as "50ms", "30s", "5m", "24h" or "7d"')
            seconds = float(match[1]) * UNITS_S[match[2]]
        if not 0 <= seconds < 1e10:
            raise ValueError(f"{value!r} is out of range for a duration")
        return cls(seconds)

    def __str__(self) -> str:
        """The shortest way to write it, as ``parse`` reads it."""
        for unit in ("d", "h", "m", "s", "ms"):
            count = float(self) / UNITS_S[unit]
            if count >= 1 and abs(count - round(count)) < 1e-9:
                return f"{round(count)}{unit}"
        return f"{float(self):g}s"


def parse_rate(text: str) -> tuple[int, float]:
    """``(count, seconds)`` of "count/period"; ``ValueError`` says what a rate looks like."""
    match = re.fullmatch(r"([1-9]\d*)/(second|minute|hour|day)", text)
    if match is None:
        raise ValueError(f'rate {text!r} is not "count/second", "count/minute", "count/hour" or "count/day"')
    return int(match[1]), PERIODS_S[match[2]]


def decode_hook(kind: type[Any], value: object) -> Any:
    """``dec_hook`` for msgspec: reads the units above."""
    if kind is Seconds:
        return Seconds.parse(value)
    raise NotImplementedError(kind)


def encode_hook(value: object) -> Any:
    """``enc_hook`` for msgspec: writes the units above."""
    if isinstance(value, Seconds):
        return str(value)
    raise NotImplementedError(type(value))
