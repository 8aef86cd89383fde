"""Where the class of a channel is found: those of this package by the provider's name, plug-ins by theirs.

A plug-in is named by ``class = "package.module:Class"``, or announces itself as an entry point of ``GROUP``, whose name
is then that of the provider.
"""

from __future__ import annotations

import importlib
from typing import Any

from shards.nearest import unknown
from shards.settings import ATTACHED, SIMULATED

GROUP = "notification_dispatcher.channels"
PROVIDERS = {
    SIMULATED: "shards.channels.simulated:SimulatedChannel",
    ATTACHED: "shards.channels.attached:AttachedChannel",
    "smtp": "shards.channels.email:EmailChannel",
    "webhook": "shards.channels.webhook:WebhookChannel",
    "twilio": "shards.channels.twilio:TwilioChannel",
    "sms-http": "shards.channels.sms:SmsChannel",
    "push": "shards.channels.push:PushChannel",
    "desktop": "shards.channels.system:SystemChannel",
    "apprise": "shards.channels.chat:ChatChannel",
}
METHODS = ("supports_recipient", "send")  # that every plug-in has
BY_DEFAULT = {"email": "smtp", "webhook": "webhook", "push": "push", "system": "desktop"}  # channel -> provider


class UnknownChannelError(ValueError):
    """There is no such class: the message says what was looked for, and what to do."""


def find(provider: str, path: str = "") -> type[Any]:
    """The class of a provider, or at ``path``. Raises ``UnknownChannelError``."""
    if path:
        return _plug_in(path)
    if provider in PROVIDERS:
        return _load(PROVIDERS[provider])
    from importlib.metadata import entry_points

    announced = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    if provider not in announced:
        raise UnknownChannelError(unknown("provider", provider, {*PROVIDERS, *announced}))
    return _plug_in(announced[provider])


def _plug_in(path: str) -> type[Any]:
    found = _load(path)
    if lacking := [method for method in METHODS if not callable(getattr(found, method, None))]:
        raise UnknownChannelError(f"{path} is no channel: it has no {' and no '.join(lacking)}; see docs/plugins.md")
    return found


def _load(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    if not module or not name:
        raise UnknownChannelError(f'{path!r} is not like "package.module:Class"')
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UnknownChannelError(f"{module} cannot be imported: {error}") from error
    except Exception as error:  # a plug-in's module may do anything, and its bug is not ours
        raise UnknownChannelError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise UnknownChannelError(f"{module} has no class {name}")
    return found
