"""The inboxes of a running dispatcher."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

import msgspec

from dispatcher.api.aio import AsyncNotificationService
from dispatcher.api.inapp_channel import InAppChannel
from shards.answers import ErrorClass
from shards.channels.base import Delivery, Recipient, Sent
from tests.support.service import RunningDispatcher

USER = "ada"
NOBODY = Recipient("")
BRIEFLY_S = 0.3
PATIENTLY_S = 60.0


class InAppRig:
    """What is wrong is so for one send: a recipient whom nobody can have, a service that was shut down, or a router
    that is stopped until the next send.
    """

    name = "inapp"
    classes: frozenset[ErrorClass] = frozenset({"transient", "permanent", "ambiguous"})

    def open(self) -> None:
        self._running = RunningDispatcher(shards=1).__enter__()
        self.service, self.impatient, self.shut_down = map(self._service, (PATIENTLY_S, BRIEFLY_S, BRIEFLY_S))
        asyncio.run(self.shut_down.shutdown())
        asyncio.run(self.service.metrics())  # so that it is connected
        self._next = ""
        self._stopped: int | None = None

    def _service(self, timeout_s: float) -> AsyncNotificationService:
        return AsyncNotificationService(submit=self._running.submit, timeout=timeout_s)

    def close(self) -> None:
        self._go_on()
        asyncio.run(self.service.shutdown())
        asyncio.run(self.impatient.shutdown())
        self._running.__exit__(None, None, None)

    def channel(self, timeout_s: float = 5.0) -> InAppChannel:
        return _Channel(self)

    def recipient(self) -> Recipient:
        return Recipient(USER)

    def stranger(self) -> None:
        return None

    def received(self) -> list[str]:
        return [f"{item['title']}\n{item['body']}" for item in self._items()]

    def keys(self) -> list[str]:
        return [item["idempotency_key"] for item in self._items()]

    def _items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor: int | None = 0
        while cursor is not None:
            page = self._running.request("inbox.list", user_id=USER, cursor=cursor, limit=500)
            items += page["items"]
            cursor = page["next"]
        return items

    def fail(self, error_class: ErrorClass) -> None:
        self._next = error_class

    def hang(self) -> None:
        self._next = "hang"

    def prepare(self) -> str:
        """For one send: what is to be wrong."""
        self._go_on()
        wrong, self._next = self._next, ""
        if wrong in ("ambiguous", "hang"):
            self._stopped = self._running.child_pids()["router"]
            os.kill(self._stopped, signal.SIGSTOP)
        return wrong

    def _go_on(self) -> None:
        if self._stopped is not None:
            with contextlib.suppress(ProcessLookupError):  # the supervisor has lost its patience with it
                os.kill(self._stopped, signal.SIGCONT)
            self._stopped = None


class _Channel(InAppChannel):
    def __init__(self, rig: InAppRig) -> None:
        super().__init__(rig.service, PATIENTLY_S)
        self._rig = rig

    async def send(self, delivery: Delivery) -> Sent:
        match self._rig.prepare():
            case "permanent":
                delivery = msgspec.structs.replace(delivery, recipient=NOBODY)
            case "transient":
                return await InAppChannel(self._rig.shut_down).send(delivery)
            case "ambiguous":
                return await InAppChannel(self._rig.impatient).send(delivery)
        return await super().send(delivery)
