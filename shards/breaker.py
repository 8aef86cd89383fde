"""When a provider is left alone: a breaker that opens at many failures, and tries one attempt after a while.

A pure function of what it is told and the time (monotonic seconds). The design is of the usual three states: closed,
open, half-open (Nygard, "Release It!").
"""

from __future__ import annotations

from collections import deque
from typing import Literal

WINDOW_S = 300.0
ATTEMPTS_MIN = 10
FAILURES_MIN = 0.7
OPEN_S = 30.0
SLOT_S = 10.0  # attempts are counted together that ended in the same
PATIENCE_S = 1.0  # after a throttled attempt that says no time
PATIENCE_MAX_S = 60.0


def patience_s(asked_s: float) -> float:
    """How long who is throttled leaves a provider alone that asks for ``asked_s``, or for no time (0)."""
    return min(asked_s or PATIENCE_S, PATIENCE_MAX_S)


class Breaker:
    """``alone``: no other provider stands by. Then answers of being throttled count once for each time that it is left
    alone: the channel is slowed, and what was under way says nothing new."""

    def __init__(self, alone: bool = True) -> None:
        self._alone = alone
        self._slots: deque[tuple[float, int, int]] = deque()  # (begin, attempts, failures), of the window
        self._until = 0.0  # open until then
        self._tripped = False
        self._probing = False

    def state(self, now: float) -> Literal["closed", "throttled", "open", "half_open"]:
        """``throttled`` is left alone as it has asked, and no more."""
        if now < self._until:
            return "open" if self._tripped else "throttled"
        return "half_open" if self._tripped else "closed"

    def admits(self, now: float) -> bool:
        """Whether an attempt may be made; half open, one at a time."""
        return now >= self._until and not (self._tripped and self._probing)

    def begin(self) -> None:
        """An attempt is made that was admitted."""
        self._probing = self._tripped

    def leave(self) -> None:
        """What was begun says nothing of the provider: it was not asked."""
        self._probing = False

    def next_at(self, now: float) -> float:
        """When to ask again whether it admits one."""
        return self._until if now < self._until else now + PATIENCE_S

    def succeed(self, now: float) -> None:
        if self._tripped and now >= self._until:  # before that it is the end of an attempt from before it opened
            self._tripped = self._probing = False
            self._slots.clear()
        self._count(now, failed=False)

    def fail(self, now: float, throttled: bool = False, asked_s: float = 0.0) -> None:
        """An attempt failed for which the provider is to blame; ``asked_s`` is how long it asked to be left alone."""
        if not (throttled and self._alone and now < self._until):
            self._count(now, failed=True)
        attempts, failures = (sum(slot[at] for slot in self._slots) for at in (1, 2))
        if self._tripped or (attempts >= ATTEMPTS_MIN and failures >= FAILURES_MIN * attempts):
            self._tripped, self._probing = True, False
            self._until = max(self._until, now + OPEN_S)
        if throttled:
            self._until = max(self._until, now + patience_s(asked_s))

    def _count(self, now: float, failed: bool) -> None:
        while self._slots and self._slots[0][0] < now - WINDOW_S:
            self._slots.popleft()
        if self._slots and now - self._slots[-1][0] < SLOT_S:
            begin, attempts, failures = self._slots.pop()
        else:
            begin, attempts, failures = now, 0, 0
        self._slots.append((begin, attempts + 1, failures + failed))
