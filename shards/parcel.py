"""A delivery as the shard hands it to its channel: what the journal has of it, not rendered yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from shards.channels.base import Delivery, Recipient
from shards.frames import Entry
from shards.wire.notification import PRIORITIES, Notification

# of a notification on a channel for a recipient, with a priority: the parts of its template; raises ``SendError``
Renderer = Callable[[Notification, str, Recipient, str], Mapping[str, str]]
Priority = Literal["low", "normal", "high", "critical"]
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")


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


def unpack(parcel: Parcel, channel: str, render: Renderer) -> Delivery:
    """What the channel sends. A template's parts go before what the producer wrote."""
    said = parcel.said
    priority: Priority = PRIORITIES[parcel.priority]  # type: ignore[assignment]  # a tuple of the same four
    parts = render(said, channel, parcel.recipient, priority) if said.template is not None else {}
    payload: Mapping[str, Any] = said.payload or {}
    title = parts.get("title") or parts.get("subject") or said.title or ""
    text = parts.get("text") or parts.get("body") or said.body or _message(payload) or title
    return Delivery(
        id=_UNSAFE.sub("-", parcel.delivery_id),
        notification_id=parcel.notification_id,
        channel=channel,
        attempt=parcel.attempt,
        recipient=parcel.recipient,
        category=said.category,
        type=said.type,
        priority=priority,
        title=title,
        text=text,
        html=parts.get("html"),
        parts=parts,
        payload=payload,
        metadata=said.metadata or {},
        created_ms=parcel.created_ms,
        expires_ms=parcel.expires_ms,
        collapse=parcel.collapse,
        unsubscribable=parcel.unsubscribable,
    )


def _message(payload: Mapping[str, Any]) -> str:
    message = payload.get("message")
    return message if isinstance(message, str) else ""
