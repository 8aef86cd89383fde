"""A notification daemon on a session bus that refuses what it is told to, in its own words."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from types import TracebackType
from typing import Self

import dbus_fast
import dbus_fast.aio

from shards.channels.system import NAME


class Notifier:
    """A context manager. ``refusals`` are methods with the name and text of an error, each for one call, in order."""

    def __init__(self, address: str, *refusals: tuple[str, str, str]) -> None:
        self._address = address
        self._refusals = deque(refusals)
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self.shown: list[str] = []  # titles

    async def _serve(self) -> None:
        bus = await dbus_fast.aio.MessageBus(self._address).connect()
        bus.add_message_handler(self._answer)
        await bus.request_name(NAME)
        self._ready.set()
        await self._stopped.wait()
        bus.disconnect()

    def _answer(self, message: dbus_fast.Message) -> dbus_fast.Message | None:
        if message.interface != NAME:
            return None
        if self._refusals and self._refusals[0][0] == message.member:
            _, name, text = self._refusals.popleft()
            return dbus_fast.Message.new_error(message, f"org.freedesktop.DBus.Error.{name}", text)
        if message.member == "GetCapabilities":
            return dbus_fast.Message.new_method_return(message, "as", [[]])
        self.shown.append(message.body[3])
        return dbus_fast.Message.new_method_return(message, "u", [len(self.shown)])

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()
