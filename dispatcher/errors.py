"""Why the service does not run. ``StartError`` is exit code 2: it needs another configuration. ``BrokenError`` is 1."""

from __future__ import annotations


class StartError(Exception):
    """The service cannot run: the message says why, and what to do."""


class BrokenError(StartError):
    """A process of the service, or the machine, fails: the same start may succeed another time."""
