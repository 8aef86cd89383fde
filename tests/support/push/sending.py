"""Deliveries to devices, and the channel that takes them, in a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from shards.channels.base import Context, Delivery, Recipient, SendError, Sent
from shards.channels.push import PushChannel
from shards.contacts import Contacts, PushContact

TIMEOUT_S = 30.0


def recipient(*devices: tuple[str, str]) -> Recipient:
    return Recipient("ada", Contacts(push=tuple(PushContact(*device) for device in devices)))


def delivery(*devices: tuple[str, str], **more: Any) -> Delivery:
    """``devices`` are pairs of provider and token."""
    fields: dict[str, Any] = {
        "id": "d-1",
        "notification_id": "n-1",
        "channel": "push",
        "attempt": 1,
        "recipient": recipient(*devices),
        "category": "transaction",
        "type": "info",
        "priority": "normal",
        "title": "Order 17",
        "text": "It has shipped",
    }
    return Delivery(**fields | more)


def outcomes(
    settings: PushChannel.Settings,
    *deliveries: Delivery,
    timeout_s: float = TIMEOUT_S,
    trace: Callable[[str], None] | None = None,
) -> list[Sent | SendError]:
    """One after the other, by one channel."""

    async def work() -> list[Sent | SendError]:
        channel = PushChannel(settings, Context("push", timeout_s, trace=trace))
        found: list[Sent | SendError] = []
        try:
            for one in deliveries:
                try:
                    found.append(await channel.send(one))
                except SendError as error:
                    found.append(error)
        finally:
            await channel.close()
        return found

    return asyncio.run(work())


def sent(settings: PushChannel.Settings, one: Delivery) -> Sent:
    (outcome,) = outcomes(settings, one)
    assert isinstance(outcome, Sent), outcome
    return outcome


def refused(settings: PushChannel.Settings, one: Delivery) -> SendError:
    (outcome,) = outcomes(settings, one)
    assert isinstance(outcome, SendError), outcome
    return outcome
