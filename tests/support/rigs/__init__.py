"""Channels beside a service of their kind, for the contract suite.

Every class of a module in this package that has a method ``stranger`` is a rig, found by being here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Protocol

from shards.answers import ErrorClass
from shards.channels.base import NotificationChannel, Recipient


class Rig(Protocol):
    """A real service of the channel's kind, in a thread, which does as it is told.

    It may have ``secrets``, which no error may tell, and ``has_title = False`` where there is only the text. It has
    ``keys`` if the service is told, with each message, by what it can tell a repetition: all of them, in order.
    """

    name: str
    classes: frozenset[ErrorClass]  # the errors that it can be made to give

    def open(self) -> None:
        """Start the service."""

    def close(self) -> None:
        """Stop it, and what it still does."""

    def channel(self, timeout_s: float = 5.0) -> NotificationChannel:
        """A new one, for the service. Called inside the loop that will use it."""

    def recipient(self) -> Recipient:
        """One whom the channel can reach."""

    def stranger(self) -> Recipient | None:
        """One whom it cannot; None where there is none."""

    def received(self) -> list[str]:
        """What the service has taken, in order: texts with the title and the body somewhere in each."""

    def fail(self, error_class: ErrorClass) -> None:
        """The next send is to end so."""

    def hang(self) -> None:
        """The next send is never answered."""


# What of the suite cannot be said of a kind, and why: an error class that its service cannot give, a stranger, keys.
_OF_USERS = "each user names a service of their own: its refusal must not pause everybody's channel, and is transient"
_ANYBODY = "nobody needs a contact for it"
LACKING: Mapping[str, Mapping[str, str]] = {
    "chat": {
        "misconfigured": _OF_USERS,
        "keys": "the services behind Apprise have none in common",
    },
    "inapp": {
        "bad_address": "an inbox has no address",
        "misconfigured": "it asks for no credentials",
        "throttled": "a dispatcher that is overloaded is waited for; tests/unit/test_inapp_channel.py has what is left",
        "stranger": _ANYBODY,
    },
    "push-webpush": {"misconfigured": _OF_USERS},
    "system": {
        "transient": "a notification daemon takes what it is given, or is not there",
        "throttled": "as above",
        "permanent": "as above",
        "ambiguous": "but where it does not answer at all, which is to hang",
        "bad_address": "a desktop has no address",
        "stranger": _ANYBODY,
        "keys": "the interface has none; what has a collapse key replaces what was shown before",
    },
    "twilio": {"keys": "its interface has none; see docs/sms.md"},
    "webhook": {
        "permanent": "whoever runs the endpoint may mend it: all but 410 is tried again",
        "misconfigured": _OF_USERS,
    },
}


def lacks(rig: Rig, what: str) -> bool:
    return what in LACKING.get(rig.name, {})


def rigs() -> list[Rig]:
    """One of each."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [
        kind()
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and hasattr(kind, "stranger")
    ]
