"""How fast a service takes what a channel has for it, learned from the answers that it is too much at once.

After such an answer nothing starts for as long as the service asks. Then a little less is sent than it last took:
slowly more at first, and ever faster, so that a limit is felt seldom, and one that is gone is soon forgotten.
"""

from __future__ import annotations

import math
import sys

from shards.breaker import patience_s

LESS = 0.8  # of what it took
GROWS_S = 20.0  # until the rate is 2.7 times as high; after twice that 55 times, after thrice 8,100 times
GUESS_GROWS_S = 5.0  # the same of a rate at which nothing was taken yet
FORGOTTEN_AT = 3  # times that
RATE_MIN = 1 / 60  # a second
BURST_S = 0.1  # of the rate
COUNTED_S = 1.0  # what was taken is counted over so long, and up to twice that
HALF = 0.5  # of the last rate, where nothing was taken at that
FIRST = 10.0  # a second: where nothing was taken at the first, which may be another shard's turn


class Slowing:
    """Of one channel in one shard. It knows no limit until a service names one; times are monotonic seconds."""

    def __init__(self) -> None:
        self._rate = 0.0  # a second, when it began to grow; 0 while there is no limit
        self._since = -math.inf  # when it began
        self._grows_s = GROWS_S
        self._left = 0.0  # attempts that may start
        self._left_at = -math.inf
        self._before = 0  # attempts under way when it was last slowed: their answers are about the rate before
        self._has_taken = False  # since then
        self._counts = [(-math.inf, 0), (-math.inf, 0)]  # (begin, taken) of the last two intervals

    def rate(self, now: float) -> float:
        """Attempts a second; infinity while there is no limit."""
        grown = max(0.0, now - self._since) / self._grows_s
        if not self._rate or grown >= FORGOTTEN_AT:
            return math.inf
        return self._rate * math.exp(grown**2)

    def available(self, now: float) -> int:
        """How many attempts may start now."""
        if not self.is_slowed(now):
            return sys.maxsize
        rate = self.rate(now)
        self._left = min(max(1.0, rate * BURST_S), self._left + rate * max(0.0, now - self._left_at))
        self._left_at = max(now, self._left_at)
        return 0 if now < self._since else int(self._left + 1e-6)

    def spend(self, count: int, now: float) -> None:
        """``count`` attempts start."""
        self._left -= count

    def refund(self, count: int, now: float) -> None:
        """``count`` attempts were not made after all."""
        self._left += count

    def next_at(self, now: float) -> float | None:
        """When at least one attempt may start; None if that is now."""
        if self.available(now):
            return None
        return max(self._since, now) + (1.0 - self._left) / self.rate(now)

    def is_slowed(self, now: float) -> bool:
        return self.rate(now) < math.inf

    def heed(self, ended: int, taken: int, refused: int, asked_s: float, under_way: int, now: float) -> None:
        """Attempts have ended: some ``taken``, some ``refused`` as too much, which ask for ``asked_s`` of patience;
        ``under_way`` have not ended."""
        self._count(taken, now)
        self._has_taken = self._has_taken or taken > 0
        old = min(self._before, ended)
        self._before -= old
        if not refused:
            return
        until, rate = now + patience_s(asked_s), self.rate(now)
        if refused <= old:  # the rate is lower already
            self._rest(max(self._since, until))
            return
        took = max(self._rate, self._took(now)) or FIRST
        less, self._grows_s = (LESS, GROWS_S) if self._has_taken else (HALF, GUESS_GROWS_S)
        self._rate = max(RATE_MIN, less * min(rate, took))
        self._has_taken = False
        self._rest(until)
        self._before = under_way

    def _rest(self, until: float) -> None:
        self._since = self._left_at = until
        self._left = 0.0

    def _count(self, taken: int, now: float) -> None:
        before, (begin, count) = self._counts
        if now - begin < COUNTED_S:
            self._counts = [before, (begin, count + taken)]
        else:
            self._counts = [(begin, count), (now, taken)]

    def _took(self, now: float) -> float:
        """A second, of late."""
        recent = [one for one in self._counts if now - one[0] < 2 * COUNTED_S]
        return sum(count for _, count in recent) / max(COUNTED_S, now - recent[0][0])
