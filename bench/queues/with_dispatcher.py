"""The dispatcher: the same function, as a channel that the shards call for each delivery."""

from __future__ import annotations

import msgspec

from bench.queues.sink import deliver
from shards.channels.base import Context, Delivery, Recipient, Sent


class SinkChannel:
    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """None."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self.name = "sink"

    def supports_recipient(self, _recipient: Recipient) -> bool:
        return True

    async def send(self, delivery: Delivery) -> Sent:
        deliver({"payload": delivery.payload})
        return Sent()
