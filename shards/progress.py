"""How far long work has come: a line in the log now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from shards.logs import Logger

EVERY_S = 5.0


class Progress:
    """Call ``advance`` as often as you like, and ``end`` at the end; ``total`` and ``done`` count what ``what`` names.

    Work that takes less than ``EVERY_S`` is one line, at its end.
    """

    def __init__(self, log: Logger, what: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = 0
        self._log = log
        self._what = what
        self._total = total
        self._clock = clock
        self._started = clock()
        self._next = self._started + EVERY_S

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = self._clock()
        if now >= self._next:
            self._next = now + EVERY_S
            rate = self.done / (now - self._started)
            left_s = round((self._total - self.done) / rate, 1) if rate else None
            self._log.info(self._what, done=self.done, total=self._total, per_s=round(rate), left_s=left_s)

    def end(self) -> None:
        took_s = self._clock() - self._started
        per_s = round(self.done / took_s) if took_s else None
        self._log.info(f"{self._what}: done", done=self.done, total=self._total, per_s=per_s, took_s=round(took_s, 3))
