"""A frame in memory: the deliveries of one journaled batch, as far as some of them are under way."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import MutableSequence
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shards.digests import Digest
    from shards.people import User

# One delivery: its frame, its slot in the frame's ledger, the notification's position, user and key. What it says is
# not kept in memory: a channel asks ``Contents`` for it.
Entry = tuple["Frame", int, int, "User", "str | None"]


class Run:
    """Deliveries of one frame on one channel and of one priority, as columns: the unit that lanes and channels move.

    Large ones hold their numbers in arrays, which take a tenth of a list's memory.
    """

    __slots__ = ("frame", "indexes", "keys", "slots", "users")

    def __init__(
        self,
        frame: Frame,
        slots: MutableSequence[int],
        indexes: MutableSequence[int],
        users: list[User],
        keys: list[str | None],
    ) -> None:
        self.frame = frame
        self.slots = slots
        self.indexes = indexes
        self.users = users
        self.keys = keys

    def __len__(self) -> int:
        return len(self.slots)

    def entry(self, at: int) -> Entry:
        return self.frame, self.slots[at], self.indexes[at], self.users[at], self.keys[at]

    def add(self, entry: Entry) -> None:
        """Append a delivery of the same frame."""
        _, slot, index, user, key = entry
        self.slots.append(slot)
        self.indexes.append(index)
        self.users.append(user)
        self.keys.append(key)

    def split(self, count: int) -> Run:
        """Cut off the first ``count`` deliveries, which are answered; the rest stays."""
        first = Run(self.frame, self.slots[:count], self.indexes[:count], self.users[:count], self.keys[:count])
        del self.slots[:count], self.indexes[:count], self.users[:count], self.keys[:count]
        return first

    def without(self, positions: set[int]) -> Run:
        """The deliveries at all other positions."""
        kept = [at for at in range(len(self.slots)) if at not in positions]
        return Run(
            self.frame,
            [self.slots[at] for at in kept],
            [self.indexes[at] for at in kept],
            [self.users[at] for at in kept],
            [self.keys[at] for at in kept],
        )


def one(entry: Entry) -> Run:
    """A run of one delivery."""
    frame, slot, index, user, key = entry
    return Run(frame, [slot], [index], [user], [key])


class Frame:
    """``slots`` holds one ledger word per planned delivery, ``widths`` how many each notification has."""

    __slots__ = (
        "active",
        "at_us",
        "digests",
        "dirty",
        "ends",
        "expiry",
        "flying",
        "gone",
        "late",
        "mask",
        "new",
        "notes",
        "open",
        "seq",
        "slots",
        "stored_open",
        "touched",
        "updated_ms",
        "widths",
    )

    def __init__(self, seq: int, at_us: int, slots: array[int], widths: bytes) -> None:
        self.seq = seq
        self.at_us = at_us
        self.slots = slots
        self.widths = widths
        self.ends: list[int] | None = None  # of each position, the slot behind its last one; made when first asked for
        self.open = 0  # deliveries that are not final
        self.active = 0  # of these, how many are in memory: in a lane, under way, or waiting for a retry
        self.mask = 0  # the lanes of its pending deliveries: who reads the journal for a lane finds it by this
        self.notes: dict[int, tuple[int | None, str, str]] = {}  # slot -> (next attempt at ms, class, last error)
        self.expiry: dict[int, int] | None = None  # position -> expires_at in ms, of those that have one
        self.flying: set[int] = set()  # slots of which an attempt is under way
        self.gone = False  # some in memory were cancelled, and are to be left out when their turn comes
        self.late = False  # some were deferred: when they came says nothing of how long delivering them took
        self.digests: dict[int, Digest] = {}  # slot -> the digest that is sent by way of it
        self.new: NewFrame | None = None  # what is to be journaled with it
        self.dirty = False  # its ledger is to be written in this turn
        self.touched = False  # it is among this turn's changes
        self.updated_ms = 0  # of the last commit that changed it, while it is in memory
        self.stored_open = 0  # ``open`` as its stored ledger has it; the log may have more changes

    def index_of(self, slot: int) -> int:
        """The position of the notification that a slot is of."""
        if self.ends is None:
            self.ends = list(accumulate(self.widths))
        return bisect_right(self.ends, slot)


class NewFrame:
    """What the journal stores once of a frame: the body as it came, the verdict, the idempotency digests.

    ``config`` is the version of the configuration that it was judged by, ``rules`` by position the number of the rule
    that matched, 16 bits each; None where no position had one.
    """

    __slots__ = ("body", "config", "digests", "fanned", "has_inbox", "rules", "source", "verdict")

    def __init__(
        self,
        source: int,
        fanned: bool,
        body: bytes,
        digests: bytes | None = None,
        verdict: bytes | None = None,
        config: int = 0,
        rules: bytes | None = None,
    ) -> None:
        self.source = source
        self.fanned = fanned
        self.body = body
        self.digests = digests
        self.verdict = verdict
        self.has_inbox = False
        self.config = config
        self.rules = rules
