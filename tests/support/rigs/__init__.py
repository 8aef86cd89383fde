"""Channels beside a service of their kind, for the contract suite.

Every class of a module in this package that has a method ``stranger`` is a rig, found by being here.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol

from shards.answers import ErrorClass
from shards.channels.base import NotificationChannel, Recipient


class Rig(Protocol):
    """A real service of the channel's kind, in a thread, which does as it is told.

    It may have ``secrets``, which no error may tell, and ``has_title = False`` where there is only the text.
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


def rigs() -> list[Rig]:
    """One of each."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [
        kind()
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__ and hasattr(kind, "stranger")
    ]
