"""Deliveries for the tests of channels."""

from __future__ import annotations

from typing import Any

from shards.channels.base import Delivery, Recipient
from shards.contacts import Contacts


def mail_to(address: str = "ada@example.org", **fields: Any) -> Delivery:
    given = {
        "id": "d-1",
        "notification_id": "n-1",
        "channel": "email",
        "attempt": 1,
        "recipient": Recipient("user-1", Contacts(email=address)),
        "category": "marketing",
        "type": "info",
        "priority": "normal",
        "title": "Order 17 has shipped",
        "text": "It comes tomorrow.",
    }
    return Delivery(**{**given, **fields})
