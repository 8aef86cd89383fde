"""Rate limits per user: GCRA, one number per key (ITU-T I.371, annex A).

In any window of t seconds at most ``burst + rate * t`` pass. The clock is the caller's.

>>> limiter = Limiter(RateLimit("2/minute"), keys_max=1_000)
>>> [limiter.allow(42, now=0.0) for _ in range(3)]
[True, True, False]
>>> limiter.next_at(42, now=0.0), limiter.allow(42, now=30.0)
(30.0, True)
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from shards.keyed import Keyed, check_exempt
from shards.units import parse_rate

SLACK_S = 1e-6  # as (now + interval) - now may be a little more than interval


class RateLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``rate`` is "count/period" with second, minute, hour or day; ``burst`` defaults to the count.

    ``overflow`` says what becomes of what exceeds it: ``rate_limited``, sent when it conforms, into a digest, or into
    the inbox instead. ``exempt`` names priorities.
    """

    rate: str
    burst: int | None = None
    overflow: Literal["drop", "delay", "digest", "inapp"] = "drop"
    exempt: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parse_rate(self.rate)
        if self.burst is not None and self.burst < 1:
            raise ValueError(f"burst is {self.burst}; it must be at least 1")
        check_exempt(self.exempt)

    def parse(self) -> tuple[int, float]:
        """``(count, seconds)`` of the rate."""
        return parse_rate(self.rate)


class Limiter(Keyed[float]):
    """One limit. The state of a key is the theoretical arrival time of its next event."""

    def __init__(self, limit: RateLimit, keys_max: int) -> None:
        count, period_s = limit.parse()
        burst = limit.burst or count
        super().__init__(f"{limit.rate}+{burst}", limit.exempt, keys_max)
        self.overflow = limit.overflow
        self._interval_s = period_s / count
        self._burst_s = self._interval_s * burst
        self._ahead_s = self._interval_s * (burst - 1)  # that an event may be of its time
        self._tolerance_s = self._ahead_s + min(SLACK_S, self._interval_s / 1000)

    def allow(self, key: int, now: float, exempt: bool = False) -> bool:
        """Charge one event to ``key`` if it conforms; an exempt one always passes, and is charged as well."""
        due = self._states.get(key)
        if due is None:
            if not self._has_place(now):
                return exempt
            due = now
        elif due < now:
            due = now
        elif due - now > self._tolerance_s and not exempt:
            return False
        self._states[key] = due + self._interval_s
        self.charges.append(key)
        return True

    def reserve(self, key: int, now: float) -> float:
        """Charge one event whatever the state, and answer when it conforms: from then on it may be sent.

        Infinity, and nothing is charged, where no new key has room.
        """
        at = self.next_at(key, now)
        if at < math.inf:
            self._states[key] = max(now, self._states.get(key, now)) + self._interval_s
            self.charges.append(key)
        return at

    def next_at(self, key: int, now: float) -> float:
        due = self._states.get(key)
        if due is None:
            return now if self._has_place(now) else math.inf
        return now if due - now <= self._tolerance_s else due - self._ahead_s

    def remaining(self, key: int, now: float) -> int:
        due = self._states.get(key)
        if due is None and not self._has_place(now):
            return 0
        wait_s = max(0.0, due - now) if due is not None else 0.0
        return max(0, math.floor((self._tolerance_s - wait_s) / self._interval_s) + 1)

    def _is_idle(self, state: float, now: float) -> bool:
        return state <= now

    # --- for the store -------------------------------------------------------------------------------------------

    def replay(self, keys: Iterable[int], at: float) -> None:
        states, interval_s = self._states, self._interval_s
        for key in keys:
            due = states.get(key, at)
            states[key] = max(due, at) + interval_s

    def state(self, keys: list[int], times_max: int) -> tuple[array[int], array[float]]:
        states = self._states
        known = [key for key in keys[-times_max:] if key in states]
        del keys[-times_max:]
        return array("q", known), array("d", [states[key] for key in known])

    def restore(self, keys: Sequence[int], times: Iterable[float]) -> None:
        self._states.update(zip(keys, times, strict=True))

    def fit(self, now: float) -> None:
        """Nobody waits longer than after a whole burst."""
        most = now + self._burst_s
        self._states = {key: min(due, most) for key, due in self._states.items()}
