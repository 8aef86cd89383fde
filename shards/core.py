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

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from typing import NamedTuple, Protocol

from shards import ledger, validation
from shards.broadcasts import Broadcasts, Room, Stored
from shards.changes import Changes, Now, Place, decode_notes
from shards.channels.base import RETRIED, Failure
from shards.contents import Contents
from shards.counters import Counters, Latencies
from shards.dead_letters import ERROR_TEXT_MAX, DeadLetters
from shards.dedupe import IdempotencySet
from shards.frames import Entry, Frame, NewFrame, Run, one
from shards.identifiers import Identifiers, Origins
from shards.judging import Judge, Judged
from shards.lanes import LANES, NotificationQueue
from shards.limiter import Limiter
from shards.people import Decision, People
from shards.preferences import UserDocument
from shards.retry import DueHeap
from shards.rules import Routing
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
    pack,
)

INAPP = "inapp"
FRAMES_PER_REFILL = 64  # read from disk for a lane in one turn,
ITEMS_PER_REFILL = 1_000  # until so many deliveries are decided: they delay whatever comes in
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
        self.settings = settings
        self.ids = Identifiers(journal)
        self.channel_names = channel_names
        self.counters = counters
        self.idempotency = IdempotencySet(settings.secret)
        numbers = {name: number for number, name in enumerate(channel_names)}
        self.inapp = numbers[INAPP]
        self.routing = Routing(settings.categories, numbers)
        self.limiters = {
            numbers[name]: Limiter(limit, settings.bounds.limiter_keys) for name, limit in settings.rate_limits.items()
        }
        self.people = People(
            self.routing,
            channel_names,
            frozenset(numbers[name] for name in settings.channels) | {self.inapp},
            self.limiters,
            journal.load_user,
            settings.bounds.users,
        )
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
        self.dead_letters = DeadLetters(
            self.ids, channel_names, self.contents, counters.dead_letters, lambda: self.changes
        )
        self.last = 0  # the last frame that was received
        self.broadcasts = Broadcasts(
            journal.topics,
            self.routing,
            Room(self.queued, self.behind),
            self.dead_letters,
            lambda: self.changes,
            settings.bounds.broadcasts,
            settings.priorities.aging,
        )
        self._judge = Judge(self.ids, self.routing, self.people, self.idempotency, self.contents, self.broadcasts)
        self._journal = journal
        self._random = random
        self._inapp_mask = sum(ledger.lane_bit(ledger.lane_of(self.inapp, priority)) for priority in range(LANES))

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
        judged = self._judge.judge(data, seq, now.wall_us // 1000)
        verdict = judged.verdict()
        frame.widths = bytes([decision.width for decision in judged.decisions])
        frame.expiry = judged.expiry
        frame.new = NewFrame(data.source, data.fanned, data.body, judged.digests, pack(verdict) if verdict else None)
        self._admit(frame, judged, now)
        frame.new.has_inbox = bool(frame.mask & self._inapp_mask)
        if data.source == EXPANSION:
            self.broadcasts.planned(len(frame.slots))
        counters = self.counters
        counters.duplicates += len(judged.duplicates)
        counters.rejected += len(judged.rejected)
        counters.accepted += len(judged.decisions) - len(judged.duplicates) - len(judged.rejected) - judged.kept
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
        if frame.expiry or self.behind:
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
        slot = 0
        for index, decision in enumerate(decisions):
            for offset, lane, limiter, exempt in decision.sends:
                if limiter is not None and not limiter.allow(users[index].user_id, mono, exempt):
                    limited.append(slot + offset)
                    continue
                try:
                    slots, indexes = runs[lane]
                except KeyError:
                    slots, indexes = runs[lane] = [], []
                slots.append(slot + offset)
                indexes.append(index)
            if decision.doomed:
                doomed.extend((slot + offset, index) for offset in decision.doomed)
            slot += decision.width
        frame.slots.frombytes(b"".join([decision.template for decision in decisions]))
        frame.open = slot
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
            for offset, channel in enumerate(rule.channels):
                lane = ledger.lane_of(channel, rule.priority)
                frame.mask |= ledger.lane_bit(lane)
                self.counters.channels[channel].planned += 1
                if lane not in behind:
                    entry = (frame, slot + offset, index, judged.users[index], judged.keys[index])
                    self._decide_singly(entry, rule.category, rule.override, rule.explicit, now)
            slot += rule.width

    def _decide_singly(self, entry: Entry, category: str, override: bool, explicit: bool, now: Now) -> None:
        """Decide one pending delivery, from its stored word: it may have been planned by an older configuration."""
        frame, slot, index, user, _ = entry
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        outcome, reason = self.people.verdict(user.choices, category, channel, override, explicit)
        limiter = self.limiters.get(channel)
        if _expired(frame, index, now):
            outcome, reason = ledger.EXPIRED, ledger.REASON["expires_at"]
        elif (
            outcome == ledger.PENDING
            and limiter is not None
            and not limiter.allow(user.user_id, now.mono, PRIORITIES[priority] in limiter.exempt)
        ):
            outcome, reason = ledger.RATE_LIMITED, ledger.REASON["limit"]
        if outcome == ledger.PENDING:
            frame.active += 1
            if (frame.seq, slot) in self.suspects:
                self.suspects.wait(channel, entry)
            else:
                self._enqueue(ledger.lane_of(channel, priority), one(entry), now.mono)
            return
        frame.open -= 1
        self._settle(frame, slot, outcome, reason)
        if outcome == ledger.DEAD:
            self._bury_unconfigured(entry, now)

    def _bury_unconfigured(self, entry: Entry, now: Now) -> None:
        message = self._unconfigured(ledger.channel_of(entry[0].slots[entry[1]]))
        self.dead_letters.bury(entry, "channel_not_configured", "misconfigured", message, 0, now)

    def _unconfigured(self, channel: int) -> str:
        return f"the configuration has no [channels.{self.channel_names[channel]}]"

    def _enqueue(self, lane: int, run: Run, mono: float) -> None:
        """Into the lane; one that is full now leaves what comes after this frame on disk."""
        self.queues[lane >> 2].push(run, lane & 3, mono)
        self.queued[lane] += len(run)
        if self.queued[lane] >= self.settings.bounds.lane_items and lane not in self.behind:
            self.behind[lane] = run.frame.seq

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
        for lane, after in list(self.behind.items()):
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
                if slots[place] == value:
                    decided += 1
                    entry, notification = self._entry(frame, place, index)
                    category = self.routing.categories.get(notification.category)
                    self._decide_singly(
                        entry,
                        notification.category,
                        category is not None and category.override_preferences,
                        notification.channels is not None or self.routing.is_configured(notification.category),
                        now,
                    )
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
        key = notification.idempotency_key or notification.id
        return (frame, slot, index, self.people.user(user_id), key), notification

    def _frame(self, row: StoredFrame) -> Frame:
        """The frame in memory, or one made from its row. There is never a second one: the last write would win."""
        frame = self.frames.get(row.seq)
        if frame is None:
            frame = self.frames[row.seq] = Frame(row.seq, row.at_us, ledger.words(row.slots), row.widths)
            frame.open = frame.stored_open = sum(ledger.outcome_of(value) in ledger.OPEN for value in frame.slots)
            frame.mask = row.mask
            frame.notes = decode_notes(row.notes)
        return frame

    def _let_go(self, frame: Frame) -> None:
        """Forget a frame of which nothing is in memory and nothing is to be written."""
        if not frame.active and not frame.touched:
            self.frames.pop(frame.seq, None)

    def wait(self, seq: int, slot: int, channel: int, due: float) -> None:
        """A retry that was waiting when the shard stopped, or a dead letter that is to be tried again."""
        self.retrying[channel].push(due, (seq, slot))

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

    def _reload(self, seq: int, slot: int) -> Entry | None:
        """A waiting delivery of which only the place was kept; None if it has ended in the meantime."""
        row = self._journal.frame(seq)
        if row is None:
            return None
        frame = self._frame(row)
        if ledger.outcome_of(frame.slots[slot]) not in ledger.OPEN:
            self._let_go(frame)
            return None
        index, end = 0, frame.widths[0]
        while slot >= end:
            index += 1
            end += frame.widths[index]
        frame.active += 1
        return self._entry(frame, slot, index)[0]

    def take(self, channel: int, now: Now) -> list[Run]:
        """What the channel may start now, within its concurrency and the bound on what waits for a retry."""
        runs = self._pop(channel, self._room(channel), now)
        self.in_flight[channel] += sum(map(len, runs))
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
        if not self.suspects or self._room(channel) <= 0:
            return None
        entry = self.suspects.next(channel)
        if entry is None:
            return None
        run = one(entry)
        if entry[0].expiry:
            run = self._drop_expired(run, now)
        if not len(run):
            return None
        self.in_flight[channel] += 1
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
            count -= len(run)
            self.queued[ledger.lane_of(channel, priority)] -= len(run)
            if run.frame.expiry:
                run = self._drop_expired(run, now)
            if len(run):
                runs.append(run)
        return runs

    def _drop_expired(self, run: Run, now: Now) -> Run:
        frame = run.frame
        expired = {at for at, index in enumerate(run.indexes) if _expired(frame, index, now)}
        for at in expired:
            frame.open -= 1
            frame.active -= 1
            self._settle(frame, run.slots[at], ledger.EXPIRED, ledger.REASON["expires_at"])
        return run.without(expired) if expired else run

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
        self.in_flight[channel] -= sum(len(slots) for _, slots in delivered)
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
            if self.suspects:
                self._acquit(channel, frame, slot)
            if error_class in RETRIED and not policy.exhausted(attempts):
                delay_s = policy.delay_s(attempts, self._random)
                frame.slots[slot] = value | ledger.RETRYING << ledger.OUTCOME_SHIFT
                frame.notes[slot] = (now.wall_us // 1000 + int(delay_s * 1000), error_class, message)
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
        self.dead_letters.bury(entry, reason, error_class, message, attempts, now)
        self._log(frame, slot)

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
        frame.slots[slot] = ledger.word(channel, priority)
        frame.notes.pop(slot, None)
        frame.open += 1
        frame.mask |= ledger.lane_bit(ledger.lane_of(channel, priority))
        self.counters.channels[channel].outcomes[ledger.DEAD] -= 1
        self.dead_letters.forget(seq, slot, reason)
        self._changed(frame)
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

    def next_due(self) -> float | None:
        """When the first retry is due."""
        dues = [due for heap in self.retrying if (due := heap.next_due()) is not None]
        return min(dues) if dues else None


def _expired(frame: Frame, index: int, now: Now) -> bool:
    expires_ms = frame.expiry.get(index) if frame.expiry else None
    return expires_ms is not None and expires_ms * 1000 <= now.wall_us
