"""The inboxes of a dispatcher as a channel like all others, for programs that send by channels themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dispatcher.api.errors import DispatcherError, OverloadedError, ShutdownError
from shards.channels.base import Delivery, Recipient, SendError, Sent

if TYPE_CHECKING:
    from dispatcher.api.aio import AsyncNotificationService


class InAppChannel:
    """Puts a delivery into its user's inbox, once for each ``Delivery.id`` however often it is sent.

    ``service`` is the dispatcher that has the inboxes, which may be the program's own. ``timeout`` is how many seconds
    it has, from its receipt on, to put it there. The dispatcher's own deliveries to inboxes need no such object.
    """

    name = "inapp"

    def __init__(self, service: AsyncNotificationService, timeout: float = 30.0) -> None:
        self._service = service
        self._timeout_s = timeout

    def supports_recipient(self, recipient: Recipient) -> bool:
        """Everybody has an inbox."""
        return True

    async def send(self, delivery: Delivery) -> Sent:
        """Returns when the user finds it there; ``detail`` is the notification's id. Raises ``SendError``."""
        try:
            receipt = await self._service.notify(
                user_id=delivery.recipient.user_id,
                channels=[self.name],
                idempotency_key=delivery.id,
                category=delivery.category,
                type=delivery.type,
                priority=delivery.priority,
                title=delivery.title,
                body=delivery.text,
                payload=dict(delivery.payload),
                metadata=dict(delivery.metadata),
                expires_at=delivery.expires_ms,
            )
            status = await self._service.wait(receipt.id, self._timeout_s)
        except (DispatcherError, TimeoutError, ShutdownError) as error:
            raise _refusal(error) from error
        (ended,) = status.deliveries
        if ended.outcome != "delivered":
            raise SendError("permanent", f"the inbox did not get it: {ended.outcome} ({ended.reason})")
        return Sent(receipt.id)


def _refusal(error: DispatcherError | TimeoutError | ShutdownError) -> SendError:
    match error:
        case OverloadedError():
            return SendError("throttled", str(error), retry_after_s=(error.retry_after_ms or 0) / 1000)
        case TimeoutError():  # which an UnavailableError is
            return SendError("ambiguous", str(error))
        case ShutdownError():
            return SendError("transient", str(error))
    return SendError("permanent", str(error))
