"""The frames of which something is in memory, and the one place where a delivery's word is written.

Everything that is to be stored gathers in ``changes``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from shards import ledger, validation
from shards.broadcasts import Broadcasts, Room
from shards.changes import Changes, Now, Pause, decode_notes
from shards.contents import Contents
from shards.counters import Counters, Latencies
from shards.credit import Credit
from shards.dead_letters import DeadLetters
from shards.dedupe import IdempotencySet
from shards.deferrals import Deferrals, Dues
from shards.digests import Digest, Digests, composed
from shards.frames import Entry, Frame, Run
from shards.gates import Gates
from shards.health import ContactHealth
from shards.identifiers import Identifiers
from shards.lanes import LANES, NotificationQueue
from shards.limiter import Limiter
from shards.limits import Limits
from shards.pace import Pace
from shards.people import People, User
from shards.retry import DueHeap, RetryPolicy
from shards.rules import Routing
from shards.settings import ShardSettings
from shards.slowing import Slowing
from shards.stored import Journal, StoredFrame
from shards.suspects import Suspects
from shards.templates import TemplateEngine
from shards.wire.ids import hash_user
from shards.wire.notification import PRIORITIES, Notification

INAPP = "inapp"
PLACE_SHIFT, PLACE_MASK = 16, (1 << 16) - 1


class Book:
    """What the layers above decide about: frames, lanes, retries, and what the turn has changed of them."""

    settings: ShardSettings
    routing: Routing
    people: People
    limits: Limits
    limiters: dict[int, Limiter]
    policies: list[RetryPolicy]  # of retries, by channel

    def __init__(
        self,
        settings: ShardSettings,
        channel_names: list[str],
        journal: Journal,
        counters: Counters,
        random: Callable[[], float],
    ) -> None:
        self.ids = Identifiers(journal)
        self.channel_names = channel_names
        self.counters = counters
        self.idempotency = IdempotencySet(settings.secret)
        self.inapp = channel_names.index(INAPP)
        self.templates = TemplateEngine()
        self.paces: dict[int, Pace] = {}
        self.slowings: dict[int, Slowing] = {}
        self.digests = Digests(settings.digests, journal.waiting)
        self.deferrals = Deferrals(journal.waiting.first_dues(), journal.waiting.deferred())
        self.windows = Dues(journal.waiting.first_windows())
        self.contents = Contents(journal.frames.content)
        self.queues: list[NotificationQueue[Run]] = []
        self.queued: list[int] = []  # deliveries in each lane
        self.retrying: list[DueHeap[Entry | tuple[int, int]]] = []
        self.in_flight: list[int] = []
        self.returned: dict[int, list[Entry]] = {}  # channel -> not attempted after all: before all that is queued
        self.paused: dict[int, Pause] = {}
        self.credits: dict[int, Credit] = {}  # of attached channels
        self.holds: dict[int, float] = {}  # channel -> when one of its providers may be asked again
        self.gates: dict[int, Gates] = {}  # of channels whose users have endpoints of their own
        self.health = ContactHealth(journal.health)
        self.crowded = False  # some that wait for their endpoints have not been looked at in this turn
        self.alerts: list[dict[str, Any]] = []  # what an operator is to hear of this turn
        self.behind: dict[int, int] = {}  # lane -> the last frame whose deliveries are in it; later ones are on disk
        self.frames: dict[int, Frame] = {}  # those with deliveries in memory, and those that this turn looks at
        self._visited: list[Frame] = []  # read from disk in this turn
        self.suspects = Suspects({})
        self.latencies: list[Latencies] = []
        self.changes = Changes()
        self.dead_letters = DeadLetters(self.ids, channel_names, counters.dead_letters, lambda: self.changes)
        self.last = 0  # the last frame that was received
        self.broadcasts = Broadcasts(
            journal.topics,
            Room(self.queued, self.behind),
            self.dead_letters,
            lambda: self.changes,
            settings.bounds.broadcasts,
        )
        self._journal = journal
        self._random = random
        self._inapp_mask = sum(ledger.lane_bit(ledger.lane_of(self.inapp, priority)) for priority in range(LANES))

    def _known(self, seq: int) -> Frame | None:
        """A frame in memory or from disk; None if it is no more."""
        frame = self.frames.get(seq)
        if frame is None:
            row = self._journal.frames.get(seq)
            frame = None if row is None else self._frame(row)
        return frame

    def _frame(self, row: StoredFrame) -> Frame:
        """The frame in memory, or one made from its row. There is never a second one: the last write would win."""
        frame = self.frames.get(row.seq)
        if frame is None:
            frame = self.frames[row.seq] = Frame(row.seq, row.at_us, ledger.words(row.slots), row.widths)
            frame.open = frame.stored_open = row.open
            frame.mask = row.mask
            frame.notes = decode_notes(row.notes)
            self._visited.append(frame)
            self._find_digests(frame)
        return frame

    def _make_room(self, settings: ShardSettings) -> None:
        """For channels that are new."""
        for _ in self.channel_names[len(self.queues) :]:
            self.queues.append(NotificationQueue(settings.priorities.aging))
            self.queued += [0] * LANES
            self.retrying.append(DueHeap())
            self.in_flight.append(0)
            self.latencies.append(Latencies())
        for name, channel in settings.channels.items():
            number = self.channel_names.index(name)
            if channel.rate and number not in self.paces:
                self.paces[number] = Pace(channel.rate, channel.burst, settings.shard, settings.shards)

    def _bounds_of(self, channel: int) -> list[Pace | Slowing]:
        """How fast attempts may start: as configured, and as the service has taught."""
        found = (self.paces.get(channel), self.slowings.get(channel))
        return [one for one in found if one is not None]

    def pause_of(self, channel: int) -> Pause | None:
        """Why a channel sends nothing, if it does not."""
        credit = self.credits.get(channel)
        return self.paused.get(channel) or (credit.pause() if credit else None)

    def let_go(self) -> None:
        """At the end of a turn: forget frames of which nothing is in memory and nothing is to be written.

        Until then they stay, as a turn often comes back to the same ones.
        """
        for frame in self._visited:
            if not frame.active and not frame.touched:
                self.frames.pop(frame.seq, None)
        self._visited.clear()

    def _entry(self, frame: Frame, slot: int, index: int) -> tuple[Entry, Notification]:
        """A delivery that was on disk, as one in memory."""
        content = self.contents.get(frame.seq)
        assert content is not None  # a frame with open deliveries is never pruned
        user_id, notification = content.item(index)
        if notification.expires_at is not None:
            frame.expiry = frame.expiry or {}
            frame.expiry[index] = validation.instant_ms("expires_at", notification.expires_at)
        digest = frame.digests.get(slot)
        key = digest.id if digest else notification.idempotency_key or notification.id
        return (frame, slot, index, self.people.user(user_id), key), notification

    def _find_digests(self, frame: Frame) -> None:
        for digest in self.digests.of_frame(frame.seq):
            assert digest.carrier is not None
            found = self._slot_of(frame, digest.carrier, digest.channel)
            if found is not None:
                frame.digests[found] = digest

    def _slot_of(self, frame: Frame, place: int, channel: str) -> int | None:
        """The slot of a notification's delivery on a channel."""
        index = place & PLACE_MASK
        first = sum(frame.widths[:index])
        for slot in range(first, first + frame.widths[index]):
            if self.channel_names[ledger.channel_of(frame.slots[slot])] == channel:
                return slot
        return None

    def _items(self, digest: Digest) -> list[tuple[Frame, int, int]]:
        """``(frame, slot, place)`` of the items, without those whose frame is no more."""
        found = []
        for place in digest.places:
            frame = self._known(place >> PLACE_SHIFT)
            slot = self._slot_of(frame, place, digest.channel) if frame else None
            if frame is not None and slot is not None:
                found.append((frame, slot, place))
        return found

    def _enqueue(self, lane: int, run: Run, mono: float) -> None:
        """Into the lane; one that is full now leaves on disk what is received from now on."""
        self.queues[lane >> 2].push(run, lane & 3, mono)
        self.queued[lane] += len(run)
        if self.queued[lane] >= self.settings.bounds.lane_items and lane not in self.behind:
            self.behind[lane] = self.last

    def _has_room(self, lane: int) -> bool:
        return self.queued[lane] < self.settings.bounds.lane_items

    def _acquit(self, channel: int, frame: Frame, slot: int) -> None:
        if self.suspects.acquit(channel, frame, slot):
            self.changes.acquitted.append((frame.seq, slot))

    def _note_reason(self, frame: Frame, slot: int, reason: str) -> None:
        """Why a delivery is as it is, beside its outcome."""
        frame.slots[slot] = frame.slots[slot] & ~ledger.REASON_MASK | ledger.REASON[reason] << ledger.REASON_SHIFT
        self._changed(frame)

    def _set_deferred(self, frame: Frame, slot: int, reason: str, due_ms: int | None) -> None:
        value = frame.slots[slot] & ledger.KEEP
        frame.slots[slot] = (
            value | ledger.DEFERRED << ledger.OUTCOME_SHIFT | ledger.REASON[reason] << ledger.REASON_SHIFT
        )
        frame.notes[slot] = (due_ms, reason, "")
        self._changed(frame)

    def _settle(self, frame: Frame, slot: int, outcome: int, reason: int) -> None:
        """Write a final outcome that took no attempt."""
        value = frame.slots[slot]
        channel = ledger.channel_of(value)
        frame.slots[slot] = value & ledger.KEEP | outcome << ledger.OUTCOME_SHIFT | reason << ledger.REASON_SHIFT
        self.counters.channels[channel].outcomes[outcome] += 1
        if self.suspects:
            self._acquit(channel, frame, slot)
        self._changed(frame)

    def _changed(self, frame: Frame) -> None:
        """The frame's ledger is to be written."""
        frame.dirty = True
        self._touch(frame)

    def _touch(self, frame: Frame) -> None:
        if not frame.touched:
            frame.touched = True
            self.changes.frames.append(frame)

    def _log(self, frame: Frame, slot: int) -> None:
        """One delivery has changed: a line of the log does, until the frame's ledger is written for other reasons."""
        self.changes.results.append((frame, slot, frame.slots[slot], frame.notes.get(slot)))
        self._touch(frame)

    def _bury_unconfigured(self, entry: Entry, now: Now) -> None:
        message = self._unconfigured(ledger.channel_of(entry[0].slots[entry[1]]))
        self.dead_letters.bury(entry, self.said(entry), "channel_not_configured", "misconfigured", message, 0, now)

    def _unconfigured(self, channel: int) -> str:
        return f"the configuration has no [channels.{self.channel_names[channel]}]"

    def _end(self, entry: Entry, outcome: int, reason: str, now: Now) -> None:
        """A delivery that is not in memory ends without an attempt."""
        frame, slot, *_ = entry
        frame.open -= 1
        self._settle(frame, slot, outcome, ledger.REASON[reason])
        if outcome == ledger.DEAD:
            self._bury_unconfigured(entry, now)
        self._end_digest(frame, slot)

    def _end_digest(self, frame: Frame, slot: int) -> None:
        """Its items share the outcome of the delivery that carried them."""
        digest = frame.digests.get(slot)
        if digest is None:
            return
        value = frame.slots[slot]
        outcome, reason = ledger.outcome_of(value), ledger.reason_of(value)
        for other, at, place in self._items(digest):
            if place != digest.carrier and waits_in_digest(other.slots[at]):
                other.open -= 1
                self._settle(other, at, outcome, reason)

    def said(self, entry: Entry) -> Notification:
        """What a delivery says: the notification, or the digest that is sent by way of it."""
        frame, slot, index, user, _ = entry
        digest = frame.digests.get(slot)
        if digest is None:
            return msgspec.structs.replace(  # without the others whom it went to
                self.contents.notification(frame.seq, index), user_id=user.user_id, recipients=None
            )
        return self.digest_said(digest)

    def inapp_said(self, places: Sequence[int]) -> dict[int, Notification]:
        """By place, the digests that stand in an inbox in place of their carriers."""
        digests = self._journal.waiting.digests_at(places)
        return {one.carrier: self.digest_said(one) for one in digests if one.channel == INAPP and one.carrier}

    def inapp_parts(self, user: User, said: Notification, priority: int) -> Mapping[str, str]:
        """What a template makes of it in an inbox. Raises ``TemplateError``."""
        return self.templates.say(said, INAPP, user.user_id, PRIORITIES[priority], user.choices.locale)

    def digest_said(self, digest: Digest) -> Notification:
        """Composed of its items. ``LookupError`` if all are pruned."""
        items = self.digest_items(digest)
        if not items:
            raise LookupError(digest.id)
        return composed(digest, items)

    def digest_items(self, digest: Digest) -> list[tuple[str, Notification]]:
        """Each with its id; of a dead letter's, some may be pruned."""
        user_hash = hash_user(digest.user_id)
        items = []
        for place in digest.places:
            seq, index = place >> PLACE_SHIFT, place & PLACE_MASK
            with contextlib.suppress(LookupError):
                items.append((self.ids.make(user_hash, seq, index), self.contents.notification(seq, index)))
        return items

    def _leave(self, frame: Frame) -> None:
        """A delivery that ended before leaves memory: with the last one, what only the log has of others is written."""
        frame.active -= 1
        if not frame.active:
            self._changed(frame)

    def wait(self, seq: int, slot: int, channel: int, due: float) -> None:
        """A retry that was waiting when the shard stopped, or a dead letter that is to be tried again."""
        self.retrying[channel].push(due, (seq, slot))

    def _is_left(self, frame: Frame, slot: int) -> bool:
        """Whether the lane of a pending delivery will come to it on disk."""
        return frame.seq > self.behind.get(ledger.lane_of_word(frame.slots[slot]), self.last)


def expires_ms_of(frame: Frame, index: int, slot: int) -> int | None:
    """When the delivery expires, or the digest that is sent by way of it."""
    digest = frame.digests.get(slot)
    return digest.expires_ms if digest else frame.expiry.get(index) if frame.expiry else None


def is_expired(frame: Frame, index: int, slot: int, now: Now) -> bool:
    expires_ms = expires_ms_of(frame, index, slot)
    return expires_ms is not None and has_expired(expires_ms, now)


def has_expired(expires_ms: int, now: Now) -> bool:
    return expires_ms * 1000 <= now.wall_us


def waits_in_digest(value: int) -> bool:
    return ledger.outcome_of(value) == ledger.DEFERRED and ledger.reason_of(value) == ledger.REASON["digest"]
