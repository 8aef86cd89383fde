"""A frame in memory: the deliveries of one journaled batch, as far as some of them are under way."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.core import Decision
    from shards.preferences import Choices
    from shards.rules import Rule
    from shards.wire import Notification

# One delivery under way: its frame, its slot in the frame's ledger, the notification's position, user, content.
Entry = tuple["Frame", int, int, "User", "Notification"]


class User:
    """A recipient as the shard needs them: the hash of their id, and a decision per rule."""

    __slots__ = ("choices", "decisions", "hash", "signed_hash", "user_id")

    def __init__(self, user_id: str, user_hash: int, choices: Choices, decisions: dict[Rule, Decision]) -> None:
        self.user_id = user_id
        self.hash = user_hash
        self.signed_hash = signed(user_hash)
        self.choices = choices
        self.decisions = decisions  # shared, like the choices, by all users who chose alike


def signed(user_hash: int) -> int:
    """A 64-bit hash as SQLite and array("q") hold it."""
    return user_hash - 2**64 if user_hash >= 2**63 else user_hash


class Frame:
    """``slots`` holds one ledger word per planned delivery, ``widths`` how many each notification has."""

    __slots__ = ("active", "at_us", "dirty", "mask", "new", "notes", "open", "seq", "slots", "widths")

    def __init__(self, seq: int, at_us: int, slots: array[int], widths: bytes) -> None:
        self.seq = seq
        self.at_us = at_us
        self.slots = slots
        self.widths = widths
        self.open = 0  # deliveries that are not final
        self.active = 0  # of these, how many are in memory: in a lane, under way, or waiting for a retry
        self.mask = 0  # lanes that have deliveries which never left the journal
        self.notes: dict[int, tuple[int | None, str, str]] = {}  # slot -> (next attempt at ms, class, last error)
        self.new: NewFrame | None = None  # what is to be journaled with it
        self.dirty = False


class NewFrame:
    """What the journal stores once of a frame: the body as it came, the verdict, the idempotency digests."""

    __slots__ = ("body", "digests", "fanned", "has_inbox", "source", "verdict")

    def __init__(
        self, source: int, fanned: bool, body: bytes, digests: bytes | None, verdict: bytes | None, has_inbox: bool
    ) -> None:
        self.source = source
        self.fanned = fanned
        self.body = body
        self.digests = digests
        self.verdict = verdict
        self.has_inbox = has_inbox
