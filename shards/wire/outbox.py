"""What a shard tells the collector, numbered, until it is confirmed."""

from __future__ import annotations

from msgspec import Struct


class DeadLetter(Struct, array_like=True, gc=False):
    """A delivery that ended for good, with all that an operator needs to judge it."""

    id: str
    user_id: str | None
    channel: str | None
    category: str | None
    reason: str
    error_class: str
    last_error: str
    attempts: int
    died_at_ms: int
    notification: bytes  # as JSON


class DeadAdded(Struct, array_like=True, tag="a", gc=False):
    letter: DeadLetter


class DeadRemoved(Struct, array_like=True, tag="r", gc=False):
    ids: list[tuple[str, str | None]]  # (id, channel)


class Metrics(Struct, array_like=True, tag="m", gc=False):
    """What happened in one shard since its last metrics: ``(channel, outcome, count)``."""

    at_s: int
    counts: list[tuple[str, str, int]]


OutboxItem = DeadAdded | DeadRemoved | Metrics


class Outbox(Struct, array_like=True, tag="O", gc=False):
    """Numbered items ``first``, ``first + 1``, ... of a shard's outbox."""

    shard: int
    generation: str
    first: int
    items: list[OutboxItem]


class OutboxAck(Struct, array_like=True, tag="T", gc=False):
    """The collector has everything of this shard's generation up to ``n``."""

    generation: str
    n: int
