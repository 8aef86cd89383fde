"""A session bus and dunst."""

from __future__ import annotations

import os
import signal

from shards.answers import ErrorClass
from shards.channels.base import Context, Delivery, Recipient, Sent
from shards.channels.system import SystemChannel
from tests.support.desktop import Desktop


class SystemRig:
    """What is wrong with the desktop is so for one send, and mended before the next."""

    name = "system"
    classes: frozenset[ErrorClass] = frozenset({"misconfigured"})

    def open(self) -> None:
        self._desktop = Desktop()
        self._desktop.start()
        self._shown: list[str] = []
        self._next = self._state = "well"

    def close(self) -> None:
        self._desktop.close()

    def channel(self, timeout_s: float = 5.0) -> SystemChannel:
        return _Channel(self, timeout_s)

    def recipient(self) -> Recipient:
        return Recipient("ada")

    def stranger(self) -> None:
        return None

    def received(self) -> list[str]:
        return self._shown + [f"{item['summary']}\n{item['body']}" for item in self._desktop.shown()]

    def fail(self, error_class: ErrorClass) -> None:
        self._next = "missing"

    def hang(self) -> None:
        self._next = "hanging"

    def prepare(self) -> None:
        """For one send."""
        if self._state == "missing":
            self._desktop.start_daemon()
        elif self._state == "hanging":
            os.kill(self._desktop.pid("dunst"), signal.SIGCONT)
        self._state, self._next = self._next, "well"
        if self._state == "missing":
            self._shown = self.received()
            self._desktop.stop("dunst")
        elif self._state == "hanging":
            os.kill(self._desktop.pid("dunst"), signal.SIGSTOP)


class _Channel(SystemChannel):
    def __init__(self, rig: SystemRig, timeout_s: float) -> None:
        super().__init__(SystemChannel.Settings(bus=rig._desktop.address), Context("system", timeout_s))
        self._rig = rig

    async def send(self, delivery: Delivery) -> Sent:
        self._rig.prepare()
        return await super().send(delivery)
