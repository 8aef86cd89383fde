"""How the shard starts attempts: without blocking, and handing over what has ended."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import NamedTuple, Protocol

from shards.answers import ErrorClass
from shards.frames import Entry, Frame, Run

RETRIED: frozenset[ErrorClass] = frozenset({"transient", "throttled", "ambiguous", "misconfigured"})


# An attempt that failed: the class decides what follows, the message is for a person. (A named tuple takes five times
# as long to make.)
Failure = tuple[Entry, ErrorClass, str]


class Results(NamedTuple):
    """``delivered`` are slots of a frame."""

    delivered: list[tuple[Frame, MutableSequence[int]]]
    failed: list[Failure]


class Sender(Protocol):
    """Of one channel. The shard bounds how much is under way; an attempt ends exactly once."""

    name: str
    harmless: bool  # whether an attempt can never bring the process down: only then is it not marked

    def start(self, runs: Sequence[Run], now: float) -> None:
        """Begin one attempt for each delivery."""

    def collect(self, now: float) -> Results:
        """What has ended since the last call."""

    def next_due(self) -> float | None:
        """When ``collect`` will have something; None if nothing is under way."""
