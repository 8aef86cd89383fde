"""How the shard starts attempts: without blocking, and handing over what has ended."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from typing import NamedTuple, Protocol

from shards.answers import ErrorClass
from shards.channels.base import Recipient, SendError
from shards.frames import Entry, Frame, Run
from shards.health import contacts_on

RETRIED: frozenset[ErrorClass] = frozenset({"transient", "throttled", "ambiguous", "misconfigured"})
SLOWED = frozenset({"throttled", "ambiguous"})  # the service asks for patience, or says nothing at all


class Advice(NamedTuple):
    """What a service said beside its refusal: how long to wait, which contacts will never work again.

    ``reason`` is a dead letter's, where the class alone would not tell it.
    """

    retry_after_s: float = 0.0
    bad: tuple[str, ...] = ()
    reason: str = ""


def advice_of(error: SendError, channel: str, recipient: Recipient) -> Advice | None:
    bad = error.bad
    if error.error_class == "bad_address" and not bad:  # the contacts that were tried: the user may have others by now
        bad = contacts_on(channel, recipient.contacts)
    if not error.retry_after_s and not bad and not error.reason:
        return None
    return Advice(error.retry_after_s or 0.0, bad, error.reason)


# An attempt that failed: the class decides what follows, the message is for a person. (A named tuple takes five times
# as long to make.)
Failure = tuple[Entry, ErrorClass, str, "Advice | None"]


def reason_of_end(error_class: str) -> str:
    """Why a delivery that failed like this, and is not tried again, is a dead letter."""
    return "max_retries" if error_class in RETRIED else error_class


class Results(NamedTuple):
    """What has ended. ``delivered`` are slots of a frame.

    ``held`` were not attempted, as no provider may be asked before an instant; ``unreachable`` neither, as none can
    reach the user. ``bad`` were delivered, but not to some of the user's contacts. ``slows``: throttled answers are of
    the channel's own provider, and not of one user's.
    """

    delivered: list[tuple[Frame, MutableSequence[int]]]
    failed: list[Failure]
    held: Sequence[tuple[Entry, float]] = ()
    unreachable: Sequence[Entry] = ()
    bad: Sequence[tuple[Entry, tuple[str, ...]]] = ()
    slows: bool = False


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
