"""Notifications on the operator's own desktop, as of the Desktop Notifications Specification, over D-Bus.

Whatever user a delivery is for, it is shown on this machine, to whoever owns the session bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import importlib.util
import os
from collections import OrderedDict
from typing import Any

import msgspec

from shards.channels.base import Context, Delivery, Recipient, SendError, Sent

if importlib.util.find_spec("dbus_fast") is None:
    raise ImportError('the desktop needs dbus-fast; run: pip install "notification-dispatcher[desktop]"')

NAME = "org.freedesktop.Notifications"
PATH = "/org/freedesktop/Notifications"
URGENCY = {"low": 0, "normal": 1, "high": 1, "critical": 2}
ICONS = {
    "info": "dialog-information",
    "success": "emblem-default",
    "warning": "dialog-warning",
    "error": "dialog-error",
}  # of the freedesktop icon naming specification
REPLACED_MAX = 1_000
TEXT_MAX = 4_000  # characters
ERROR_MAX = 200
BY_URGENCY = -1  # how long it is shown


class SystemChannel:
    name = "system"

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        app_name: str = "Dispatcher"
        icon: str = ""  # a name of the icon theme, or the path of a file; by default one for the notification's type
        bus: str = ""  # its address; by default that of DBUS_SESSION_BUS_ADDRESS

        def __post_init__(self) -> None:
            for key in self.__struct_fields__:
                if not getattr(self, key).isprintable():
                    raise ValueError(f"{key} has an invisible character; leave it out")

    def __init__(self, settings: Settings, context: Context) -> None:
        import dbus_fast.aio

        self._dbus = dbus_fast
        self._settings = settings
        self._context = context
        self._bus: dbus_fast.aio.MessageBus | None = None
        # So that they are shown in their order, and one is known before another one replaces it.
        self._one_at_a_time = asyncio.Lock()
        # Collapse key -> the daemon's number, and the daemon's name: another one gives the same numbers to others.
        self._shown: OrderedDict[tuple[str, str], tuple[int, str]] = OrderedDict()

    def supports_recipient(self, recipient: Recipient) -> bool:
        return True

    async def send(self, delivery: Delivery) -> Sent:
        try:
            await self._one_at_a_time.acquire()
        except asyncio.CancelledError:
            text = "not shown yet: the notification daemon had not answered for those before; does it hang?"
            raise SendError("transient", text) from None
        try:
            return await self._show(delivery)
        finally:
            self._one_at_a_time.release()

    async def _show(self, delivery: Delivery) -> Sent:
        bus = await self._connected()
        able = await self._call(bus, "GetCapabilities")
        key = (delivery.recipient.user_id, delivery.collapse or "")
        number, daemon = self._shown.get(key, (0, ""))
        title, text = _line(delivery.title), _plain(delivery.text)
        answer = await self._call(
            bus,
            "Notify",
            "susssasa{sv}i",
            [
                self._settings.app_name,
                number if delivery.collapse and daemon == able.sender else 0,
                self._settings.icon or ICONS[delivery.type],
                title or _line(text),
                (html.escape(text, quote=False) if "body-markup" in able.body[0] else text) if title else "",
                [],
                {"urgency": self._dbus.Variant("y", URGENCY[delivery.priority])},
                BY_URGENCY,
            ],
        )
        number = int(answer.body[0])
        if delivery.collapse:
            self._shown[key] = number, answer.sender
            self._shown.move_to_end(key)
            if len(self._shown) > REPLACED_MAX:
                self._shown.popitem(last=False)
        return Sent(f"notification {number}")

    async def _connected(self) -> Any:
        """The bus; it is connected again where it was restarted."""
        if self._bus is None or not self._bus.connected:
            self._shown.clear()
            address = self._settings.bus or os.environ.get("DBUS_SESSION_BUS_ADDRESS")
            if not address:
                text = "there is no desktop: DBUS_SESSION_BUS_ADDRESS is not set; run the dispatcher within the"
                raise self._error(
                    "connect", "NoDesktop", f"{text} desktop's session, or set bus to the session's address"
                )
            try:
                self._bus = await self._dbus.aio.MessageBus(address).connect()
            except (self._dbus.InvalidAddressError, self._dbus.AuthError, OSError, EOFError) as error:
                text = f"there is no desktop: the bus at {address} cannot be reached ({error}); is its session over?"
                raise self._error("connect", "NoDesktop", text) from error
            self._watching = asyncio.create_task(_end_of(self._bus))
            self._trace(f"connected to {address}")
        return self._bus

    async def _call(self, bus: Any, member: str, signature: str = "", body: list[Any] | None = None) -> Any:
        """The daemon's answer. A call that is cancelled ends the connection: it would wait for the answer for ever."""
        self._trace(f"> {member} {body or ''}")
        message = self._dbus.Message(NAME, PATH, NAME, member, signature=signature, body=body or [])
        try:
            answer = await bus.call(message)
        except asyncio.CancelledError:
            bus.disconnect()
            raise
        except (OSError, EOFError) as error:
            raise self._error(member, "Disconnected", f"the session bus went away: {error}") from error
        if answer is None:
            raise self._error(member, "Disconnected", "the session bus went away")
        self._trace(f"< {answer.error_name or ''} {answer.body}")
        if answer.message_type is self._dbus.MessageType.ERROR:
            text = str(answer.body[0]) if answer.body else answer.error_name
            text = f"the notification daemon is missing or refuses: {_line(text)}; does one run in this session?"
            raise self._error(member, answer.error_name, text)
        return answer

    def _error(self, member: str, name: str, text: str) -> SendError:
        """By the last part of the error's name, except for the many of org.freedesktop.DBus.Error.Spawn."""
        detail = "Spawn" if ".Spawn." in name else name.rpartition(".")[2]
        return SendError(self._context.answers.error_class("dbus", member, detail), f"{text[:ERROR_MAX]} ({name})")

    def _trace(self, line: str) -> None:
        if self._context.trace:
            self._context.trace(line.rstrip())

    async def close(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()
            await self._watching
        self._bus = None


async def _end_of(bus: Any) -> None:
    """Somebody must ask how a connection has ended, or asyncio complains."""
    with contextlib.suppress(OSError, EOFError):
        await bus.wait_for_disconnect()


def _plain(text: str) -> str:
    """Text may have line feeds and tabs, and no other control character."""
    return "".join(each for each in text if each >= " " or each in "\n\t")[:TEXT_MAX].strip()


def _line(text: str) -> str:
    return " ".join(_plain(text).split())
