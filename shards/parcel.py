"""A delivery as the shard hands it to its channel: what the journal has of it, not rendered yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from shards.channels.base import Delivery, Recipient
from shards.frames import Entry
from shards.wire.notification import PRIORITIES, Notification

# of a notification on a channel for a recipient, with a priority, and with what the channel lets a template write: the
# parts of its template; raises ``SendError``
Renderer = Callable[[Notification, str, Recipient, str, Mapping[str, Any]], Mapping[str, str]]
Variables = Callable[[Delivery], Mapping[str, Any]]  # what a template may write beside the rest
Priority = Literal["low", "normal", "high", "critical"]
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


def nothing(delivery: Delivery) -> Mapping[str, Any]:
    return {}


class Parcel(NamedTuple):
    entry: Entry
    said: Notification
    recipient: Recipient
    notification_id: str
    delivery_id: str
    attempt: int
    priority: int
    created_ms: int
    expires_ms: int | None
    collapse: str | None
    unsubscribable: bool


def delivery_id(notification_id: str, channel: str) -> str:
    """The same at every attempt; a channel may have any name."""
    return _UNSAFE.sub("-", f"{notification_id}-{channel}")


def unpack(parcel: Parcel, channel: str, render: Renderer, more: Variables = nothing) -> Delivery:
    """What the channel sends. A template's parts go before what the producer wrote; ``more`` is for the template."""
    said = parcel.said
    priority: Priority = PRIORITIES[parcel.priority]  # type: ignore[assignment]  # a tuple of the same four
    payload: Mapping[str, Any] = said.payload or {}
    title = said.title or ""
    text = said.body or _message(payload)
    delivery = Delivery(
        id=_UNSAFE.sub("-", parcel.delivery_id),
        notification_id=parcel.notification_id,
        channel=channel,
        attempt=parcel.attempt,
        recipient=parcel.recipient,
        category=said.category,
        type=said.type,
        priority=priority,
        title=title,
        text=text or title,
        payload=payload,
        metadata=said.metadata or {},
        created_ms=parcel.created_ms,
        expires_ms=parcel.expires_ms,
        collapse=parcel.collapse,
        unsubscribable=parcel.unsubscribable,
    )
    if said.template is None:
        return delivery
    parts = render(said, channel, parcel.recipient, priority, more(delivery))
    title = parts.get("title") or parts.get("subject") or title
    text = parts.get("text") or parts.get("body") or text or title
    return msgspec.structs.replace(delivery, title=title, text=text, html=parts.get("html"), parts=parts)


def _message(payload: Mapping[str, Any]) -> str:
    message = payload.get("message")
    return message if isinstance(message, str) else ""
