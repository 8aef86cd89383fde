"""What is asked on ``submit``, operation by operation. Public: a contract with programs in other languages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from shards.answers import ErrorClass

MESSAGE_BYTES_HARD_MAX = 64 * 2**20  # of a request: beyond, ZeroMQ closes the connection; below, too_large is answered
PAGE_BYTES_MAX = 4 * 2**20  # of the items of one answer; a page ends before it, and goes on with its cursor


class Submit(Struct, forbid_unknown_fields=True):
    op: Literal["submit"]
    notifications: Raw
    seq: int | str | None = None


class Request(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Any operation but ``submit``: the union of what they take. ``OPERATIONS`` says which takes what."""

    op: str
    seq: int | str | None = None
    id: str | None = None
    user_id: str | None = None
    idempotency_key: str | None = None
    user: dict[str, Any] | None = None
    topic: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] | None = None
    cursor: str | int | None = None
    ids: list[str] | None = None
    state: Literal["seen", "read", "archived"] | None = None
    channel: str | None = None
    category: str | None = None
    reason: str | None = None
    error_class: str | None = None
    since: str | int | None = None
    name: str | None = None
    parts: dict[str, str] | None = None
    notification: dict[str, Any] | None = None


class WorkerCall(Struct, forbid_unknown_fields=True):
    """``channel.attach`` or ``channel.detach``. Each of the ``results`` is checked by itself, as a ``WorkResult``."""

    op: Literal["channel.attach", "channel.detach"]
    channel: str
    worker: str
    seq: int | str | None = None
    limit: Annotated[int, Meta(ge=0, le=1000)] = 1
    wait_ms: Annotated[int, Meta(ge=0, le=30_000)] = 10_000
    results: list[Any] = []


class WorkResult(Struct, forbid_unknown_fields=True, frozen=True):
    """What a worker says of a delivery; it was taken where there is no ``error_class``.

    ``no_contact`` and ``returned`` say that nothing was attempted.
    """

    token: str
    detail: str = ""
    bad: Annotated[list[str], Meta(max_length=100)] = []
    error_class: ErrorClass | Literal["no_contact", "returned"] | None = None
    message: str = ""
    retry_after_ms: Annotated[int, Meta(ge=0, le=2**53)] | None = None


_DEAD_FILTERS = ("channel", "category", "reason", "error_class", "since", "user_id", "id")

# op -> (what it must have, what it may have); the router checks this before anything is asked of a shard.
OPERATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "status": ((), ("id", "user_id", "idempotency_key")),
    "explain": (("notification",), ()),
    "cancel": ((), ("id", "user_id", "idempotency_key")),
    "user.put": (("user_id", "user"), ()),
    "user.get": (("user_id",), ()),
    "user.delete": (("user_id",), ()),
    "topic.subscribe": (("topic", "user_id"), ()),
    "topic.unsubscribe": (("topic", "user_id"), ()),
    "inbox.list": (("user_id",), ("limit", "cursor")),
    "inbox.mark": (("user_id", "ids", "state"), ()),
    "dead.list": ((), (*_DEAD_FILTERS, "limit", "cursor")),
    "dead.replay": ((), (*_DEAD_FILTERS, "limit")),
    "dead.purge": ((), (*_DEAD_FILTERS, "limit")),
    "backup.begin": (("id",), ()),
    "backup.end": (("id",), ()),
    "channel.pause": (("channel",), ()),
    "channel.resume": (("channel",), ()),
    "channel.attach": (("channel", "worker"), ("limit", "wait_ms", "results")),
    "channel.detach": (("channel", "worker"), ()),
    "template.list": ((), ()),
    "template.put": (("name", "parts"), ()),
    "config.reload": ((), ()),
    "stats": ((), ()),
    "ping": ((), ()),
}
