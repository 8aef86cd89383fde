"""What became of every delivery, in memory: the words of the shards' ledger, without their journal."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Literal, cast

from dispatcher.api.results import DeliveryStatus, Outcome, Status
from shards import ledger
from shards.answers import ErrorClass
from shards.retry import DueHeap, RetryPolicy
from shards.sending import RETRIED, SLOWED, reason_of_end

STALE_MAX = 1_000  # times at which nothing is due any more, beside as many as there are others


class _Tracked:
    """One delivery: its word, and what is told beside it."""

    __slots__ = ("due", "error", "updated", "word")

    def __init__(self, now: float) -> None:
        self.word = ledger.word(0, 0)
        self.updated = now
        self.due: float | None = None  # when it is to be attempted, if not yet
        self.error = ""


class DeliveryTracker:
    """Which deliveries are pending, delivered, retrying or dead, and which are to be tried again when.

    A notification has one delivery per channel. ``retry`` decides whether a failure is tried again, and when;
    ``random`` draws its jitter from [0, 1). ``now`` is in seconds since 1970, as ``time.time`` has it. Of the
    notifications that have ended the last ``ended_max`` are kept; ``counts`` forgets none. One thread at a time may use
    it. ``KeyError`` is for a delivery that there is none of, ``ValueError`` for one that has ended, or exists already.

    >>> tracker = DeliveryTracker(RetryPolicy(max_retries=1, base=10.0, jitter="none"))
    >>> tracker.plan("order-17", ["inapp", "email"], now=0.0)
    >>> tracker.counts()
    {'pending': 2}
    >>> tracker.delivered("order-17", "inapp", now=1.0)
    >>> tracker.failed("order-17", "email", now=1.0, message="no answer")
    'retrying'
    >>> tracker.due(now=10.9), tracker.due(now=11.0)
    ([], [('order-17', 'email')])
    >>> tracker.failed("order-17", "email", now=11.0, message="no answer")
    'dead'
    >>> [(one.channel, one.outcome, one.reason, one.attempts) for one in tracker.status("order-17").deliveries]
    [('inapp', 'delivered', None, 1), ('email', 'dead', 'max_retries', 2)]
    >>> tracker.counts()
    {'delivered': 1, 'dead': 1}
    """

    def __init__(
        self,
        retry: RetryPolicy | None = None,
        *,
        random: Callable[[], float] = random.random,
        ended_max: int = 100_000,
    ) -> None:
        self._retry = retry or RetryPolicy()
        self._random = random
        self._ended_max = ended_max
        self._tracked: dict[str, dict[str, _Tracked]] = {}
        self._open: dict[str, int] = {}  # by notification, how many of its deliveries have not ended
        self._ended: dict[str, None] = {}  # notifications, the oldest first
        self._waiting: DueHeap[tuple[str, str, float]] = DueHeap()
        self._due = 0  # deliveries that wait for a time
        self._counts = [0] * len(ledger.OUTCOMES)

    def counts(self) -> dict[str, int]:
        """How many deliveries have each outcome; all together are all that were planned."""
        return {name: count for name, count in zip(ledger.OUTCOMES, self._counts, strict=True) if count}

    def status(self, id: str) -> Status:
        """The deliveries of a notification, in the order of its channels."""
        return Status(id, [_status(channel, one) for channel, one in self._tracked[id].items()])

    def plan(self, id: str, channels: Iterable[str], now: float) -> None:
        """One delivery on each channel, pending."""
        if id in self._tracked:
            raise ValueError(f"{id!r} is tracked already")
        planned = {channel: _Tracked(now) for channel in channels}
        if not planned:
            raise ValueError(f"{id!r} has no channels")
        self._tracked[id] = planned
        self._open[id] = len(planned)
        self._counts[ledger.PENDING] += len(planned)

    def delivered(self, id: str, channel: str, now: float) -> None:
        """An attempt that succeeded."""
        self._write(id, channel, ledger.DELIVERED, "", now, attempts=1)

    def failed(
        self,
        id: str,
        channel: str,
        now: float,
        error_class: ErrorClass = "transient",
        message: str = "",
        retry_after_s: float = 0.0,
    ) -> Literal["retrying", "dead"]:
        """An attempt that failed. The class of the error, and the policy, say whether it is tried again."""
        tracked = self._open_one(id, channel)
        attempts = ledger.attempts_of(tracked.word) + 1
        tracked.error = message
        if error_class not in RETRIED or self._retry.exhausted(attempts):
            self._write(id, channel, ledger.DEAD, reason_of_end(error_class), now, attempts=1)
            return "dead"
        throttled = error_class in SLOWED
        delay_s = self._retry.delay_s(attempts, self._random, throttled=throttled, asked_s=retry_after_s)
        self._write(id, channel, ledger.RETRYING, "", now, attempts=1, due=now + delay_s)
        return "retrying"

    def defer(
        self, id: str, channel: str, now: float, until: float, reason: Literal["send_at", "quiet_hours", "limit"]
    ) -> None:
        """No attempt before ``until``."""
        self._write(id, channel, ledger.DEFERRED, reason, now, due=until)

    def end(
        self,
        id: str,
        channel: str,
        now: float,
        outcome: Literal["suppressed", "rate_limited", "expired", "cancelled"],
        reason: Literal["", "preference", "no_contact", "limit", "cap", "expires_at", "cancelled"] = "",
    ) -> None:
        """It ends without an attempt."""
        self._write(id, channel, ledger.OUTCOMES.index(outcome), reason, now)

    def cancel(self, id: str, now: float) -> int:
        """End all of a notification's deliveries that have not ended; how many there were."""
        waiting = [name for name, one in self._tracked[id].items() if ledger.outcome_of(one.word) in ledger.OPEN]
        for channel in waiting:
            self.end(id, channel, now, "cancelled", "cancelled")
        return len(waiting)

    def due(self, now: float) -> list[tuple[str, str]]:
        """What is to be attempted now, as ``(id, channel)``: each is named once, and never before its time."""
        found = []
        for id, channel, due in self._waiting.pop_due(now):
            tracked = self._waits(id, channel, due)
            if tracked is not None:
                tracked.due = None
                self._due -= 1
                found.append((id, channel))
        return found

    def next_due(self) -> float | None:
        """When ``due`` may have something; None if nothing waits."""
        return self._waiting.next_due()

    def _waits(self, id: str, channel: str, due: float) -> _Tracked | None:
        """None if it has ended, or waits for another time."""
        tracked = self._tracked.get(id, {}).get(channel)
        return tracked if tracked is not None and tracked.due == due else None

    def _forget_stale(self) -> None:
        for id, channel, due in dict.fromkeys(self._waiting.pop_due(math.inf)):
            if self._waits(id, channel, due) is not None:
                self._waiting.push(due, (id, channel, due))

    def _open_one(self, id: str, channel: str) -> _Tracked:
        tracked = self._tracked[id][channel]
        outcome = ledger.outcome_of(tracked.word)
        if outcome not in ledger.OPEN:
            raise ValueError(f"the delivery of {id!r} on {channel!r} has ended: {ledger.OUTCOMES[outcome]}")
        return tracked

    def _write(
        self,
        id: str,
        channel: str,
        outcome: int,
        reason: str,
        now: float,
        *,
        attempts: int = 0,
        due: float | None = None,
    ) -> None:
        tracked = self._open_one(id, channel)
        self._counts[ledger.outcome_of(tracked.word)] -= 1
        self._counts[outcome] += 1
        attempts += ledger.attempts_of(tracked.word)
        tracked.word = ledger.word(0, 0, outcome, ledger.REASON[reason], attempts)
        tracked.updated = now
        self._due += (due is not None) - (tracked.due is not None)
        tracked.due = due
        if due is not None:
            self._waiting.push(due, (id, channel, due))
            if len(self._waiting) > 2 * self._due + STALE_MAX:
                self._forget_stale()
        if outcome in ledger.FINAL:
            self._end_one(id)

    def _end_one(self, id: str) -> None:
        self._open[id] -= 1
        if not self._open[id]:
            del self._open[id]
            self._ended[id] = None
            if len(self._ended) > self._ended_max:
                oldest = next(iter(self._ended))
                del self._ended[oldest], self._tracked[oldest]


def _status(channel: str, tracked: _Tracked) -> DeliveryStatus:
    word = tracked.word
    return DeliveryStatus(
        channel=channel,
        outcome=cast(Outcome, ledger.OUTCOMES[ledger.outcome_of(word)]),
        reason=ledger.REASONS[ledger.reason_of(word)] or None,
        attempts=ledger.attempts_of(word),
        last_error=tracked.error or None,
        updated_at=int(tracked.updated * 1000),
        next_attempt_at=None if tracked.due is None else int(tracked.due * 1000),
    )
