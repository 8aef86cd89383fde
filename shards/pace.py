"""The pace of a channel: what its provider takes from the whole machine, divided over the shards. It only delays.

It is not stored: that would be a write before every attempt, and what a restart forgets is one burst. A provider that
minds answers with a refusal, which is retried.
"""

from __future__ import annotations

import math

from shards.units import parse_rate

BURST_S = 0.1  # of the rate, by default


class Pace:
    """One shard's part of a rate: in any window of t seconds all shards together send at most ``burst + rate * t``.

    ``burst`` 0 is a tenth of a second's worth. Each shard has at least 1 of it, so that N shards may make it N.
    """

    def __init__(self, rate: str, burst: int, shard: int, shards: int) -> None:
        count, period_s = parse_rate(rate)
        burst = burst or int(count / period_s * BURST_S)
        self._burst = max(1, burst // shards + (shard < burst % shards))
        self._interval_s = period_s / count * shards
        self._due = -math.inf  # the theoretical arrival time of the next event

    def available(self, now: float) -> int:
        """How many attempts may start now."""
        spent = max(0.0, self._due - now) / self._interval_s
        return max(0, math.floor(self._burst - spent + 1e-6))

    def spend(self, count: int, now: float) -> None:
        """``count`` attempts start; more than are available delay those that follow."""
        self._due = max(now, self._due) + count * self._interval_s

    def refund(self, count: int, now: float) -> None:
        """``count`` attempts were not made after all."""
        self._due = max(now, self._due - count * self._interval_s)

    def next_at(self, now: float) -> float | None:
        """When at least one attempt may start; None if that is now."""
        if self.available(now):
            return None
        return self._due - (self._burst - 1) * self._interval_s
