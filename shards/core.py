"""The shard without its sockets, files and clocks: what happens to a notification, in order.

    receive  judge each notification (``judging.py``), plan its deliveries, decide them, queue what is to be sent
    refill   deliveries from disk into lanes that have room again
    wake     retries that are due, back into their lanes
    take     what a channel may start now, the highest effective priority first
    deliver, fail    what became of an attempt: an outcome, a retry, or a dead letter

Everything that is to be stored gathers in ``changes``; the owner commits them in one transaction and then says
``committed``. An attempt is only started for what is committed. In-app deliveries need no attempt: they are rows of
that very transaction.
"""

from __future__ import annotations

import contextlib
import math
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, MutableSequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from shards import ledger, validation
from shards.broadcasts import Broadcasts, Room, Stored
from shards.caps import Cap
from shards.changes import Changes, Now, Place, decode_notes
from shards.channels.base import RETRIED, Failure
from shards.contents import Contents
from shards.counters import Counters, Latencies
from shards.dead_letters import ERROR_TEXT_MAX, DeadLetters
from shards.dedupe import IdempotencySet
from shards.deferrals import Deferrals, Dues, Timer, waits_until_ms
from shards.digests import Digest, Digests, composed
from shards.frames import Entry, Frame, NewFrame, Run, one
from shards.identifiers import Identifiers, Origins
from shards.judging import Judge, Judged
from shards.lanes import LANES, NotificationQueue
from shards.limiter import Limiter
from shards.limits import Limits
from shards.pace import Pace
from shards.people import Decision, People, User
from shards.preferences import Choices, UserDocument
from shards.retry import DueHeap
from shards.rules import Asked, Routing, Rule
from shards.settings import ShardSettings
from shards.suspects import CRASHES_MAX, Suspects
from shards.wire import (
    EXPANSION,
    INGEST,
    PRIORITIES,
    UNROUTABLE,
    Data,
    Error,
    Notification,
    Rejection,
    Verdict,
    hash_user,
    pack,
)

INAPP = "inapp"
NEVER_QUIET = frozenset({INAPP, "webhook"})
CRITICAL = len(PRIORITIES) - 1
FRAMES_PER_REFILL = 64  # read from disk for a lane in one turn,
WINDOWS_MAX = 100  # digests that one turn closes per lane; each reads the frames of its items
ITEMS_PER_REFILL = 1_000  # until so many deliveries are decided: they delay whatever comes in
RELEASED_MAX = 500  # deferred deliveries that one turn decides per lane
PLACE_SHIFT, PLACE_MASK = 16, (1 << 16) - 1
LOGGED_MAX = 16  # a run of more deliveries has its frame's ledger written, which is then cheaper


class StoredFrame(NamedTuple):
    """A frame as the journal gives it back."""

    seq: int
    at_us: int
    source: int
    fanned: bool
    body: bytes
    widths: bytes
    mask: int
    slots: bytes
    notes: bytes | None


class Journal(Origins, Protocol):
    """What the core reads back; it never writes by itself."""

    @property
    def topics(self) -> Stored: ...

    def load_user(self, user_id: str) -> UserDocument | None: ...

    def frame(self, seq: int) -> StoredFrame | None: ...

    def open_frames(self, lane: int, after: int, count: int) -> Iterator[StoredFrame]: ...

    def timers(self, lane: int, now_ms: int, count: int) -> list[Timer]: ...

    def due_after(self, lane: int, timers: list[Timer]) -> int | None: ...

    def first_dues(self) -> dict[int, int]: ...

    def deferred(self) -> dict[int, int]: ...

    def first_windows(self) -> dict[int, int]: ...

    def due_windows(self, lane: int, now_ms: int, count: int) -> list[Digest]: ...

    def window_due_after(self, lane: int, now_ms: int) -> int | None: ...

    def open_window(self, window: str) -> Digest | None: ...

    def digests_of(self, seq: int) -> list[Digest]: ...

    def digests_holding(self, prefix: str, place: int) -> list[Digest]: ...

    def content(self, seq: int) -> tuple[bytes, bool, bytes | None] | None: ...


