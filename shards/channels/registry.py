"""Where the class of a channel is found: those of this package by the provider's name, plug-ins by theirs.

A plug-in is named by ``class = "package.module:Class"``, or announces itself as an entry point of ``GROUP``, whose name
is then that of the provider.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import msgspec

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
METHODS = {"supports_recipient": "recipient", "send": "delivery"}  # that every plug-in has, and what they are given
OPTIONAL = {"send_many": "deliveries"}
BY_DEFAULT = {"email": "smtp", "webhook": "webhook", "push": "push", "system": "desktop"}  # channel -> provider


class UnknownChannelError(ValueError):
    """There is no such class: the message says what was looked for, and what to do."""


def is_ours(provider: str, path: str) -> bool:
    """Whether the class is one of this package, and no plug-in."""
    return not path and provider in PROVIDERS


def find(provider: str, path: str = "") -> type[Any]:
    """The class of a provider, or at ``path``. Raises ``UnknownChannelError``."""
    if path:
        return _plug_in(path)
    if is_ours(provider, path):
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
    settings = getattr(found, "Settings", msgspec.Struct)
    if not (isinstance(settings, type) and issubclass(settings, msgspec.Struct)):
        raise UnknownChannelError(f"{path} has Settings that are no msgspec.Struct; see docs/plugins.md")
    _check_call(found, "__init__", found, "settings", "context")
    for method, given in (METHODS | OPTIONAL).items():
        if callable(function := getattr(found, method, None)):
            plain = isinstance(inspect.getattr_static(found, method), staticmethod | classmethod)
            _check_call(found, method, function, *(() if plain else ("self",)), given)
    if inspect.iscoroutinefunction(found.supports_recipient):
        raise UnknownChannelError(
            f"{_place(found, 'supports_recipient')} is async; make it a plain def, which only looks"
        )
    return found


def _check_call(kind: type[Any], name: str, function: Callable[..., Any], *given: str) -> None:
    """Raises ``UnknownChannelError`` where it cannot be called as it will be."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of what is not written in Python
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        asked = ", ".join(one for one in ("self", *given) if one != "self")
        raise UnknownChannelError(
            f"{_place(kind, name)} cannot be called as {name}({asked}): {error}; see docs/plugins.md"
        ) from None


def _place(kind: type[Any], method: str) -> str:
    code = getattr(inspect.unwrap(getattr(kind, method)), "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}: " if code else ""
    return f"{where}{kind.__name__}.{method}"


def _load(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    if not module or not name:
        raise UnknownChannelError(f'{path!r} is not like "package.module:Class"')
    try:
        with contextlib.redirect_stdout(sys.stderr):  # which is for answers, of a command line as of a service
            found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        is_absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        remedy = "; install it, or put its folder into PYTHONPATH" if is_absent else ""
        raise UnknownChannelError(f"{module} cannot be imported: {error}{remedy}") from error
    except (Exception, SystemExit) as error:  # a plug-in's module may do anything, and its bug is not ours
        raise UnknownChannelError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise UnknownChannelError(f"{module} has no class {name}")
    return found
