"""The rate limit of the shards, for keys of any kind of text."""

from __future__ import annotations

from shards.limiter import Limiter, RateLimit
from shards.wire.ids import hash_user


class RateLimiter:
    """At most ``burst + rate * t`` events of each key in any window of t seconds (GCRA, ITU-T I.371).

    ``rate`` is "count/period" with second, minute, hour or day; ``burst`` is by default the count. ``now`` is in
    seconds on any clock that never goes back, such as ``time.monotonic``. At most ``keys_max`` keys are kept: idle ones
    give way, and where none is idle a further key is refused. ``ValueError`` says what a rate looks like.

    >>> limiter = RateLimiter("3/minute")
    >>> [limiter.allow("ada", now=0.0) for _ in range(4)]
    [True, True, True, False]
    >>> limiter.allow("bob", now=0.0)
    True
    >>> limiter.next_at("ada", now=0.0), limiter.remaining("ada", now=40.0)
    (20.0, 2)
    """

    def __init__(self, rate: str, *, burst: int | None = None, keys_max: int = 1_000_000) -> None:
        self._limiter = Limiter(RateLimit(rate, burst), keys_max)

    def allow(self, key: str, now: float) -> bool:
        """Whether an event conforms; it is counted if so."""
        passed = self._limiter.allow(hash_user(key), now)
        self._limiter.charges.clear()  # which only a store would take
        return passed

    def reserve(self, key: str, now: float) -> float:
        """Count an event in any case, and answer when it conforms: whoever waits until then loses nothing.

        Infinity, and nothing is counted, where no further key has room.

        >>> limiter = RateLimiter("1/second")
        >>> [limiter.reserve("ada", now=0.0) for _ in range(3)]
        [0.0, 1.0, 2.0]
        """
        at = self._limiter.reserve(hash_user(key), now)
        self._limiter.charges.clear()
        return at

    def remaining(self, key: str, now: float) -> int:
        """How many events would pass at once."""
        return self._limiter.remaining(hash_user(key), now)

    def next_at(self, key: str, now: float) -> float:
        """When an event will pass if none comes before: ``now`` if at once, infinity where no further key has room."""
        return self._limiter.next_at(hash_user(key), now)
