"""What was decided about a notification to one user, as far as it is stored: in the words of an explanation.

Where it is not known any more how something was decided, there is no decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from shards import ledger, validation
from shards.changes import Note, Pause, Wait
from shards.findings import STEP_OF_REASON, Finding, instant
from shards.wire.notification import PRIORITIES, Notification
from shards.wire.outbox import DeadLetter

_WAITS = (ledger.RETRYING, ledger.DEFERRED)


class Delivery(NamedTuple):
    """One word of the ledger, and what is stored beside it."""

    channel: str
    word: int
    note: Note
    updated_ms: int
    letter: DeadLetter | None = None
    wait: Pause | Wait | None = None  # of one that is open, beside its turn
    digest: str | None = None  # it waits in one whose window has closed: the id that this is sent under

    @property
    def outcome(self) -> str:
        return ledger.OUTCOMES[ledger.outcome_of(self.word)]

    @property
    def reason(self) -> str | None:
        """None of one that is pending: its reason says what was decided before."""
        if self.wait is not None:
            return self.wait.why
        if ledger.outcome_of(self.word) == ledger.PENDING:
            return None
        return ledger.REASONS[ledger.reason_of(self.word)] or None

    @property
    def next_ms(self) -> int | None:
        return self.note[0] if ledger.outcome_of(self.word) in _WAITS else None

    def document(self) -> dict[str, Any]:
        """As ``status`` answers it."""
        return {
            "channel": self.channel,
            "outcome": self.outcome,
            "reason": self.reason,
            "attempts": ledger.attempts_of(self.word),
            "last_error": self.note[2] or None,
            "updated_at": self.updated_ms,
            "next_attempt_at": self.next_ms,
        }


class Routed(NamedTuple):
    """By which configured rule (0: none) of which version of the configuration (0: not known)."""

    config_version: int
    rule: int
    name: str | None
    line: int | None


def decided(
    notification: Notification, accepted_ms: int, routed: Routed, deliveries: Sequence[Delivery], *, by_default: bool
) -> Iterator[Finding]:
    """Of a notification that was accepted; ``by_default``: it is known that no configuration named its channels."""
    yield Finding("accept", "pass", detail=instant("accepted_at", accepted_ms))
    key = notification.id if notification.idempotency_key is None else notification.idempotency_key
    if key is not None:
        yield Finding("duplicate", "pass", detail={"key": key})
    otherwise = None if routed.rule else "category"  # which of the two a rule decided is not stored
    source = "default_routing" if otherwise and by_default else otherwise
    if notification.channels is not None:
        source = "notification"
    yield Finding("rule", "pass", source, _routing(notification, routed))
    source = otherwise if notification.priority is None else "notification"
    yield Finding("priority", "pass", source, {"priority": PRIORITIES[ledger.priority_of(deliveries[0].word)]})
    tried = any(ledger.attempts_of(delivery.word) for delivery in deliveries)
    stopped = {STEP_OF_REASON.get(delivery.reason or "") for delivery in deliveries}
    for name, step in (("expires_at", "expiry"), ("send_at", "schedule")):
        given = getattr(notification, name)
        if given is not None and tried and step not in stopped:
            yield Finding(step, "pass", detail=instant(name, validation.instant_ms(name, given)))
    for delivery in deliveries:
        yield from _of_delivery(delivery)


def _routing(notification: Notification, routed: Routed) -> dict[str, Any]:
    detail: dict[str, Any] = {"category": notification.category}
    if routed.rule:
        detail |= {"rule": routed.name, "number": routed.rule, "line": routed.line}
    if routed.config_version:
        detail["config_version"] = routed.config_version
    return detail


def _of_delivery(delivery: Delivery) -> Iterator[Finding]:
    outcome, reason, channel = delivery.outcome, delivery.reason, delivery.channel
    until = {} if delivery.next_ms is None else instant("until", delivery.next_ms)
    step = STEP_OF_REASON.get(reason or "") if delivery.wait is None else "channel"
    if step is not None:
        waits = outcome == ledger.OUTCOMES[ledger.DEFERRED]
        sent_as = {} if delivery.digest is None else {"sent_as": delivery.digest}
        paused = {} if delivery.wait is None else delivery.wait.document()
        waits = waits or delivery.wait is not None
        yield Finding(step, "defer" if waits else "block", reason, until | sent_as | paused, channel)
    detail: dict[str, Any] = dict(until)
    attempts = ledger.attempts_of(delivery.word)
    if attempts:
        detail["attempts"] = attempts
    if delivery.note[2]:
        detail |= {"error_class": delivery.note[1], "last_error": delivery.note[2]}
    if delivery.letter is not None:
        detail |= instant("died_at", delivery.letter.died_at_ms)
    yield Finding("outcome", outcome, reason, detail, channel)
