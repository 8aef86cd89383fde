"""What the Python API answers. Times are milliseconds since 1970-01-01 UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from dispatcher.api.errors import RejectedError
from dispatcher.api.ids import Id
from shards.wire.errors import Error

Outcome = Literal[
    "pending", "retrying", "deferred", "delivered", "dead", "suppressed", "rate_limited", "expired", "cancelled"
]
FINAL = frozenset({"delivered", "dead", "suppressed", "rate_limited", "expired", "cancelled"})
BROADCAST_FINAL = frozenset({"done", "cancelled", "expired", "failed"})


class Rejection(msgspec.Struct, frozen=True):
    """``index`` is the place of what was rejected: in the batch, or among the ``recipients``."""

    index: int
    error: Error


class Duplicate(msgspec.Struct, frozen=True):
    """The notification at ``index`` was known; ``mismatch``: with other content, which is a bug in the producer."""

    index: int
    mismatch: bool = False


class Receipt(msgspec.Struct, frozen=True):
    """What was accepted is on disk. ``ids`` has one for each recipient, ``id`` is the first.

    ``duplicate``: it was known already (the id is the original's); ``mismatch``: and said something else. Of several
    recipients ``rejected`` has those that are not acceptable, and ``ids`` None in their place.
    """

    id: str
    ids: list[str | None]
    duplicate: bool = False
    mismatch: bool = False
    rejected: list[Rejection] = []


class BatchReceipt(msgspec.Struct, frozen=True):
    """What was accepted is on disk. ``accepted`` and ``duplicates`` count recipients.

    ``ids`` has an entry for each notification: its id, a list of them where it has ``recipients``, None where it was
    rejected. ``duplicate`` and ``rejected`` are in the order of the batch.
    """

    accepted: int
    duplicates: int
    ids: Sequence[Id]
    duplicate: list[Duplicate] = []
    rejected: list[Rejection] = []

    def raise_for_rejected(self) -> None:
        """Raises ``RejectedError`` with the first rejection, and how many there are."""
        if self.rejected:
            first = self.rejected[0]
            text = (
                f"notification {first.index} of {len(self.ids)}, {len(self.rejected)} rejected: {first.error.message}"
            )
            raise RejectedError(msgspec.structs.replace(first.error, message=text))


class DeliveryStatus(msgspec.Struct, frozen=True):
    """One delivery: a notification to a user on a channel. docs/protocol.md has all outcomes and reasons."""

    channel: str
    outcome: Outcome
    reason: str | None = None
    attempts: int = 0
    last_error: str | None = None
    updated_at: int = 0
    next_attempt_at: int | None = None

    @property
    def final(self) -> bool:
        return self.outcome in FINAL


class Decision(msgspec.Struct, frozen=True):
    """One step of what becomes of a notification; docs/protocol.md lists the steps."""

    step: str
    channel: str | None
    result: str
    reason: str | None = None
    detail: dict[str, Any] = {}
    user_id: str | None = None


class Status(msgspec.Struct, frozen=True):
    """What became of a notification. ``decisions`` says how; ``broadcast`` is of one to a topic."""

    id: str
    deliveries: list[DeliveryStatus]
    decisions: list[Decision] = []
    broadcast: dict[str, Any] | None = None

    @property
    def final(self) -> bool:
        """Whether every delivery has ended; of a broadcast: whether everybody was reached and has it."""
        if self.broadcast is None:
            return all(delivery.final for delivery in self.deliveries)
        ended = sum(count for outcome, count in self.broadcast["outcomes"].items() if outcome in FINAL)
        return self.broadcast["state"] in BROADCAST_FINAL and ended >= self.broadcast["planned"]

    @property
    def outcomes(self) -> Mapping[str, Outcome]:
        """The outcome of each channel."""
        return {delivery.channel: delivery.outcome for delivery in self.deliveries}


class DeadLetter(msgspec.Struct, frozen=True):
    """A delivery that failed for good. ``notification`` is what was submitted, as far as it could be read."""

    id: str
    user_id: str | None
    channel: str | None
    category: str | None
    reason: str
    error_class: str
    last_error: str
    attempts: int
    died_at: int
    notification: dict[str, Any]


class InboxItem(msgspec.Struct, frozen=True):
    """An in-app notification as its user finds it. ``cursor`` numbers the user's items, from 1 and without gaps."""

    id: str
    cursor: int
    user_id: str
    category: str
    type: Literal["info", "success", "warning", "error"]
    priority: Literal["low", "normal", "high", "critical"]
    title: str | None
    body: str | None
    template: str | None
    payload: dict[str, Any] | None
    metadata: dict[str, str] | None
    idempotency_key: str | None
    accepted_at: int
    state: Literal["new", "seen", "read", "archived"]
