"""The pagers again, by a worker that is attached to a running dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dispatcher.service import NotificationService
from shards.answers import ErrorClass
from shards.channels.base import Delivery, NotificationChannel, Recipient, SendError, Sent
from tests.support.rigs.plugin import PluginRig
from tests.support.service import RunningDispatcher
from tests.support.waiting import until

CHANNEL = "pages"
CONFIG = f"""
[dispatcher]
drain = "100ms"
[channels.{CHANNEL}]
provider = "attached"
timeout = "20s"
retry = {{ max_retries = 0 }}
"""
PATIENCE_S = 60.0


class AttachedRig(PluginRig):
    name = "attached"

    def open(self) -> None:
        super().open()
        self._running = RunningDispatcher(CONFIG, shards=1).__enter__()
        self.service = NotificationService(submit=self._running.submit, timeout=PATIENCE_S)
        self.worker = _Worker(super().channel)
        self._registration = self.service.register_channel(CHANNEL, self.worker)

    def close(self) -> None:
        self._registration.detach(0)  # not waiting for what hangs
        self.service.shutdown(0)
        self._running.__exit__(None, None, None)
        super().close()

    def channel(self, timeout_s: float = 5.0) -> NotificationChannel:
        return _Dispatched(self)


class _Worker:
    """The pagers, in the thread of the worker, and with new connections after ``renew``."""

    name = CHANNEL

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._pagers = make()
        self._loop: asyncio.AbstractEventLoop | None = None

    def supports_recipient(self, recipient: Recipient) -> bool:
        return bool(self._pagers.supports_recipient(recipient))

    async def send(self, delivery: Delivery) -> Sent | None:
        self._loop = asyncio.get_running_loop()
        sent: Sent | None = await self._pagers.send(delivery)
        return sent

    async def renew(self) -> None:
        before, self._pagers = self._pagers, self._make()
        if self._loop is not None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(before.close(), self._loop))


class _Dispatched:
    """A channel whose deliveries go to the dispatcher, which has the worker make them: each to a user of its own.

    What is sent again after a failure is replayed from the dead letters.
    """

    name = CHANNEL

    def __init__(self, rig: AttachedRig) -> None:
        self._service = rig.service
        self._worker = rig.worker

    def supports_recipient(self, recipient: Recipient) -> bool:
        """Only the worker knows: it is asked by a delivery."""
        id = self._submitted(recipient, f"reaches-{recipient.user_id}", title="whom it can reach")
        (ended,) = self._service.wait(id, PATIENCE_S).deliveries
        return ended.reason != "no_contact"

    async def send(self, delivery: Delivery) -> Sent:
        id = self._submitted(delivery.recipient, delivery.id, title=delivery.title, body=delivery.text)
        await until(lambda: self._has_ended(id), PATIENCE_S)
        (ended,) = self._service.status(id).deliveries
        if ended.reason == "channel_paused":
            said = self._service.metrics()["channels"][CHANNEL]["paused"]["message"]
            self._service.request("channel.resume", channel=CHANNEL)
            raise SendError("misconfigured", said)
        if ended.outcome != "delivered":
            (letter,) = self._service.dead_letters(id=id)
            error_class: ErrorClass = letter.error_class  # type: ignore[assignment]  # a text in JSON
            raise SendError(error_class, letter.last_error)
        return Sent(id)

    async def close(self) -> None:
        await self._worker.renew()

    def _submitted(self, recipient: Recipient, key: str, **fields: str) -> str:
        user_id = f"user-of-{key}"
        self._service.put_user(user_id, {"contacts": {"other": recipient.contacts.other}})
        receipt = self._service.notify(user_id=user_id, channels=[CHANNEL], idempotency_key=key, **fields)
        if receipt.duplicate:
            self._service.replay(id=receipt.id)
        return receipt.id

    def _has_ended(self, id: str) -> bool:
        (delivery,) = self._service.status(id).deliveries
        return delivery.final or delivery.reason == "channel_paused"
