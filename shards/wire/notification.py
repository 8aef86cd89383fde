"""What producers submit, and as much of it as each reader decodes. Public: a contract with other languages."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct


class Priority(enum.IntEnum):
    """The number is that on the wire."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


PRIORITIES = tuple(priority.name.lower() for priority in Priority)
PRIORITY_NUMBERS: dict[str | int, int] = {name: number for number, name in enumerate(PRIORITIES)} | {
    number: number for number in range(len(PRIORITIES))
}
CHANNELS = ("email", "sms", "push", "inapp", "webhook", "system")

USER_ID_BYTES_MAX = 256
KEY_BYTES_MAX = 255
MADE_KEY = "~auto~"  # how keys begin that a client made, so that it may send again
TOPIC_BYTES_MAX = 256
EVERY_USER = "*"  # the topic of all who have a document


class Notification(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What a producer submits. Exactly one of ``user_id``, ``recipients`` and ``topic`` addresses it."""

    user_id: str | None = None
    recipients: list[str] | None = None
    topic: str | None = None
    category: str = "system"
    type: Literal["info", "success", "warning", "error"] = "info"
    priority: str | int | None = None
    title: str | None = None
    body: str | None = None
    template: str | None = None
    payload: dict[str, Any] | None = None
    channels: Annotated[list[str], Meta(min_length=1)] | None = None
    idempotency_key: str | None = None
    id: str | None = None
    send_at: str | int | None = None
    expires_at: str | int | None = None
    metadata: dict[str, str] | None = None


_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Plain(Struct, forbid_unknown_fields=True, gc=False):
    """The common kind of ``Notification``, narrow enough that decoding it is most of checking it.

    Lengths are in code points, of at most 4 bytes each. Whatever does not fit is decoded as ``Notification``.
    """

    user_id: str
    title: str
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=KEY_BYTES_MAX // 4)]
    category: str = "system"
    type: Literal["info", "success", "warning", "error"] = "info"
    priority: Literal["low", "normal", "high", "critical"] | None = None
    body: str | None = None
    payload: dict[str, str | _Integer | bool | None] | None = None
    metadata: dict[str, str] | None = None


class UserRoute(Struct, gc=False):
    """All that the router decodes of a notification to one user."""

    user_id: str


class Route(Struct, gc=False):
    """The only fields of a notification that the router decodes."""

    user_id: str | None = None
    recipients: list[str] | None = None
    topic: str | None = None


# A frame's entry: a notification as its producer encoded it, or, fanned out, the recipients of this shard with it. To
# a topic, it is fanned out to one "recipient", which is the broadcast's id.
Fanned = tuple[list[str], Notification]
Entry = Notification | Fanned
