"""Where the class of a channel is found: those of this package by the provider's name, plug-ins by theirs.

A plug-in is named by ``class = "package.module:Class"``, or announces itself as an entry point of ``GROUP``, whose name
is then that of the provider.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

from shards.nearest import unknown
from shards.settings import SIMULATED

GROUP = "notification_dispatcher.channels"
PROVIDERS = {
    SIMULATED: "shards.channels.simulated:SimulatedChannel",
    "smtp": "shards.channels.email:EmailChannel",
    "webhook": "shards.channels.webhook:WebhookChannel",
    "twilio": "shards.channels.twilio:TwilioChannel",
    "sms-http": "shards.channels.sms:SmsChannel",
    "push": "shards.channels.push:PushChannel",
    "desktop": "shards.channels.system:SystemChannel",
    "apprise": "shards.channels.chat:ChatChannel",
}
BY_DEFAULT = {"email": "smtp", "webhook": "webhook", "push": "push", "system": "desktop"}  # channel -> provider


class UnknownChannelError(ValueError):
    """There is no such class: the message says what was looked for, and what to do."""


def find(provider: str, path: str = "") -> type[Any]:
    """The class of a provider, or at ``path``. Raises ``UnknownChannelError``."""
    if path:
        return _load(path)
    if provider in PROVIDERS:
        return _load(PROVIDERS[provider])
    announced = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    if provider not in announced:
        raise UnknownChannelError(unknown("provider", provider, {*PROVIDERS, *announced}))
    return _load(announced[provider])


def _load(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    if not module or not name:
        raise UnknownChannelError(f'{path!r} is not like "package.module:Class"')
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UnknownChannelError(f"{module} cannot be imported: {error}") from error
    if not isinstance(found, type):
        raise UnknownChannelError(f"{module} has no class {name}")
    return found