class Core:
    """One shard's state. ``random`` draws from [0, 1); ``channel_names`` are in the order of their numbers."""

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
        self.paces = {
            channel_names.index(name): Pace(channel.rate, channel.burst, settings.shard, settings.shards)
            for name, channel in settings.channels.items()
            if channel.rate
        }
        self.digests = Digests(settings.digests, journal)
        self.deferrals = Deferrals(journal.first_dues(), journal.deferred())
        self.windows = Dues(journal.first_windows())
        self.contents = Contents(journal.content)
        self.queues = [NotificationQueue[Run](settings.priorities.aging) for _ in channel_names]
        self.queued = [0] * (len(channel_names) * LANES)  # deliveries in each lane
        self.retrying: list[DueHeap[Entry | tuple[int, int]]] = [DueHeap() for _ in channel_names]
        self.in_flight = [0] * len(channel_names)
        self.behind: dict[int, int] = {}  # lane -> the last frame whose deliveries are in it; later ones are on disk
        self.frames: dict[int, Frame] = {}  # those with deliveries in memory
        self.suspects = Suspects({})
        self.latencies = [Latencies() for _ in channel_names]
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
        self.configure(settings)

    def configure(self, settings: ShardSettings) -> None:
        """Go by these settings from now on. Bounds and channels are as before; what is queued or under way stays so.

        What was spent of the limits is for the owner to carry over.
        """
        self.settings = settings
        numbers = {name: number for number, name in enumerate(self.channel_names)}
        self.routing = Routing(settings.categories, numbers, settings.rules)
        self.limits = Limits(settings.rate_limits, settings.caps, settings.bounds.limiter_keys)
        self.limiters = {numbers[name]: limiter for name, limiter in self.limits.rates.items()}
        self.digests.configure(settings.digests)
        for queue in self.queues:
            queue.set_aging(settings.priorities.aging)
        self.people = People(
            self.routing,
            self.channel_names,
            frozenset(numbers[name] for name in settings.channels) | {self.inapp},
            self.limiters,
            self._journal.load_user,
            settings.bounds.users,
            settings.preferences.timezone,
            needs_a_look=self._needs_a_look,
        )
        self.broadcasts.configure(self.routing, settings.priorities.aging)
        self.judge = Judge(
            self.ids,
            self.routing,
            self.people,
            self.idempotency,
            self.contents,
            self.broadcasts,
            settings.schedules.horizon,
        )

    # --- receive -----------------------------------------------------------------------------------------------

    def receive(self, data: Data, seq: int, now: Now) -> Verdict | None:
        """Take a frame: its verdict is final (None accepts all), its deliveries are queued or left on disk."""
        if data.source == UNROUTABLE:
            self._keep_raw(data, seq, data.error or Error("bad_encoding", "not decodable"), None, now)
            return None
        self.last = seq
        if data.source == EXPANSION:
            data = self.broadcasts.expand(data, seq, now)
        frame = Frame(seq, data.at_us, array("I"), b"")
        self._changed(frame)
        judged = self.judge.judge(data, seq, now.wall_us // 1000)
        verdict = judged.verdict()
        frame.widths = bytes([decision.width for decision in judged.decisions])
        frame.expiry = judged.expiry
        frame.new = NewFrame(
            data.source,
            data.fanned,
            data.body,
            judged.digests,
            pack(verdict) if verdict else None,
            self.settings.version,
            judged.rules.tobytes() if judged.rules else None,
        )
        self._admit(frame, judged, now)
        frame.new.has_inbox = frame.new.has_inbox or bool(frame.mask & self._inapp_mask)
        if data.source == EXPANSION:
            self.broadcasts.planned(len(frame.slots))
        counters = self.counters
        accepted, duplicates, rejected = judged.counts()
        counters.accepted += accepted
        counters.duplicates += duplicates
        counters.rejected += rejected
        if data.source == INGEST:  # nobody waits for the answer: the error is kept as a dead letter
            for rejection in judged.rejected:
                if rejection.index in judged.topics:
                    continue  # the router hears it of all shards, and says it once
                user_id, raw = judged.raw[rejection.index]
                self.dead_letters.bury_rejected(seq, rejection.index, rejection.error, user_id, raw, now)
        return verdict

    def refuse(self, data: Data, seq: int, now: Now) -> Verdict:
        """Take a frame that cannot be judged: all of it is rejected, and kept as a dead letter."""
        error = Error("internal", "the dispatcher cannot judge this; it is kept as a dead letter")
        if data.source == EXPANSION:
            self.broadcasts.refuse(data, error, seq, now)
            return self.receive(data, seq, now) or Verdict()
        verdict = Verdict([], [Rejection(at, error) for at in range(validation.positions(data.body, data.fanned))])
        self._keep_raw(data, seq, error, pack(verdict), now)
        self.counters.rejected += len(verdict.rejected)
        return verdict

    def _keep_raw(self, data: Data, seq: int, error: Error, verdict: bytes | None, now: Now) -> None:
        self.last = seq
        frame = Frame(seq, data.at_us, array("I"), b"")
        frame.new = NewFrame(data.source, False, data.body, None, verdict)
        self._changed(frame)
        self.dead_letters.bury_rejected(seq, 0, error, "", data.body, now)

    # --- plan, decide, queue -----------------------------------------------------------------------------------

    def _admit(self, frame: Frame, judged: Judged, now: Now) -> None:
        """Plan every delivery; decide those whose lane has room, and queue what is to be sent."""
        if frame.expiry or judged.schedule or self.behind:
            self._admit_singly(frame, judged, now)
        else:
            self._admit_columns(frame, judged, now)
        self.frames[frame.seq] = frame

    def _admit_columns(self, frame: Frame, judged: Judged, now: Now) -> None:
        """The hot path: no lane has deliveries on disk, and no notification needs more than its decision."""
        users, decisions, keys, *_ = judged
        mono = now.mono
        runs: dict[int, tuple[list[int], list[int]]] = {}  # lane -> slots, positions
        limited: list[int] = []
        doomed: list[tuple[int, int]] = []
        frame.slots.frombytes(b"".join([decision.template for decision in decisions]))
        frame.open = len(frame.slots)
        slot = 0
        for index, decision in enumerate(decisions):
            for offset, lane, limiter, exempt in decision.sends:
                if limiter is not None and not limiter.allow(users[index].signed_hash, mono, exempt):
                    limited.append(slot + offset)
                    continue
                try:
                    slots, indexes = runs[lane]
                except KeyError:
                    slots, indexes = runs[lane] = [], []
                slots.append(slot + offset)
                indexes.append(index)
            if decision.special or decision.doomed:
                doomed.extend((slot + offset, index) for offset in decision.doomed)
                for offset in decision.special:
                    place = slot + offset
                    if self._decides((frame, place, index, users[index], keys[index]), decision.rule, now):
                        slots, indexes = runs.setdefault(ledger.lane_of_word(frame.slots[place]), ([], []))
                        slots.append(place)
                        indexes.append(index)
            slot += decision.width
        for decision, count in Counter(decisions).items():
            frame.mask |= decision.mask
            frame.open -= decision.settled * count
            self._count_planned(decision, count)
        for lane, (slots, indexes) in runs.items():
            run = Run(
                frame,
                array("I", slots),
                array("I", indexes),
                [users[index] for index in indexes],
                [keys[index] for index in indexes],
            )
            frame.active += len(slots)
            self._enqueue(lane, run, mono)
        for place in limited:
            frame.open -= 1
            self._settle(frame, place, ledger.RATE_LIMITED, ledger.REASON["limit"])
        for place, index in doomed:
            self._bury_unconfigured((frame, place, index, users[index], keys[index]), now)

    def _count_planned(self, decision: Decision, count: int) -> None:
        for number, outcome in decision.effects:
            channel = self.counters.channels[number]
            channel.planned += count
            if outcome != ledger.PENDING:
                channel.outcomes[outcome] += count

    def _admit_singly(self, frame: Frame, judged: Judged, now: Now) -> None:
        """The same, delivery by delivery: those of a lane that has others on disk stay behind them."""
        slots = frame.slots
        slot = 0
        behind = frozenset(self.behind)  # a lane that fills up now leaves on disk what comes after this frame
        for index, decision in enumerate(judged.decisions):
            rule = decision.rule
            slots.extend(rule.pending)
            frame.open += rule.width
            send_at_ms = judged.schedule.get(index) if judged.schedule else None
            for offset, channel in enumerate(rule.channels):
                lane = ledger.lane_of(channel, rule.priority)
                self.counters.channels[channel].planned += 1
                if frame.new and channel == self.inapp:
                    frame.new.has_inbox = True
                if send_at_ms is not None and not _expired(frame, index, slot + offset, now):
                    self._defer(frame, slot + offset, index, "send_at", send_at_ms)
                    continue
                frame.mask |= ledger.lane_bit(lane)
                if lane not in behind:
                    entry = (frame, slot + offset, index, judged.users[index], judged.keys[index])
                    self._decide_singly(entry, rule, now)
            slot += rule.width

    def _decide_singly(self, entry: Entry, asked: Asked, now: Now) -> None:
        """Decide one pending delivery, and queue it if it is to be sent."""
        if not self._decides(entry, asked, now):
            return
        frame, slot, *_ = entry
        lane = ledger.lane_of_word(frame.slots[slot])
        frame.active += 1
        if (frame.seq, slot) in self.suspects:
            self.suspects.wait(lane >> 2, entry)
        else:
            self._enqueue(lane, one(entry), now.mono)

    def _decides(self, entry: Entry, asked: Asked, now: Now) -> bool:
        """Whether a pending delivery is to be sent now; if not, it has ended, or waits.

        It is decided from its stored word: it may have been planned by an older configuration.

        The order: cancelled, expired, allowed, reachable, digest, cap, limit, quiet hours. What was charged is not
        charged again, and what has left a digest does not join one.
        """
        frame, slot, index, user, _ = entry
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        digest = frame.digests.get(slot)
        if self._is_cancelled(entry, now):
            return False
        if _expired(frame, index, slot, now):
            self._end(entry, ledger.EXPIRED, "expires_at", now)
            return False
        outcome, reason = self.people.verdict(user.choices, asked.category, channel, asked.override, asked.explicit)
        if outcome != ledger.PENDING:
            self._end(entry, outcome, ledger.REASONS[reason], now)
            return False
        if ledger.reason_of(value) not in ledger.CHARGED:
            if digest is None and self._joins_digest(entry, asked.category, "always", now):
                return False
            if not self._charge(entry, asked, now):
                return False
        channel = ledger.channel_of(frame.slots[slot])  # it may have been moved
        if quiet_until_ms := self.quiet_until_ms(user, asked, channel, priority, now):
            self._defer(frame, slot, index, "quiet_hours", quiet_until_ms)
            return False
        return True

    def _charge(self, entry: Entry, asked: Asked, now: Now) -> bool:
        """Charge the delivery to what limits it; False if that has ended, deferred or moved it."""
        frame, slot, _, user, _ = entry
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), PRIORITIES[ledger.priority_of(value)]
        key, mono = user.signed_hash, now.mono
        caps = self.caps_of(asked.category, channel)
        if any(priority not in cap.exempt and not cap.has_room(key, mono) for cap in caps):
            self._end(entry, ledger.RATE_LIMITED, "cap", now)
            return False
        limiter = self.limiters.get(channel)
        if limiter is not None and not limiter.allow(key, mono, priority in limiter.exempt):
            return self._overflow(entry, asked, limiter, now)
        for cap in caps:
            cap.charge(key, mono)
        if caps or limiter is not None:
            self._note_reason(frame, slot, "charged")
        return True

    def caps_of(self, category: str, channel: int) -> list[Cap]:
        if not self.limits.caps:
            return []
        name = self.channel_names[channel]
        return [cap for cap in self.limits.caps.values() if cap.covers(category, name)]

    def _overflow(self, entry: Entry, asked: Asked, limiter: Limiter, now: Now) -> bool:
        """Carry out what ``overflow`` says; whether the delivery is to be sent now."""
        frame, slot, index, user, _ = entry
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        planned = self._planned(frame, index)
        way, due_ms = self.overflow(user, asked.category, channel, priority, planned, slot in frame.digests, now)
        match way:
            case "delay":
                limiter.reserve(user.signed_hash, now.mono)
                for cap in self.caps_of(asked.category, channel):
                    cap.charge(user.signed_hash, now.mono)
                self._defer(frame, slot, index, "limit", due_ms)
            case "digest":
                self._joins_digest(entry, asked.category, "overflow", now)
            case "inapp":
                self._move_to_inbox(frame, slot)
                return not self._is_left(frame, slot) and self._decides(entry, asked, now)
            case "drop":
                self._end(entry, ledger.RATE_LIMITED, "limit", now)
        return False

    def overflow(
        self, user: User, category: str, channel: int, priority: int, planned: Container[int], is_digest: bool, now: Now
    ) -> tuple[Literal["drop", "delay", "digest", "inapp"], int]:
        """What becomes of a delivery that exceeds its limit, and until when it is delayed.

        ``planned`` are the channels of its notification.
        """
        limiter = self.limiters[channel]
        match "delay" if is_digest and limiter.overflow == "digest" else limiter.overflow:
            case "delay":
                wait_s = limiter.next_at(user.signed_hash, now.mono) - now.mono
                if wait_s <= self.settings.schedules.horizon:
                    return "delay", math.ceil(now.wall_us / 1000 + wait_s * 1000)
            case "digest":
                if self.digest_of(category, channel, priority, "overflow") is not None:
                    return "digest", 0
            case "inapp":
                if not is_digest and self.inapp not in planned:
                    return "inapp", 0
        return "drop", 0

    def _planned(self, frame: Frame, index: int) -> list[int]:
        """The channels of a notification."""
        first = sum(frame.widths[:index])
        return [ledger.channel_of(word) for word in frame.slots[first : first + frame.widths[index]]]

    def _move_to_inbox(self, frame: Frame, slot: int) -> None:
        """Plan the delivery in-app instead."""
        value = frame.slots[slot]
        channels = self.counters.channels
        channels[ledger.channel_of(value)].planned -= 1
        channels[self.inapp].planned += 1
        frame.slots[slot] = value & ~0xFF | self.inapp
        frame.mask |= ledger.lane_bit(ledger.lane_of_word(frame.slots[slot]))
        frame.notes[slot] = (None, "overflow", "")
        self._note_reason(frame, slot, "overflow")
        if frame.new:
            frame.new.has_inbox = True
        else:
            self.changes.moved.append(frame.seq)

    def _joins_digest(self, entry: Entry, category: str, when: Literal["always", "overflow"], now: Now) -> bool:
        """Whether the delivery waits for others now; the leading one of a window goes on."""
        frame, slot, index, user, _ = entry
        value = frame.slots[slot]
        name = self.digest_of(category, ledger.channel_of(value), ledger.priority_of(value), when)
        if name is None:
            return False
        channel = self.channel_names[ledger.channel_of(value)]
        key = self.digests.key(name, self.contents.notification(frame.seq, index))
        known = self.digests.open(user.user_id, channel, category, name, key)
        identifier = f"{self.ids.make(user.hash, frame.seq, index)}-{channel}"
        expires_ms = frame.expiry.get(index) if frame.expiry else None
        lane = ledger.lane_of_word(value)
        digest, leads = self.digests.join(
            known,
            (identifier, user.user_id, channel, category, name, key),
            (frame.seq << PLACE_SHIFT | index, lane, expires_ms),
            now.wall_us // 1000,
        )
        assert digest.due_ms is not None
        self.windows.add(digest.lane, digest.due_ms)
        if leads:
            self._note_reason(frame, slot, "charged")
            return False
        self._set_deferred(frame, slot, "digest", digest.due_ms)
        return True

    def digest_of(self, category: str, channel: int, priority: int, when: Literal["always", "overflow"]) -> str | None:
        if priority == CRITICAL:
            return None
        return self.digests.covering(category, self.channel_names[channel], when)

    def quiet_until_ms(self, user: User, asked: Asked, channel: int, priority: int, now: Now) -> int | None:
        """When the user's quiet hours end, if they are to be respected and it is quiet."""
        quiet = user.choices.quiet
        if quiet is None or not self.is_quieted(asked.override, channel, priority):
            return None
        return quiet.release_ms(now.wall_us // 1000)

    def is_quieted(self, override: bool, channel: int, priority: int) -> bool:
        return not override and priority != CRITICAL and self.channel_names[channel] not in NEVER_QUIET

    def _needs_a_look(self, rule: Rule, channel: int, choices: Choices) -> bool:
        """Whether such a delivery is decided by more than what its decision knows."""
        limiter = self.limiters.get(channel)
        return (
            (choices.quiet is not None and self.is_quieted(rule.override, channel, rule.priority))
            or self.digest_of(rule.category, channel, rule.priority, "always") is not None
            or (limiter is not None and limiter.overflow != "drop")
            or bool(self.caps_of(rule.category, channel))
        )

    def _end(self, entry: Entry, outcome: int, reason: str, now: Now) -> None:
        """A delivery that is not in memory ends without an attempt."""
        frame, slot, *_ = entry
        frame.open -= 1
        self._settle(frame, slot, outcome, ledger.REASON[reason])
        if outcome == ledger.DEAD:
            self._bury_unconfigured(entry, now)
        self._end_digest(frame, slot)

    def _note_reason(self, frame: Frame, slot: int, reason: str) -> None:
        """Why a delivery is as it is, beside its outcome."""
        frame.slots[slot] = frame.slots[slot] & ~ledger.REASON_MASK | ledger.REASON[reason] << ledger.REASON_SHIFT
        self._changed(frame)

    def _defer(self, frame: Frame, slot: int, index: int, reason: str, due_ms: int) -> None:
        """Until then it is on disk only; it does not outlive its expiry there."""
        if slot not in frame.digests:
            due_ms = waits_until_ms(due_ms, frame.expiry.get(index) if frame.expiry else None)
        self._set_deferred(frame, slot, reason, due_ms)
        self.deferrals.add(Timer(ledger.lane_of_word(frame.slots[slot]), due_ms, frame.seq, slot))

    def _set_deferred(self, frame: Frame, slot: int, reason: str, due_ms: int | None) -> None:
        value = frame.slots[slot] & ledger.KEEP
        frame.slots[slot] = (
            value | ledger.DEFERRED << ledger.OUTCOME_SHIFT | ledger.REASON[reason] << ledger.REASON_SHIFT
        )
        frame.notes[slot] = (due_ms, reason, "")
        self._changed(frame)

    def _bury_unconfigured(self, entry: Entry, now: Now) -> None:
        message = self._unconfigured(ledger.channel_of(entry[0].slots[entry[1]]))
        self.dead_letters.bury(entry, self.said(entry), "channel_not_configured", "misconfigured", message, 0, now)

    def _unconfigured(self, channel: int) -> str:
        return f"the configuration has no [channels.{self.channel_names[channel]}]"

    def _enqueue(self, lane: int, run: Run, mono: float) -> None:
        """Into the lane; one that is full now leaves on disk what is received from now on."""
        self.queues[lane >> 2].push(run, lane & 3, mono)
        self.queued[lane] += len(run)
        if self.queued[lane] >= self.settings.bounds.lane_items and lane not in self.behind:
            self.behind[lane] = self.last

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

    # --- refill ------------------------------------------------------------------------------------------------

    def refill(self, now: Now) -> bool:
        """Bring deliveries from disk into lanes that have room; whether there may be more to bring.

        Only between ``committed`` and the next ``judge``: the journal then holds every frame up to ``last``.
        """
        more = False
        room = self.settings.bounds.lane_items // 2
        # what the others move to the inbox is not in the journal yet: its lanes come first, and find it the next time
        for lane, after in sorted(self.behind.items(), key=lambda item: item[0] >> 2 != self.inapp):
            if self.queued[lane] > room:
                continue
            decided = 0
            for row in self._journal.open_frames(lane, after, FRAMES_PER_REFILL):
                self.behind[lane] = row.seq
                decided += self._expand(row, lane, now)
                if decided >= ITEMS_PER_REFILL or self.queued[lane] >= self.settings.bounds.lane_items:
                    break
            if self.behind[lane] == after:
                del self.behind[lane]
            else:
                more = True
        return more

    def _expand(self, row: StoredFrame, lane: int, now: Now) -> int:
        """Decide the frame's deliveries that belong into the lane; how many these were."""
        frame = self._frame(row)
        value = ledger.word(lane >> 2, lane & 3)
        slots = frame.slots
        slot = decided = 0
        for index, width in enumerate(frame.widths):
            for place in range(slot, slot + width):
                if slots[place] & ledger.PLAN == value:
                    decided += 1
                    entry, notification = self._entry(frame, place, index)
                    self._decide_singly(entry, self.routing.asked(notification), now)
            slot += width
        self._let_go(frame)
        return decided

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

    def _frame(self, row: StoredFrame) -> Frame:
        """The frame in memory, or one made from its row. There is never a second one: the last write would win."""
        frame = self.frames.get(row.seq)
        if frame is None:
            frame = self.frames[row.seq] = Frame(row.seq, row.at_us, ledger.words(row.slots), row.widths)
            frame.open = frame.stored_open = sum(ledger.outcome_of(value) in ledger.OPEN for value in frame.slots)
            frame.mask = row.mask
            frame.notes = decode_notes(row.notes)
            self._find_digests(frame)
        return frame

    def _let_go(self, frame: Frame) -> None:
        """Forget a frame of which nothing is in memory and nothing is to be written."""
        if not frame.active and not frame.touched:
            self.frames.pop(frame.seq, None)

    def _leave(self, frame: Frame) -> None:
        """A delivery that ended before leaves memory: with the last one, what only the log has of others is written."""
        frame.active -= 1
        if not frame.active:
            self._changed(frame)

    def wait(self, seq: int, slot: int, channel: int, due: float) -> None:
        """A retry that was waiting when the shard stopped, or a dead letter that is to be tried again."""
        self.retrying[channel].push(due, (seq, slot))

    # --- deferred deliveries -----------------------------------------------------------------------------------

    def release(self, now: Now) -> bool:
        """Decide what is due of the deferred, and close the windows that are over; whether there may be more.

        Only between ``committed`` and the next ``judge``, like ``refill``. A lane without room leaves them on disk.
        """
        now_ms = now.wall_us // 1000
        more = False
        for lane in self.deferrals.dues.lanes(now_ms):
            if self._has_room(lane):
                timers = self._journal.timers(lane, now_ms, RELEASED_MAX + 1)
                more = more or len(timers) > RELEASED_MAX
                self.deferrals.take(lane, timers[:RELEASED_MAX], self._journal.due_after(lane, timers[:RELEASED_MAX]))
                for timer in timers[:RELEASED_MAX]:
                    self._release(timer, now)
        for lane in self.windows.lanes(now_ms):
            if self._has_room(lane):
                digests = self._journal.due_windows(lane, now_ms, WINDOWS_MAX + 1)
                more = more or len(digests) > WINDOWS_MAX
                last_ms = digests[-1].due_ms if len(digests) > WINDOWS_MAX else None
                self.windows.replace(lane, last_ms or self._journal.window_due_after(lane, now_ms))
                for digest in self.digests.opened(lane):
                    self.windows.add(lane, digest.due_ms or 0)
                for digest in filter(None, map(self.digests.newest, digests[:WINDOWS_MAX])):
                    self._close_window(digest, now)
        return more

    @property
    def has_deferred(self) -> bool:
        """Whether the turn has something to store besides its changes."""
        return bool(self.deferrals.added or self.deferrals.removed or self.digests.changed)

    def _has_room(self, lane: int) -> bool:
        return self.queued[lane] < self.settings.bounds.lane_items

    def _release(self, timer: Timer, now: Now) -> None:
        _, due_ms, seq, slot = timer
        frame = self._known(seq)
        if frame is None:
            return
        value = frame.slots[slot]
        note = frame.notes.get(slot)
        if ledger.outcome_of(value) != ledger.DEFERRED or note is None or note[0] != due_ms:
            self._let_go(frame)
            return  # it was cancelled, or deferred anew
        entry, notification = self._entry(frame, slot, _index_of(frame, slot))
        asked = self.routing.asked(notification)
        charged = ledger.reason_of(value) in ledger.CHARGED
        self._resume(frame, slot, "charged" if charged else "")
        self._decide_or_leave(entry, asked, now)

    def _resume(self, frame: Frame, slot: int, reason: str) -> None:
        """A deferred delivery is pending again."""
        plan = frame.slots[slot] & ledger.KEEP
        frame.slots[slot] = plan | ledger.REASON[reason] << ledger.REASON_SHIFT
        frame.notes.pop(slot, None)
        frame.mask |= ledger.lane_bit(ledger.lane_of_word(plan))
        self._changed(frame)

    def _decide_or_leave(self, entry: Entry, asked: Asked, now: Now) -> None:
        """Decide it, unless its lane will come to it on disk."""
        if not self._is_left(*entry[:2]):
            self._decide_singly(entry, asked, now)

    def _is_left(self, frame: Frame, slot: int) -> bool:
        """Whether the lane of a pending delivery will come to it on disk."""
        return frame.seq > self.behind.get(ledger.lane_of_word(frame.slots[slot]), self.last)

    def _known(self, seq: int) -> Frame | None:
        """A frame in memory or from disk; None if it is no more."""
        frame = self.frames.get(seq)
        if frame is None:
            row = self._journal.frame(seq)
            frame = None if row is None else self._frame(row)
        return frame

    # --- digests -----------------------------------------------------------------------------------------------

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

    @contextlib.contextmanager
    def _items(self, digest: Digest) -> Iterator[list[tuple[Frame, int, int]]]:
        """``(frame, slot, place)`` of the items, without those whose frame is no more."""
        found = []
        for place in digest.places:
            frame = self._known(place >> PLACE_SHIFT)
            slot = self._slot_of(frame, place, digest.channel) if frame else None
            if frame is not None and slot is not None:
                found.append((frame, slot, place))
        yield found
        for frame, *_ in found:
            self._let_go(frame)

    def _close_window(self, digest: Digest, now: Now) -> None:
        """Send what is left of a window by way of its first item."""
        live: list[tuple[Entry, Asked]] = []
        expiries: list[int | None] = []
        with self._items(digest) as items:
            for frame, slot, place in items:
                if not _waits_in_digest(frame.slots[slot]):
                    continue
                index = place & PLACE_MASK
                entry, notification = self._entry(frame, slot, index)
                if _expired(frame, index, slot, now):
                    self._end(entry, ledger.EXPIRED, "expires_at", now)
                    continue
                live.append((entry, self.routing.asked(notification)))
                expiries.append(frame.expiry.get(index) if frame.expiry else None)
            known = [one for one in expiries if one is not None]
            expires_ms = max(known) if known and len(known) == len(expiries) else None
            self.digests.close(digest, [entry[0].seq << PLACE_SHIFT | entry[2] for entry, _ in live], expires_ms)
            if live:
                (frame, slot, index, user, _), asked = live[0]
                frame.digests[slot] = digest
                self._resume(frame, slot, "")
                self._decide_or_leave((frame, slot, index, user, digest.id), asked, now)

    def _end_digest(self, frame: Frame, slot: int) -> None:
        """Its items share the outcome of the delivery that carried them."""
        digest = frame.digests.get(slot)
        if digest is None:
            return
        value = frame.slots[slot]
        outcome, reason = ledger.outcome_of(value), ledger.reason_of(value)
        with self._items(digest) as items:
            for other, at, place in items:
                if place != digest.carrier and _waits_in_digest(other.slots[at]):
                    other.open -= 1
                    self._settle(other, at, outcome, reason)

    def _withdraw(self, digest: Digest, entry: Entry, now: Now) -> bool:
        """Before it is tried again, a digest loses what was cancelled meanwhile; whether its carrier goes on.

        Where the carrier was cancelled, the next item carries what is left, with the attempts made so far.
        """
        frame, slot, *_ = entry
        gone, digest.withdrawn = set(digest.withdrawn), []
        value, note = frame.slots[slot], frame.notes[slot]
        with self._items(digest) as items:
            rest = [item for item in items if item[2] not in gone]
            digest.places = [place for _, _, place in rest]
            for other, at, place in items:
                if place in gone and place != digest.carrier and _waits_in_digest(other.slots[at]):
                    other.open -= 1
                    self._settle(other, at, ledger.CANCELLED, ledger.REASON["cancelled"])
            self.digests.changed[digest.id] = digest if rest else None
            if digest.carrier not in gone:
                return True
            del frame.digests[slot]
            frame.active -= 1
            self._end(entry, ledger.CANCELLED, "cancelled", now)
            if rest:
                other, at, digest.carrier = rest[0]
                other.digests[at] = digest
                attempts = value & 0xFF << ledger.ATTEMPTS_SHIFT
                plan = other.slots[at] & ledger.KEEP & ~(0xFF << ledger.ATTEMPTS_SHIFT)
                other.slots[at] = plan | attempts | ledger.RETRYING << ledger.OUTCOME_SHIFT
                other.notes[at] = note
                other.active += 1
                self._changed(other)
                due_ms = note[0] or 0
                heap = self.retrying[ledger.channel_of(value)]
                heap.push(
                    now.mono + due_ms / 1000 - now.wall_us / 1e6, self._entry(other, at, digest.carrier & PLACE_MASK)[0]
                )
        return False

    def _reopen_items(self, digest: Digest) -> None:
        """The digest is tried again: what it took along is as open as it is."""
        with self._items(digest) as items:
            for other, at, place in items:
                value = other.slots[at]
                if place != digest.carrier and ledger.outcome_of(value) == ledger.DEAD:
                    other.open += 1
                    self.counters.channels[ledger.channel_of(value)].outcomes[ledger.DEAD] -= 1
                    self._set_deferred(other, at, "digest", None)

    def said(self, entry: Entry) -> Notification:
        """What a delivery says: the notification, or the digest that is sent by way of it."""
        frame, slot, index, user, _ = entry
        digest = frame.digests.get(slot)
        if digest is None:
            return msgspec.structs.replace(  # without the others whom it went to
                self.contents.notification(frame.seq, index), user_id=user.user_id, recipients=None
            )
        return self.digest_said(digest)

    def inapp_said(self, place: int) -> Notification | None:
        """The digest that stands in an inbox at its carrier's place; None where there is none."""
        for digest in self.digests.of_frame(place >> PLACE_SHIFT):
            if digest.carrier == place and digest.channel == INAPP:
                return self.digest_said(digest)
        return None

    def digest_said(self, digest: Digest) -> Notification:
        """Composed of its items; of a dead letter's, some may be pruned. ``LookupError`` if all are."""
        user_hash = hash_user(digest.user_id)
        items = []
        for place in digest.places:
            seq, index = place >> PLACE_SHIFT, place & PLACE_MASK
            with contextlib.suppress(LookupError):
                items.append((self.ids.make(user_hash, seq, index), self.contents.notification(seq, index)))
        if not items:
            raise LookupError(digest.id)
        return composed(digest, items)

    # --- cancel ------------------------------------------------------------------------------------------------

    def cancel(self, seq: int, index: int, now: Now) -> tuple[int, bool]:
        """End what is open of a notification: how many deliveries, and whether any was open.

        One that is under way is not counted; it ends instead of a retry. A digest that is being sent is one.
        """
        frame = self._known(seq)
        if frame is None or index >= len(frame.widths):
            return 0, False
        first = sum(frame.widths[:index])
        count, found = 0, False
        for slot in range(first, first + frame.widths[index]):
            value = frame.slots[slot]
            if ledger.outcome_of(value) not in ledger.OPEN:
                continue
            found = True
            count += self._cancel(frame, slot, index, now)
        self._let_go(frame)
        return count, found

    def sweep(self, now: Now) -> bool:
        """End what is open of a cancelled broadcast, a frame at a time; whether there may be more. Like ``refill``."""
        seq = self.broadcasts.sweep(now)
        if seq is None:
            return False
        frame = self._known(seq)
        if frame is not None:
            slot = 0
            for index, width in enumerate(frame.widths):
                for place in range(slot, slot + width):
                    if ledger.outcome_of(frame.slots[place]) in ledger.OPEN:
                        self._cancel(frame, place, index, now)
                slot += width
            self._let_go(frame)
        return True

    def _cancel(self, frame: Frame, slot: int, index: int, now: Now) -> bool:
        value = frame.slots[slot]
        outcome, lane = ledger.outcome_of(value), ledger.lane_of_word(value)
        entry = self._entry(frame, slot, index)[0]
        place = frame.seq << PLACE_SHIFT | index
        if slot in frame.digests and len(frame.digests[slot].places) > 1:
            return False
        if slot in frame.digests or _waits_in_digest(value):
            digest = frame.digests.get(slot) or self._digest_with(entry, place)
            if digest is not None and digest.due_ms is None:
                digest.withdrawn.append(place)
                self.digests.save(digest)
                return False
            if digest is not None:
                self.digests.leave(digest, place)
        elif slot in frame.flying:
            self._note_reason(frame, slot, "cancelled")
            return False
        elif outcome == ledger.DEFERRED and slot in frame.notes:
            self.deferrals.remove([Timer(lane, frame.notes[slot][0] or 0, frame.seq, slot)])
        # in memory it stays where it is, and is left out when its turn comes
        in_lane = outcome == ledger.PENDING and frame.seq <= self.behind.get(lane, self.last)
        frame.gone = frame.gone or in_lane or outcome == ledger.RETRYING
        self._end(entry, ledger.CANCELLED, "cancelled", now)
        return True

    def _digest_with(self, entry: Entry, place: int) -> Digest | None:
        """The digest that an item is in, as it is in memory if it is being sent."""
        frame, slot, _, user, _ = entry
        digest = self.digests.holding(user.user_id, self.channel_names[ledger.channel_of(frame.slots[slot])], place)
        if digest is None or digest.carrier is None:
            return digest
        carrier = self._known(digest.carrier >> PLACE_SHIFT)
        at = self._slot_of(carrier, digest.carrier, digest.channel) if carrier else None
        if carrier is None or at is None:
            return None
        self._let_go(carrier)
        return carrier.digests[at]

    # --- take, deliver, fail -----------------------------------------------------------------------------------

    def wake(self, now: Now) -> None:
        """Retries that are due go back into their lanes; those of a channel that is no more are given up."""
        for channel, heap in enumerate(self.retrying):
            due = heap.next_due()
            if due is None or due > now.mono:
                continue
            runs: dict[tuple[Frame, int], Run] = {}
            for item in heap.pop_due(now.mono):
                entry = item if len(item) == 5 else self._reload(*item)
                if entry is None:
                    continue
                if not self.people.is_configured(channel):
                    attempts = ledger.attempts_of(entry[0].slots[entry[1]])
                    text = self._unconfigured(channel)
                    self._give_up(entry, "channel_not_configured", "misconfigured", text, attempts, now)
                    self._acquit(channel, entry[0], entry[1])
                    continue
                if self._is_cancelled(entry, now):
                    self._leave(entry[0])
                    continue
                if self._sleeps(entry, now):
                    continue
                if (entry[0].seq, entry[1]) in self.suspects:
                    self.suspects.wait(channel, entry)
                    continue
                key = entry[0], ledger.priority_of(entry[0].slots[entry[1]])
                if key in runs:
                    runs[key].add(entry)
                else:
                    runs[key] = one(entry)
            for (_, priority), run in runs.items():
                self.queues[channel].push(run, priority, now.mono)
                self.queued[ledger.lane_of(channel, priority)] += len(run)

    def _sleeps(self, entry: Entry, now: Now) -> bool:
        """Whether a retry has come due in its user's quiet hours; it is then due at their end."""
        frame, slot, index, user, _ = entry
        if user.choices.quiet is None:
            return False
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        asked = self.routing.asked(self.contents.notification(frame.seq, index))
        until_ms = self.quiet_until_ms(user, asked, channel, priority, now)
        if until_ms is None:
            return False
        _, error_class, message = frame.notes.get(slot, (None, "", ""))
        frame.notes[slot] = (until_ms, error_class, message)
        self._log(frame, slot)
        self.retrying[channel].push(now.mono + until_ms / 1000 - now.wall_us / 1e6, entry)
        return True

    def _is_cancelled(self, entry: Entry, now: Now) -> bool:
        """Whether it is; one that was under way when it was cancelled, and when the shard died, ends here."""
        frame, slot, *_ = entry
        value = frame.slots[slot]
        if ledger.reason_of(value) != ledger.REASON["cancelled"]:
            return False
        if ledger.outcome_of(value) in ledger.OPEN:
            self._end(entry, ledger.CANCELLED, "cancelled", now)
        return True

    def _reload(self, seq: int, slot: int) -> Entry | None:
        """A waiting delivery of which only the place was kept; None if it has ended in the meantime."""
        row = self._journal.frame(seq)
        if row is None:
            return None
        frame = self._frame(row)
        if ledger.outcome_of(frame.slots[slot]) not in ledger.OPEN:
            self._let_go(frame)
            return None
        frame.active += 1
        return self._entry(frame, slot, _index_of(frame, slot))[0]

    def take(self, channel: int, now: Now) -> list[Run]:
        """What the channel may start now, within its concurrency and the bound on what waits for a retry."""
        pace = self.paces.get(channel)
        room = self._room(channel)
        runs = self._pop(channel, room if pace is None else min(room, pace.available(now.mono)), now)
        for run in runs:
            self.in_flight[channel] += len(run)
            run.frame.flying.update(run.slots)
            if pace is not None:
                pace.spend(len(run), now.mono)
        return runs

    def _room(self, channel: int) -> int:
        """How many attempts may be started: all of them may fail, and wait for a retry."""
        concurrency, in_flight = (
            self.settings.channels[self.channel_names[channel]].concurrency,
            self.in_flight[channel],
        )
        return min(concurrency, self.settings.bounds.retrying - len(self.retrying[channel])) - in_flight

    def try_suspect(self, channel: int, now: Now) -> Run | None:
        """A delivery that may have brought the shard down, and is to be tried alone."""
        pace = self.paces.get(channel)
        if (
            not self.suspects.has_waiting(channel)
            or self._room(channel) <= 0
            or (pace is not None and not pace.available(now.mono))
        ):
            return None
        entry = self.suspects.next(channel)
        if entry is None:
            return None
        run = self._drop_ended(one(entry), now)
        if not len(run):
            self._acquit(channel, entry[0], entry[1])  # the next one may be tried
            return None
        self.in_flight[channel] += 1
        entry[0].flying.add(entry[1])
        if pace is not None:
            pace.spend(1, now.mono)
        return run

    def _acquit(self, channel: int, frame: Frame, slot: int) -> None:
        if self.suspects.acquit(channel, frame, slot):
            self.changes.acquitted.append((frame.seq, slot))

    def suspect(self, crashes: Mapping[Place, int], now: Now) -> None:
        """At the start: what was under way when the shard died; who was so too often is given up."""
        self.suspects = Suspects({place: times for place, times in crashes.items() if times < CRASHES_MAX})
        for (seq, slot), times in crashes.items():
            entry = self._reload(seq, slot) if times >= CRASHES_MAX else None
            if entry is not None:
                text = f"the shard died {times} times while this was attempted"
                self._give_up(entry, "poison", "permanent", text, ledger.attempts_of(entry[0].slots[slot]), now)
                self.changes.acquitted.append((seq, slot))

    def _pop(self, channel: int, count: int, now: Now) -> list[Run]:
        """At most ``count`` deliveries from the channel's lanes, in the order in which they are due."""
        queue = self.queues[channel]
        runs: list[Run] = []
        while count > 0 and (run := queue.pop(now.mono)) is not None:
            priority = ledger.priority_of(run.frame.slots[run.slots[0]])
            if len(run) > count:
                rest, run = run, run.split(count)
                queue.put_back(rest, priority)
            self.queued[ledger.lane_of(channel, priority)] -= len(run)
            if run.frame.expiry or run.frame.gone or run.frame.digests:
                run = self._drop_ended(run, now)
            count -= len(run)
            if len(run):
                runs.append(run)
        return runs

    def _drop_ended(self, run: Run, now: Now) -> Run:
        """Without what was cancelled while it waited, and what expires now."""
        frame = run.frame
        ended = set()
        for at, (slot, index) in enumerate(zip(run.slots, run.indexes, strict=True)):
            if ledger.outcome_of(frame.slots[slot]) == ledger.CANCELLED:
                ended.add(at)
                self._leave(frame)
            elif _expired(frame, index, slot, now):
                ended.add(at)
                frame.active -= 1
                self._end(run.entry(at), ledger.EXPIRED, "expires_at", now)
        return run.without(ended) if ended else run

    def deliver_inapp(self, now: Now) -> None:
        """In-app deliveries end as rows of this turn's transaction."""
        runs = self._pop(self.inapp, sys.maxsize, now)
        for run in runs:
            base = run.frame.seq << 16
            rows = array("q", bytes(16 * len(run)))
            rows[0::2] = array("q", [user.signed_hash for user in run.users])
            rows[1::2] = array("q", [base | index for index in run.indexes])
            self.changes.inbox.extend(rows)
        self.changes.inbox_runs += runs
        self._delivered(self.inapp, [(run.frame, run.slots) for run in runs], now)

    def deliver(self, channel: int, delivered: list[tuple[Frame, MutableSequence[int]]], now: Now) -> None:
        """Attempts that succeeded, as slots of frames."""
        for frame, slots in delivered:
            self.in_flight[channel] -= len(slots)
            frame.flying.difference_update(slots)
        if self.suspects:
            for frame, slots in delivered:
                for slot in slots:
                    self._acquit(channel, frame, slot)
        self._delivered(channel, delivered, now)

    def _delivered(self, channel: int, delivered: list[tuple[Frame, MutableSequence[int]]], now: Now) -> None:
        latencies = self.latencies[channel]
        keep, done = ledger.KEEP, ledger.DELIVERED_AT_ATTEMPT
        total = 0
        for frame, slots in delivered:
            words = frame.slots
            for slot in slots:
                words[slot] = (words[slot] & keep) + done
            count = len(slots)
            total += count
            frame.open -= count
            frame.active -= count
            latencies.add(now.wall_us - frame.at_us, count)
            if count > LOGGED_MAX:
                self._changed(frame)
            else:
                for slot in slots:
                    self._log(frame, slot)
            if frame.digests:
                for slot in slots:
                    self._end_digest(frame, slot)
        counters = self.counters.channels[channel]
        counters.attempts += total
        counters.outcomes[ledger.DELIVERED] += total

    def fail(self, channel: int, failures: list[Failure], now: Now) -> None:
        """Attempts that failed: each waits for its retry, or becomes a dead letter."""
        self.in_flight[channel] -= len(failures)
        counters = self.counters.channels[channel]
        counters.attempts += len(failures)
        counters.failed_attempts += len(failures)
        policy = self.settings.retry
        heap = self.retrying[channel]
        for entry, error_class, text in failures:
            frame, slot, *_ = entry
            message = text[:ERROR_TEXT_MAX]
            value = (frame.slots[slot] & ledger.KEEP) + ledger.ONE_ATTEMPT
            attempts = value >> ledger.ATTEMPTS_SHIFT
            withdrawn = ledger.reason_of(frame.slots[slot]) == ledger.REASON["cancelled"]
            frame.flying.discard(slot)
            if self.suspects:
                self._acquit(channel, frame, slot)
            if error_class in RETRIED and not policy.exhausted(attempts):
                if withdrawn:
                    frame.slots[slot] = value
                    frame.notes[slot] = (None, error_class, message)
                    frame.active -= 1
                    self._end(entry, ledger.CANCELLED, "cancelled", now)
                    continue
                delay_s = policy.delay_s(attempts, self._random)
                expires_ms = _expires_ms(frame, entry[2], slot)
                if expires_ms is not None:  # it ends then, and not when it would have been tried again
                    delay_s = min(delay_s, max(0.0, expires_ms / 1000 - now.wall_us / 1e6))
                frame.slots[slot] = value | ledger.RETRYING << ledger.OUTCOME_SHIFT
                frame.notes[slot] = (now.wall_us // 1000 + int(delay_s * 1000), error_class, message)
                digest = frame.digests.get(slot)
                if digest and digest.withdrawn and not self._withdraw(digest, entry, now):
                    continue
                heap.push(now.mono + delay_s, entry)
                self._log(frame, slot)
            else:
                frame.slots[slot] = value
                reason = "max_retries" if error_class in RETRIED else "permanent"
                self._give_up(entry, reason, error_class, message, attempts, now)

    def _give_up(self, entry: Entry, reason: str, error_class: str, message: str, attempts: int, now: Now) -> None:
        """A delivery in memory ends as a dead letter."""
        frame, slot, *_ = entry
        value = frame.slots[slot] & ledger.KEEP
        frame.slots[slot] = value | ledger.DEAD << ledger.OUTCOME_SHIFT | ledger.REASON[reason] << ledger.REASON_SHIFT
        frame.notes[slot] = (None, error_class, message)
        frame.open -= 1
        frame.active -= 1
        self.counters.channels[ledger.channel_of(value)].outcomes[ledger.DEAD] += 1
        self.dead_letters.bury(entry, self.said(entry), reason, error_class, message, attempts, now)
        self._log(frame, slot)
        self._end_digest(frame, slot)

    # --- dead letters ------------------------------------------------------------------------------------------

    def revive(self, seq: int, slot: int, reason: str, now: Now) -> bool:
        """Try a dead letter again, from its first attempt; False if its frame is gone."""
        row = self._journal.frame(seq)
        if row is None or slot < 0:
            return False
        frame = self._frame(row)
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        if ledger.outcome_of(value) != ledger.DEAD or not self.people.is_configured(channel):
            self._let_go(frame)
            return False
        frame.slots[slot] = ledger.word(channel, priority, reason=ledger.REASON["charged"])
        frame.notes.pop(slot, None)
        frame.open += 1
        frame.mask |= ledger.lane_bit(ledger.lane_of(channel, priority))
        self.counters.channels[channel].outcomes[ledger.DEAD] -= 1
        self.dead_letters.forget(seq, slot, reason)
        self._changed(frame)
        if slot in frame.digests:
            self._reopen_items(frame.digests[slot])
        if seq <= self.behind.get(ledger.lane_of(channel, priority), self.last):
            self.wait(seq, slot, channel, now.mono)
        return True

    # --- after the commit --------------------------------------------------------------------------------------

    def committed(self) -> None:
        """Everything in ``changes`` is stored: forget what needs no memory."""
        for frame in self.changes.frames:
            frame.dirty = frame.touched = False
            frame.new = None
            if not frame.active:
                self.frames.pop(frame.seq, None)
        self.broadcasts.committed(self.changes.broadcasts)
        self.changes = Changes()
        self.contents.committed()
        self.deferrals.committed()
        self.digests.committed()

    def next_due(self, now: Now) -> float | None:
        """When the first retry or deferred delivery is due, of lanes that have room."""
        dues = [due for heap in self.retrying if (due := heap.next_due()) is not None]
        dues += [
            due
            for channel, pace in self.paces.items()
            if len(self.queues[channel]) and self._room(channel) > 0 and (due := pace.next_at(now.mono)) is not None
        ]
        for lane, due_ms in [*self.deferrals.dues.items(), *self.windows.items()]:
            if self._has_room(lane):
                dues.append(now.mono + due_ms / 1000 - now.wall_us / 1e6)
        return min(dues) if dues else None


def _index_of(frame: Frame, slot: int) -> int:
    """The position of the notification that a slot is of."""
    index, end = 0, frame.widths[0]
    while slot >= end:
        index += 1
        end += frame.widths[index]
    return index


def _expires_ms(frame: Frame, index: int, slot: int) -> int | None:
    """When the delivery expires, or the digest that is sent by way of it."""
    digest = frame.digests.get(slot)
    return digest.expires_ms if digest else frame.expiry.get(index) if frame.expiry else None


def _expired(frame: Frame, index: int, slot: int, now: Now) -> bool:
    expires_ms = _expires_ms(frame, index, slot)
    return expires_ms is not None and has_expired(expires_ms, now)


def has_expired(expires_ms: int, now: Now) -> bool:
    return expires_ms * 1000 <= now.wall_us


def _waits_in_digest(value: int) -> bool:
    return ledger.outcome_of(value) == ledger.DEFERRED and ledger.reason_of(value) == ledger.REASON["digest"]
