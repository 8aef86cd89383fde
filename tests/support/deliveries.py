"""Deliveries to give to a channel."""

from __future__ import annotations

from typing import Any

from shards.channels.base import Delivery, Recipient
from shards.contacts import Contacts


def delivery(contacts: Contacts = Contacts(), **fields: Any) -> Delivery:  # noqa: B008  it is immutable
    """An information for ada."""
    given: dict[str, Any] = {
        "id": "1a2b-3-0",
        "notification_id": "1a2b-3-0",
        "channel": "",
        "attempt": 1,
        "recipient": Recipient("ada", contacts),
        "category": "system",
        "type": "info",
        "priority": "normal",
        "title": "Disk full",
        "text": "/dev/sda1 has no space left",
    }
    return Delivery(**given | fields)


def mail_to(address: str = "ada@example.org", **fields: Any) -> Delivery:
    given: dict[str, Any] = {
        "id": "d-1",
        "notification_id": "n-1",
        "channel": "email",
        "category": "marketing",
        "title": "Order 17 has shipped",
        "text": "It comes tomorrow.",
        "recipient": Recipient("user-1", Contacts(email=address)),
    }
    return delivery(**given | fields)
