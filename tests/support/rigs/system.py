"""The channel ``system``, against a session bus and dunst."""

from __future__ import annotations

import os
import signal

from shards.channels.base import Context, Recipient
from shards.channels.system import SystemChannel
from tests.support.desktop import Desktop


class Rig:
    name = "system"
    classes = frozenset({"misconfigured"})

    def open(self) -> None:
        self._desktop = Desktop()
        self._desktop.start()
        self._failing = self._hanging = False

    def close(self) -> None:
        self._restore()
        self._desktop.close()

    def channel(self, timeout_s: float = 5.0) -> SystemChannel:
        return SystemChannel(SystemChannel.Settings(bus=self._desktop.address), Context("system", timeout_s))

    def recipient(self) -> Recipient:
        return Recipient("ada")
