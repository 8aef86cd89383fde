"""Quiet hours: when a user is not to be disturbed, and the instant at which what was held back is released.

One sentence decides everything: a window is quiet **from the first instant at which the clock on the wall shows its
start or later, until the last instant at which that clock shows earlier than its end**. From it follows:

- A window belongs to the calendar day on which it starts, and ``days`` are such days. An end that is not later than
  the start is on the next day. So 22:00 to 08:00 of ``("fri",)`` ends on Saturday.
- Clocks put forward: a start or end that is skipped is the first instant after the gap. A window that lies in the gap
  is not quiet at all, and 22:00 to 08:00 lasts nine hours that night: its length is what the clocks say.
- Clocks put back: a start that comes twice is the first, an end that comes twice is the second. The window is one
  piece, and nobody is woken at a time that they wanted quiet. It is an hour longer than it might be: what waits is
  only deferred, so too long costs less than too short.
- A day that a zone skipped (Pacific/Apia, 2011-12-30) is one long gap: the window before it ends, and its own
  starts, at the first instant after it.
- Start and end that are equal are never quiet; 00:00 to 24:00 is the whole day.
"""

from __future__ import annotations

import difflib
import functools
import pkgutil
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
NEVER_MS = 2**63


class QuietHours:
    """``start`` and ``end`` are like "22:00"; no ``days`` means every day; ``zone`` is a name that ``zones`` has.

    ``ValueError`` for a time or days that ``time_of_day`` or ``day_numbers`` refuse, and for a week without an end.
    """

    def __init__(self, start: str, end: str, days: Sequence[str] | None, zone: str) -> None:
        self._start = timedelta(minutes=time_of_day(start))
        self._end = timedelta(minutes=time_of_day(end))
        self._days = day_numbers(days)
        if self._end - self._start == timedelta(minutes=DAY_MINUTES) and len(self._days) == len(DAYS):
            raise ValueError("00:00 to 24:00 on every day is quiet for ever; leave an hour or a day out")
        self._zone = ZoneInfo(zone)
        # From _since_ms until before _until_ms the answer is _release_ms: users who chose alike share it.
        self._since_ms = 0
        self._until_ms = 0
        self._release_ms: int | None = None
        if self._start == self._end:
            self._since_ms, self._until_ms = -NEVER_MS, NEVER_MS

    def release_ms(self, now_ms: int) -> int | None:
        """None if it is not quiet at ``now_ms``, else when it ends. Both are milliseconds since 1970 by the wall clock.

        At the instant that is answered it is not quiet: windows that touch are one.
        """
        if not self._since_ms <= now_ms < self._until_ms:
            self._look(now_ms)
        return self._release_ms

    def _look(self, now_ms: int) -> None:
        now_s = now_ms // 1000  # windows begin and end on whole seconds
        end_s = now_s
        while (further_s := self._quiet_until(end_s)) > end_s:
            end_s = further_s
        self._since_ms = now_ms
        if end_s > now_s:
            self._until_ms = self._release_ms = end_s * 1000
        else:
            starts = (start for start, end in self._windows(now_s) if now_s < start < end)
            self._until_ms, self._release_ms = min(starts, default=now_s + 86_400) * 1000, None

    def _quiet_until(self, at_s: int) -> int:
        """The end of the windows that an instant lies in; the instant itself if it lies in none."""
        return max((end for start, end in self._windows(at_s) if start <= at_s < end), default=at_s)

    def _windows(self, at_s: int) -> Iterator[tuple[int, int]]:
        """All windows that an instant can lie in, or that start within a day; some may be empty."""
        today = datetime.fromtimestamp(at_s, self._zone).date()
        for offset in range(-2, 3):  # where a zone changes its date, as far as that
            day = today + timedelta(days=offset)
            if day.weekday() in self._days:
                last = day + timedelta(days=self._end <= self._start)
                yield self._instant(day, self._start, False), self._instant(last, self._end, True)

    def _instant(self, day: date, of_day: timedelta, last: bool) -> int:
        """The seconds since 1970 of a time of the wall clock; ``last`` chooses where it comes twice."""
        wall = datetime.combine(day, time.min) + of_day
        first = int(wall.replace(tzinfo=self._zone).timestamp())
        second = int(wall.replace(tzinfo=self._zone, fold=1).timestamp())
        if first <= second:  # equal, but where the clock is put back
            return second if last else first
        low, high = second, first  # in a gap: PEP 495 has them on its two sides, the wrong way round
        while high - low > 1:
            middle = (low + high) // 2
            if datetime.fromtimestamp(middle, self._zone).replace(tzinfo=None) < wall:
                low = middle
            else:
                high = middle
        return high


def time_of_day(text: str) -> int:
    """Minutes since midnight of "07:05"; "24:00" is the end of the day. ``ValueError`` says what it looks like."""
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]|24:00", text):
        raise ValueError(f'{text[:80]!r} is not a time of day with two digits each, such as "07:05" or "22:00"')
    return int(text[:2]) * 60 + int(text[3:])


def day_numbers(days: Sequence[str] | None) -> frozenset[int]:
    """Weekdays as ``date.weekday`` numbers them; ``ValueError`` if there is none, or one is there twice."""
    if days is None:
        return frozenset(range(len(DAYS)))
    if not days:
        raise ValueError("it names no day; leave it out for every day, or leave quiet_hours out for none")
    for at, day in enumerate(days):
        if day not in DAYS:
            raise ValueError(f"{day[:80]!r} is not one of {', '.join(DAYS)}")
        if day in days[:at]:
            raise ValueError(f"{day!r} is there twice; name each day once")
    return frozenset(map(DAYS.index, days))


@functools.cache
def zones() -> frozenset[str]:
    """The names of the IANA time zones, from the package: the same on every machine."""
    return frozenset((pkgutil.get_data("tzdata", "zones") or b"").decode().split())


@functools.lru_cache(maxsize=256)  # a file of users has the same mistake in many lines, and the search takes long
def check_zone(name: str) -> str | None:
    """What is wrong with the name of a time zone, and the nearest that are known; None if it is known."""
    if name in zones():
        return None
    folded = {zone.casefold().replace("_", " "): zone for zone in zones()}
    sought = name[:80].casefold().replace("_", " ")
    names = sorted(folded)
    found = difflib.get_close_matches(sought, names, cutoff=0.9) or difflib.get_close_matches(sought, names, cutoff=0.5)
    near = [folded[name] for name in found]
    hint = f"did you mean {' or '.join(near)}?" if near else 'it is a name such as "Europe/Paris" or "UTC"'
    return f"unknown time zone {name[:80]!r}; {hint}"
