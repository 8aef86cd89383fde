"""The dispatcher: the same function, called for each delivery by a channel that is given several at once.

docs/plugins.md: ``send_many``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.queues.sink import deliver
from shards.channels.base import Context, Delivery, Recipient, Sent


class SinkChannel:
    batch_max = 100

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """None."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self.name = "sink"

    def supports_recipient(self, _recipient: Recipient) -> bool:
        return True

    async def send_many(self, deliveries: Sequence[Delivery]) -> list[Sent]:
        return [await self.send(delivery) for delivery in deliveries]

    async def send(self, delivery: Delivery) -> Sent:
        deliver({"payload": delivery.payload})
        return Sent()
