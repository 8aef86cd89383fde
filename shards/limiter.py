"""Rate limits per user: GCRA, one number per key (ITU-T I.371, annex A).

In any window of t seconds at most ``burst + rate * t`` pass. The clock is the caller's.
"""

from __future__ import annotations

import math
import re
from typing import Literal

import msgspec

PERIODS_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
SWEEP_EVERY_S = 1.0


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rate`` is "count/period" with second, minute, hour or day; ``burst`` defaults to the count."""

    rate: str
    burst: int | None = None
    overflow: Literal["drop"] = "drop"
    exempt: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.parse()
        if self.burst is not None and self.burst < 1:
            raise ValueError(f"burst is {self.burst}; it must be at least 1")

    def parse(self) -> tuple[int, float]:
        """``(count, seconds)``; ``ValueError`` says what is wrong with ``rate``."""
        match = re.fullmatch(r"([1-9]\d*)/(second|minute|hour|day)", self.rate)
        if match is None:
            raise ValueError(f'rate {self.rate!r} is not "count/second", "count/minute", "count/hour" or "count/day"')
        return int(match[1]), PERIODS_S[match[2]]


class Limiter:
    """One limit over many keys. ``keys_max`` bounds them: idle keys are dropped, which loses nothing, as an idle
    key's state equals a new one's; with ``keys_max`` live ones a new key is refused."""

    def __init__(self, limit: RateLimit, keys_max: int) -> None:
        count, period_s = limit.parse()
        self._interval_s = period_s / count
        # a microsecond on top, as (now + interval) - now may be a little more than interval
        self._tolerance_s = self._interval_s * ((limit.burst or count) - 1) + 1e-6
        self._keys_max = keys_max
        self._next_sweep = 0.0
        self._due: dict[str, float] = {}  # the theoretical arrival time of each key's next event
        self.exempt = frozenset(limit.exempt)

    def __len__(self) -> int:
        return len(self._due)

    def allow(self, key: str, now: float, exempt: bool = False) -> bool:
        """Charge one event to ``key`` if it conforms; an exempt one always passes, and is charged as well."""
        due = self._due.get(key)
        if due is None:
            if len(self._due) >= self._keys_max and not self._sweep(now):
                return exempt
            self._due[key] = now + self._interval_s
            return True
        if due < now:
            due = now
        elif due - now > self._tolerance_s and not exempt:
            return False
        self._due[key] = due + self._interval_s
        return True

    def remaining(self, key: str, now: float) -> int:
        """How many events would pass right now."""
        wait_s = max(0.0, self._due.get(key, now) - now)
        return max(0, math.floor((self._tolerance_s - wait_s) / self._interval_s) + 1)

    def _sweep(self, now: float) -> bool:
        if now < self._next_sweep:
            return False
        self._next_sweep = now + SWEEP_EVERY_S
        self._due = {key: due for key, due in self._due.items() if due > now}
        return len(self._due) < self._keys_max
