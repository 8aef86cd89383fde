"""Caps per user, across categories and channels: exact rolling windows, such as five marketing messages a day."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter

import msgspec

from shards.keyed import Keyed, check_exempt
from shards.units import Seconds

LIMIT_MAX = 1_000
WINDOW_MAX_S = Seconds(31 * 86_400.0)


class CapSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most ``limit`` deliveries to a user in any ``window``, of these categories on these channels; empty: of all.

    ``exempt`` names priorities.
    """

    limit: int
    window: Seconds
    categories: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= LIMIT_MAX:
            raise ValueError(f"limit is {self.limit}; it must be between 1 and {LIMIT_MAX}")
        if not 0 < self.window <= WINDOW_MAX_S:
            raise ValueError(f"window is {self.window}; it must be above 0 and at most {WINDOW_MAX_S}")
        check_exempt(self.exempt)


class Cap(Keyed["array[float]"]):
    """One cap. The state of a key has its newest times, in order: as many as the limit, since no older one matters.

    A time t is in the window until ``t + window``, exclusively.
    """

    def __init__(self, settings: CapSettings, keys_max: int) -> None:
        super().__init__(f"{settings.limit}/{settings.window}", settings.exempt, keys_max)
        self._limit = settings.limit
        self._window_s = float(settings.window)
        self._categories = frozenset(settings.categories)
        self._channels = frozenset(settings.channels)

    def covers(self, category: str, channel: str) -> bool:
        return (not self._categories or category in self._categories) and (
            not self._channels or channel in self._channels
        )

    def has_room(self, key: int, now: float) -> bool:
        """Whether one more delivery is within the cap; it is not charged."""
        times = self._states.get(key)
        if times is None:
            return self._has_place(now)
        return len(times) < self._limit or times[0] + self._window_s <= now

    def charge(self, key: int, now: float) -> None:
        """Count one delivery, whether or not it has room; nothing where no new key has a place."""
        times = self._states.get(key)
        if times is None:
            if not self._has_place(now):
                return
            times = self._states[key] = array("d")
        self._add(times, now)
        self.charges.append(key)

    def _add(self, times: array[float], at: float) -> None:
        if len(times) == self._limit:
            del times[0]
        times.append(at)

    def remaining(self, key: int, now: float) -> int:
        times = self._states.get(key)
        if times is None:
            return self._limit if self._has_place(now) else 0
        return self._limit - len(times) + bisect_right(times, now, key=lambda at: at + self._window_s)

    def next_at(self, key: int, now: float) -> float:
        times = self._states.get(key)
        if times is None:
            return now if self._has_place(now) else math.inf
        return now if len(times) < self._limit else max(now, times[0] + self._window_s)

    def _is_idle(self, state: array[float], now: float) -> bool:
        return state[-1] + self._window_s <= now

    # --- for the store -------------------------------------------------------------------------------------------

    def replay(self, keys: Iterable[int], at: float) -> None:
        for key in keys:
            times = self._states.setdefault(key, array("d"))
            self._add(times, max(at, times[-1]) if times else at)  # in order even where the wall clock went back

    def state(self, keys: list[int], times_max: int) -> tuple[array[int], array[float]]:
        owners, found = array("q"), array("d")
        while keys and len(found) < times_max:
            key = keys.pop()
            times = self._states.get(key, ())
            owners.extend([key] * len(times))
            found.extend(times)
        return owners, found

    def restore(self, keys: Sequence[int], times: Iterable[float]) -> None:
        for key, pairs in groupby(zip(keys, times, strict=True), itemgetter(0)):
            self._states[key] = array("d", [at for _, at in pairs])

    def fit(self, now: float) -> None:
        """What a lower limit does not look at goes."""
        for times in self._states.values():
            del times[: -self._limit]
