"""The shard without its sockets, files and clocks: what happens to a notification, in order.

    judge    decode, validate, drop duplicates, name the channels: one verdict each
    admit    each planned delivery: decide, and into its lane, or leave it on disk where the lane is full
    refill   deliveries from disk into lanes that have room again
    take     what a channel may send now, the highest effective priority first
    deliver, fail    what became of an attempt: an outcome, a retry, or a dead letter

Everything that is to be stored gathers in ``changes``; the owner commits them in one transaction and then says
``committed``. An attempt is only started for what is committed. In-app deliveries are the exception that proves
the rule: they are rows of that very transaction.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec
import orjson

from shards import ledger, validation
from shards.channels.base import RETRIED, Failure
from shards.counters import Counters, Latencies
from shards.dedupe import DIGEST_BYTES, NO_DIGEST, IdempotencySet
from shards.frames import Entry, Frame, NewFrame, User
from shards.lanes import LANES, NotificationQueue
from shards.limiter import Limiter
from shards.preferences import ALLOW_ALL, Choices, UserDocument
from shards.retry import DueHeap
from shards.rules import Routing, Rule
from shards.settings import ShardSettings
from shards.wire import (
    INGEST,
    PRIORITIES,
    UNROUTABLE,
    Data,
    DeadLetter,
    Duplicate,
    Error,
    Notification,
    Rejection,
    RequestError,
    Verdict,
    hash_user,
    make_id,
    pack,
)

INAPP = "inapp"
FRAMES_PER_REFILL = 8  # frames read from disk for a lane in one turn
ERROR_TEXT_MAX = 300


class Now(NamedTuple):
    """The time of a turn: ``mono`` in seconds for waits and limits, ``wall_us`` since the epoch for records."""

    mono: float
    wall_us: int


class StoredFrame(NamedTuple):
    """A frame as the journal gives it back."""

    seq: int
    at_us: int
    source: int
    fanned: bool
    body: bytes
    widths: bytes
    slots: bytes
    notes: bytes | None


class Journal(Protocol):
    """What the core reads back; it never writes by itself."""

    def load_user(self, user_id: str) -> UserDocument | None: ...

    def frame(self, seq: int) -> StoredFrame | None: ...

    def open_frames(self, lane: int, after: int, count: int) -> list[StoredFrame]: ...

    def digests(self, seq: int) -> bytes: ...


class Dead(NamedTuple):
    seq: int
    slot: int
    letter: DeadLetter


class Changes:
    """What one turn did, to be stored together."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []  # new or changed; each once
        self.dead: list[Dead] = []
        self.revived: list[tuple[int, int]] = []  # (seq, slot) of dead letters that are none any more
        self.inbox = array("q")  # user hash, place, user hash, place, ...
        self.inbox_entries: list[Entry] = []

    def __bool__(self) -> bool:
        return bool(self.frames or self.dead or self.revived)


class Decision:
    """What a rule means for users who chose alike: the words of its slots, and what is to be sent."""

    __slots__ = ("doomed", "effects", "mask", "rule", "sends", "settled", "template")

    def __init__(self, rule: Rule, verdicts: Iterable[tuple[int, int]], limiters: Mapping[int, Limiter]) -> None:
        words = []
        sends: list[tuple[int, int, Limiter | None]] = []
        doomed = []
        self.mask = 0
        for offset, (channel, (outcome, reason)) in enumerate(zip(rule.channels, verdicts, strict=True)):
            words.append(ledger.word(channel, rule.priority, outcome, reason))
            if outcome == ledger.PENDING:
                lane = ledger.lane_of(channel, rule.priority)
                sends.append((offset, lane, limiters.get(channel)))
                self.mask |= ledger.lane_bit(lane)
            elif outcome == ledger.DEAD:
                doomed.append(offset)
        self.rule = rule
        self.template = array("I", words).tobytes()
        self.sends = tuple(sends)
        self.doomed = tuple(doomed)  # offsets of dead letters without an attempt
        self.settled = len(words) - len(sends)
        self.effects = tuple((ledger.channel_of(value), ledger.outcome_of(value)) for value in words)


NO_RULE = Rule("", (), 0, False, False)  # of a duplicate or a rejection: nothing is planned
NO_DECISION = Decision(NO_RULE, (), {})
NOBODY = User("", 0, ALLOW_ALL, {NO_RULE: NO_DECISION})

Judged = tuple[list[User], list[Rule], list[Notification], bool]


class Core:
    """One shard's state. ``random`` draws from [0, 1); ``channel_names`` are in the order of their numbers."""

    def __init__(
        self,
        settings: ShardSettings,
        generation: str,
        channel_names: list[str],
        journal: Journal,
        counters: Counters,
        random: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.generation = generation
        self.channel_names = channel_names
        self.counters = counters
        self.idempotency = IdempotencySet(settings.secret)
        numbers = {name: number for number, name in enumerate(channel_names)}
        self.routing = Routing(settings.categories, numbers)
        self.inapp = numbers[INAPP]
        self.configured = frozenset(numbers[name] for name in settings.channels) | {self.inapp}
        self.limiters = {
            numbers[name]: Limiter(limit, settings.bounds.limiter_keys) for name, limit in settings.rate_limits.items()
        }
        self.queues = [NotificationQueue[Entry](settings.priorities.aging) for _ in channel_names]
        self.retrying: list[DueHeap[Entry | tuple[int, int]]] = [DueHeap() for _ in channel_names]
        self.in_flight = [0] * len(channel_names)
        self.behind: dict[int, int] = {}  # lane -> the last frame whose deliveries are in it; later ones are on disk
        self.frames: dict[int, Frame] = {}  # those with deliveries in memory
        self.last = 0  # the last frame that was admitted
        self.latencies = [Latencies() for _ in channel_names]
        self.changes = Changes()
        self._journal = journal
        self._random = random
        self._users: dict[str, User] = {}
        self._alike: dict[object, tuple[Choices, dict[Rule, Decision]]] = {}  # of users who chose alike
        self._fresh: dict[int, NewFrame] = {}  # frames that are not committed yet
        self._expiring = False  # something with expires_at was seen

    # --- judge -------------------------------------------------------------------------------------------------

    def judge(self, data: Data, seq: int, now: Now) -> tuple[Frame, Verdict | None]:
        """Take a frame: its verdict is final, and its deliveries are in their lanes or left on disk."""
        duplicates: list[Duplicate] = []
        rejected: list[Rejection] = []
        digests: list[bytes] = []
        if data.source == UNROUTABLE:
            judged: Judged = ([], [], [], False)
            self._bury_unroutable(data, seq, now)
        else:
            judged = self._judge_entries(data, seq, now, digests, duplicates, rejected)
        users, rules, notifications, rare = judged
        verdict = Verdict(duplicates, rejected) if duplicates or rejected else None
        frame = Frame(seq, data.at_us, array("I"), bytes([rule.width for rule in rules]))
        frame.new = NewFrame(
            data.source,
            data.fanned,
            data.body,
            b"".join(digests) if any(digest is not NO_DIGEST for digest in digests) else None,
            pack(verdict) if verdict else None,
            False,
        )
        self._fresh[seq] = frame.new
        self._admit(frame, users, rules, notifications, rare, now)
        self.counters.accepted += len(rules) - len(duplicates) - len(rejected)
        self.counters.duplicates += len(duplicates)
        self.counters.rejected += len(rejected)
        self.last = seq
        return frame, verdict

    def _judge_entries(
        self,
        data: Data,
        seq: int,
        now: Now,
        digests: list[bytes],
        duplicates: list[Duplicate],
        rejected: list[Rejection],
    ) -> Judged:
        items: list[validation.Item | validation.RejectedItem] | None = None
        try:
            if data.fanned:
                raise msgspec.ValidationError  # entries of two kinds are taken one by one
            notifications = validation.decode_plain(data.body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            items = validation.decode_items(data.body, data.fanned)
            notifications = [Notification() if type(item) is validation.RejectedItem else item[1] for item in items]  # type: ignore[index]
        users: list[User] = []
        rules: list[Rule] = []
        rare = False
        known, plain = self._users, self.routing.plain
        tables, digest_of = self.idempotency.tables, self.idempotency.digest
        for index, notification in enumerate(notifications):
            try:
                user_id = notification.user_id
                if items is not None:
                    item = items[index]
                    if type(item) is validation.RejectedItem:
                        self._reject(rejected, data, seq, index, item.error, "", bytes(item.raw), now)
                        digests.append(NO_DIGEST)
                        users.append(NOBODY)
                        rules.append(NO_RULE)
                        continue
                    user_id = item[0]  # type: ignore[index]
                rule = plain.get((notification.category, notification.priority))
                if rule is None or notification.channels is not None:
                    rule = self.routing.resolve(notification)
                user = known.get(user_id) or self.user(user_id or "")  # type: ignore[arg-type]
                if notification.payload is not None:
                    validation.check_payload(notification.payload)
                if notification.title is None and notification.body is None and not validation.has_content(notification):
                    raise RequestError(
                        "bad_value", "nothing to say: give at least one of title, body, template, payload.message", "title"
                    )
                if (
                    notification.template is not None
                    or notification.send_at is not None
                    or notification.expires_at is not None
                ):
                    validation.check_rare(notification, now.wall_us // 1000)
                    rare = True
                key = notification.idempotency_key
                if notification.id is not None:
                    validation.check_key("id", notification.id)
                    key = notification.id if key is None else key
                if key is None:
                    digests.append(NO_DIGEST)
                else:
                    if key is not notification.id and (not 0 < len(key) < 64 or "\0" in key):
                        validation.check_key("idempotency_key", key)
                    digest = digest_of(user.user_id, key)
                    table = tables[digest[0]]
                    original = table.get(digest)
                    if original is not None:
                        found = self._duplicate(index, notification, user, digest, original, seq, digests, data)
                        if found is not None:
                            duplicates.append(found)
                            digests.append(NO_DIGEST)
                            users.append(NOBODY)
                            rules.append(NO_RULE)
                            continue
                    table[digest] = seq
                    digests.append(digest)
                users.append(user)
                rules.append(rule)
            except RequestError as error:
                raw = msgspec.msgpack.encode(notification)
                self._reject(rejected, data, seq, index, error.error, user_id or "", raw, now)
                digests.append(NO_DIGEST)
                users.append(NOBODY)
                rules.append(NO_RULE)
        return users, rules, notifications, rare

    def user(self, user_id: str) -> User:
        """The recipient, from the cache or the journal; ``RequestError`` if it is no user id."""
        user = self._users.get(user_id)
        if user is not None:
            return user
        validation.check_user_id(user_id)
        document = self._journal.load_user(user_id)
        if len(self._users) >= self.settings.bounds.users:
            self._users.clear()
            self._alike.clear()
        choices = ALLOW_ALL if document is None else Choices(document.preferences)
        choices, decisions = self._alike.setdefault(choices.key, (choices, {NO_RULE: NO_DECISION}))
        user = self._users[user_id] = User(user_id, hash_user(user_id), choices, decisions)
        return user

    def forget_user(self, user_id: str) -> None:
        self._users.pop(user_id, None)

    def _duplicate(
        self,
        index: int,
        notification: Notification,
        user: User,
        digest: bytes,
        original: int,
        seq: int,
        digests: list[bytes],
        data: Data,
    ) -> Duplicate | None:
        """The verdict on a repeated key; None if the original turns out to be lost, and the key with it."""
        if original == seq:
            place, body, fanned = digests.index(digest), data.body, data.fanned
        else:
            fresh = self._fresh.get(original)
            known = fresh.digests or b"" if fresh else self._journal.digests(original)
            place = known.find(digest)
            while place > 0 and place % DIGEST_BYTES:
                place = known.find(digest, place + 1)
            if place < 0:
                return None
            place //= DIGEST_BYTES
            if fresh:
                body, fanned = fresh.body, fresh.fanned
            else:
                stored = self._journal.frame(original)
                if stored is None:
                    return None
                body, fanned = stored.body, stored.fanned
        first = self._original(body, fanned, place)
        mismatch = first is None or _content(first) != _content(notification)
        return Duplicate(index, make_id(self.generation, user.hash, original, place), mismatch)

    def _original(self, body: bytes, fanned: bool, place: int) -> Notification | None:
        try:
            if fanned:
                item = validation.decode_items(body, True)[place]
                first = None if isinstance(item, validation.RejectedItem) else item[1]
            else:
                raw = validation.raw_entry(body, place)
                first = validation.decode_plain((b"[%b]" if validation.is_json(raw) else b"\x91%b") % raw)[0]
            if first is not None and first.expires_at is not None:
                first.expires_at = validation.instant_ms("expires_at", first.expires_at)
            return first
        except (msgspec.MsgspecError, RequestError, IndexError):
            return None

    def _reject(
        self,
        rejected: list[Rejection],
        data: Data,
        seq: int,
        index: int,
        error: Error,
        user_id: str,
        raw: bytes,
        now: Now,
    ) -> None:
        rejected.append(Rejection(index, error))
        if data.source == INGEST:
            self._bury_rejected(seq, index, error, user_id, raw, now)

    def _bury_unroutable(self, data: Data, seq: int, now: Now) -> None:
        self._bury_rejected(seq, 0, data.error or Error("bad_encoding", "not decodable"), "", data.body, now)

    def _bury_rejected(self, seq: int, index: int, error: Error, user_id: str, raw: bytes, now: Now) -> None:
        """Nobody waits for the answer on ``ingest``: the error is kept as a dead letter."""
        where = f" (field {error.field})" if error.field else ""
        letter = DeadLetter(
            make_id(self.generation, hash_user(user_id), seq, index),
            user_id or None,
            None,
            None,
            "rejected",
            error.code,
            f"{error.message}{where}"[:ERROR_TEXT_MAX],
            0,
            now.wall_us // 1000,
            validation.readable(raw),
        )
        self._bury(seq, -1 - index, letter)

    def _bury(self, seq: int, slot: int, letter: DeadLetter) -> None:
        self.changes.dead.append(Dead(seq, slot, letter))
        reasons = self.counters.dead_letters
        reasons[letter.reason] = reasons.get(letter.reason, 0) + 1

    # --- admit and decide --------------------------------------------------------------------------------------

    def _admit(
        self,
        frame: Frame,
        users: list[User],
        rules: list[Rule],
        notifications: list[Notification],
        rare: bool,
        now: Now,
    ) -> None:
        """Plan every delivery; decide those whose lane has room, and queue what is to be sent."""
        if rare:
            self._expiring = True
        if rare or self.behind:
            self._admit_singly(frame, users, rules, notifications, now)
        else:
            self._admit_flowing(frame, users, rules, notifications, now)
        assert frame.new is not None
        frame.new.has_inbox = bool(frame.mask & self._inapp_mask())
        self._changed(frame)
        if frame.active:
            self.frames[frame.seq] = frame

    def _admit_flowing(
        self, frame: Frame, users: list[User], rules: list[Rule], notifications: list[Notification], now: Now
    ) -> None:
        """The hot path: no lane has deliveries on disk, and no notification needs more than its decision."""
        mono = now.mono
        queued: dict[int, list[Entry]] = {}
        parts: list[bytes] = []
        decisions: list[Decision] = []
        limited: list[tuple[int, int]] = []
        doomed: list[tuple[int, int]] = []
        slot = 0
        decide = self._decide
        for index, (user, rule) in enumerate(zip(users, rules, strict=True)):
            decision = user.decisions.get(rule) or decide(user, rule)
            decisions.append(decision)
            parts.append(decision.template)
            for offset, lane, limiter in decision.sends:
                if limiter is not None and not limiter.allow(
                    user.user_id, mono, PRIORITIES[rule.priority] in limiter.exempt
                ):
                    limited.append((slot + offset, lane >> 2))
                elif lane in queued:
                    queued[lane].append((frame, slot + offset, index, user, notifications[index]))
                else:
                    queued[lane] = [(frame, slot + offset, index, user, notifications[index])]
            if decision.doomed:
                doomed.extend((slot + offset, index) for offset in decision.doomed)
            slot += rule.width
        frame.slots.frombytes(b"".join(parts))
        frame.open = slot
        for decision, count in Counter(decisions).items():
            frame.mask |= decision.mask
            frame.open -= decision.settled * count
            self._count_planned(decision, count)
        for lane, entries in queued.items():
            frame.active += len(entries)
            self._enqueue(lane, entries, frame.seq, mono)
        for place, channel in limited:
            frame.open -= 1
            self._settle(frame, place, ledger.RATE_LIMITED, ledger.REASON["limit"])
        for place, index in doomed:
            self._bury_unconfigured(frame, place, index, users[index], notifications[index], now)

    def _admit_singly(
        self, frame: Frame, users: list[User], rules: list[Rule], notifications: list[Notification], now: Now
    ) -> None:
        """The same, delivery by delivery: those of a lane that has others on disk stay behind them."""
        slots = frame.slots
        for rule, count in Counter(rules).items():
            for channel in rule.channels:
                self.counters.channels[channel].planned += count
                frame.mask |= ledger.lane_bit(ledger.lane_of(channel, rule.priority))
        slot = 0
        for index, (user, rule) in enumerate(zip(users, rules, strict=True)):
            slots.extend(rule.pending)
            frame.open += rule.width
            for offset, channel in enumerate(rule.channels):
                lane = ledger.lane_of(channel, rule.priority)
                if lane not in self.behind:
                    self._decide_singly(frame, slot + offset, index, user, notifications[index], now)
            slot += rule.width

    def _decide_singly(
        self, frame: Frame, slot: int, index: int, user: User, notification: Notification, now: Now
    ) -> None:
        """Decide one pending delivery, from its stored word: it may have been planned by an older configuration."""
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        category = self.routing.categories.get(notification.category)
        outcome, reason = self._verdict(
            user,
            notification.category,
            channel,
            category is not None and category.override_preferences,
            notification.channels is not None or self.routing.is_configured(notification.category),
        )
        limiter = self.limiters.get(channel)
        if _expired(notification, now):
            outcome, reason = ledger.EXPIRED, ledger.REASON["expires_at"]
        elif (
            outcome == ledger.PENDING
            and limiter is not None
            and not limiter.allow(user.user_id, now.mono, PRIORITIES[priority] in limiter.exempt)
        ):
            outcome, reason = ledger.RATE_LIMITED, ledger.REASON["limit"]
        if outcome == ledger.PENDING:
            frame.active += 1
            self._enqueue(ledger.lane_of(channel, priority), [(frame, slot, index, user, notification)], frame.seq, now.mono)
            return
        frame.open -= 1
        self._settle(frame, slot, outcome, reason)
        if outcome == ledger.DEAD:
            self._bury_unconfigured(frame, slot, index, user, notification, now)

    def _enqueue(self, lane: int, entries: list[Entry], seq: int, mono: float) -> None:
        """Into the lane; one that is full now leaves what comes after this frame on disk."""
        queue, priority = self.queues[lane >> 2], lane & 3
        queue.push_many(entries, priority, mono)
        if lane not in self.behind and queue.depth(priority) >= self.settings.bounds.lane_items:
            self.behind[lane] = seq

    def _decide(self, user: User, rule: Rule) -> Decision:
        decision = Decision(
            rule,
            [
                self._verdict(user, rule.category, channel, rule.override, rule.explicit)
                for channel in rule.channels
            ],
            self.limiters,
        )
        user.decisions[rule] = decision
        return decision

    def _verdict(self, user: User, category: str, channel: int, override: bool, explicit: bool) -> tuple[int, int]:
        """The outcome and reason of a delivery as far as preferences and configuration go."""
        if not override and user.choices.block(category, self.channel_names[channel]):
            return ledger.SUPPRESSED, ledger.REASON["preference"]
        if channel not in self.configured:
            return ledger.DEAD if explicit else ledger.SUPPRESSED, ledger.REASON["channel_not_configured"]
        return ledger.PENDING, 0

    def _count_planned(self, decision: Decision, count: int) -> None:
        for number, outcome in decision.effects:
            channel = self.counters.channels[number]
            channel.planned += count
            if outcome != ledger.PENDING:
                channel.outcomes[outcome] += count

    def _settle(self, frame: Frame, slot: int, outcome: int, reason: int) -> None:
        """Write a final outcome that took no attempt."""
        value = frame.slots[slot]
        frame.slots[slot] = value & ledger.KEEP | outcome << ledger.OUTCOME_SHIFT | reason << ledger.REASON_SHIFT
        self.counters.channels[ledger.channel_of(value)].outcomes[outcome] += 1
        self._changed(frame)

    def _inapp_mask(self) -> int:
        return sum(ledger.lane_bit(ledger.lane_of(self.inapp, priority)) for priority in range(LANES))

    def _changed(self, frame: Frame) -> None:
        if not frame.dirty:
            frame.dirty = True
            self.changes.frames.append(frame)

    # --- refill ------------------------------------------------------------------------------------------------

    def refill(self, now: Now) -> bool:
        """Bring deliveries from disk into lanes that have room; whether there may be more to bring.

        Only between ``committed`` and the next ``judge``: the journal then holds every frame up to ``last``.
        """
        more = False
        room = self.settings.bounds.lane_items // 2
        for lane, after in list(self.behind.items()):
            queue, priority = self.queues[lane >> 2], lane & 3
            if queue.depth(priority) > room:
                continue
            stored = self._journal.open_frames(lane, after, FRAMES_PER_REFILL)
            for row in stored:
                self.behind[lane] = row.seq
                self._expand(row, lane, now)
                if queue.depth(priority) >= self.settings.bounds.lane_items:
                    break
            if not stored:
                del self.behind[lane]
            else:
                more = True
        return more

    def _expand(self, row: StoredFrame, lane: int, now: Now) -> None:
        frame = self._frame(row)
        value = ledger.word(lane >> 2, lane & 3)
        slots = frame.slots
        if value not in slots:
            return
        items = validation.decode_items(row.body, row.fanned)
        slot = 0
        for index, width in enumerate(frame.widths):
            for place in range(slot, slot + width):
                if slots[place] == value:
                    item = items[index]
                    assert not isinstance(item, validation.RejectedItem)
                    user_id, notification = item
                    self._normalise(notification)
                    self._decide_singly(frame, place, index, self.user(user_id), notification, now)
            slot += width
        if frame.active:
            self.frames[frame.seq] = frame

    def _normalise(self, notification: Notification) -> None:
        if notification.expires_at is not None:
            notification.expires_at = validation.instant_ms("expires_at", notification.expires_at)
            self._expiring = True

    def _frame(self, row: StoredFrame) -> Frame:
        """The frame in memory, or one made from its row."""
        frame = self.frames.get(row.seq)
        if frame is None:
            frame = Frame(row.seq, row.at_us, ledger.words(row.slots), row.widths)
            frame.open = sum(ledger.outcome_of(value) in ledger.OPEN for value in frame.slots)
            frame.notes = decode_notes(row.notes)
        return frame

    def wait(self, seq: int, slot: int, channel: int, due: float) -> None:
        """A retry that was waiting when the shard stopped, or a dead letter that is to be tried again."""
        self.retrying[channel].push(due, (seq, slot))

    # --- take, deliver, fail -----------------------------------------------------------------------------------

    def wake(self, now: Now) -> None:
        """Retries that are due go back into their lanes."""
        for channel, heap in enumerate(self.retrying):
            due = heap.next_due()
            if due is None or due > now.mono:
                continue
            for item in heap.pop_due(now.mono):
                entry = self._entry(*item) if len(item) == 2 else item
                if entry is not None:
                    value = entry[0].slots[entry[1]]
                    self.queues[channel].push(entry, ledger.priority_of(value), now.mono)

    def _entry(self, seq: int, slot: int) -> Entry | None:
        row = self._journal.frame(seq)
        if row is None:
            return None
        frame = self._frame(row)
        if ledger.outcome_of(frame.slots[slot]) not in ledger.OPEN:
            return None
        end = 0
        for index, width in enumerate(frame.widths):
            end += width
            if slot < end:
                break
        item = validation.decode_items(row.body, row.fanned)[index]
        assert not isinstance(item, validation.RejectedItem)
        self._normalise(item[1])
        frame.active += 1
        self.frames[seq] = frame
        return frame, slot, index, self.user(item[0]), item[1]

    def take(self, channel: int, now: Now) -> list[Entry]:
        """What the channel may start now, within its concurrency and the bound on what waits for a retry."""
        queue = self.queues[channel]
        if not queue:
            return []
        if channel == self.inapp:
            count = len(queue)
        else:
            in_flight = self.in_flight[channel]
            settings = self.settings.channels[self.channel_names[channel]]
            count = min(
                settings.concurrency - in_flight,
                self.settings.bounds.retrying - len(self.retrying[channel]) - in_flight,
            )
            if count <= 0:
                return []
        entries = queue.pop_many(count, now.mono)
        if self._expiring:
            entries = self._drop_expired(entries, now)
        if channel != self.inapp:
            self.in_flight[channel] += len(entries)
        return entries

    def _drop_expired(self, entries: list[Entry], now: Now) -> list[Entry]:
        kept = []
        for entry in entries:
            frame, slot, _, _, notification = entry
            if _expired(notification, now):
                frame.open -= 1
                frame.active -= 1
                self._settle(frame, slot, ledger.EXPIRED, ledger.REASON["expires_at"])
            else:
                kept.append(entry)
        return kept

    def deliver_inapp(self, now: Now) -> None:
        """In-app deliveries end as rows of this turn's transaction."""
        entries = self.take(self.inapp, now)
        if entries:
            inbox = self.changes.inbox
            for frame, _, index, user, _ in entries:
                inbox.append(user.signed_hash)
                inbox.append(frame.seq << 16 | index)
            self.changes.inbox_entries.extend(entries)
            self._delivered(self.inapp, entries, now)

    def deliver(self, channel: int, entries: list[Entry], now: Now) -> None:
        """Attempts that succeeded."""
        self.in_flight[channel] -= len(entries)
        self._delivered(channel, entries, now)

    def _delivered(self, channel: int, entries: list[Entry], now: Now) -> None:
        latencies = self.latencies[channel]
        counters = self.counters.channels[channel]
        counters.attempts += len(entries)
        counters.outcomes[ledger.DELIVERED] += len(entries)
        frame, run = entries[0][0] if entries else None, 0
        slots = frame.slots if frame else array("I")
        keep, done = ledger.KEEP, ledger.DELIVERED_AT_ATTEMPT
        for entry in entries:
            if entry[0] is not frame:
                if frame is not None:
                    self._ran(frame, run, latencies, now)
                frame, run = entry[0], 0
                slots = frame.slots
            slot = entry[1]
            slots[slot] = (slots[slot] & keep) + done
            run += 1
        if frame is not None:
            self._ran(frame, run, latencies, now)

    def _ran(self, frame: Frame, count: int, latencies: Latencies, now: Now) -> None:
        """``count`` deliveries of a frame are delivered."""
        frame.open -= count
        frame.active -= count
        latencies.add(now.wall_us - frame.at_us, count)
        self._changed(frame)

    def fail(self, channel: int, failures: list[Failure], now: Now) -> None:
        """Attempts that failed: each waits for its retry, or becomes a dead letter."""
        self.in_flight[channel] -= len(failures)
        counters = self.counters.channels[channel]
        counters.attempts += len(failures)
        counters.failed_attempts += len(failures)
        policy = self.settings.retry
        heap = self.retrying[channel]
        for failure in failures:
            entry = failure.entry
            frame, slot, index, user, notification = entry
            message = failure.message[:ERROR_TEXT_MAX]
            value = (frame.slots[slot] & ledger.KEEP) + ledger.ONE_ATTEMPT
            attempts = value >> ledger.ATTEMPTS_SHIFT
            if failure.error_class in RETRIED and not policy.exhausted(attempts):
                delay_s = policy.delay_s(attempts, self._random)
                frame.slots[slot] = value | ledger.RETRYING << ledger.OUTCOME_SHIFT
                frame.notes[slot] = (now.wall_us // 1000 + int(delay_s * 1000), failure.error_class, message)
                heap.push(now.mono + delay_s, entry)
            else:
                reason = "max_retries" if failure.error_class in RETRIED else "permanent"
                frame.slots[slot] = (
                    value | ledger.DEAD << ledger.OUTCOME_SHIFT | ledger.REASON[reason] << ledger.REASON_SHIFT
                )
                frame.notes[slot] = (None, failure.error_class, message)
                frame.open -= 1
                frame.active -= 1
                counters.outcomes[ledger.DEAD] += 1
                self._bury_delivery(
                    frame, slot, index, user, notification, reason, failure.error_class, message, attempts, now
                )
            self._changed(frame)

    def _bury_unconfigured(
        self, frame: Frame, slot: int, index: int, user: User, notification: Notification, now: Now
    ) -> None:
        channel = self.channel_names[ledger.channel_of(frame.slots[slot])]
        self._bury_delivery(
            frame,
            slot,
            index,
            user,
            notification,
            "channel_not_configured",
            "misconfigured",
            f"the configuration has no [channels.{channel}]",
            0,
            now,
        )

    def _bury_delivery(
        self,
        frame: Frame,
        slot: int,
        index: int,
        user: User,
        notification: Notification,
        reason: str,
        error_class: str,
        message: str,
        attempts: int,
        now: Now,
    ) -> None:
        letter = DeadLetter(
            make_id(self.generation, user.hash, frame.seq, index),
            user.user_id,
            self.channel_names[ledger.channel_of(frame.slots[slot])],
            notification.category,
            reason,
            error_class,
            message,
            attempts,
            now.wall_us // 1000,
            orjson.dumps(msgspec.to_builtins(notification)),
        )
        self._bury(frame.seq, slot, letter)

    def revive(self, seq: int, slot: int, letter: DeadLetter, now: Now) -> bool:
        """Try a dead letter again, from its first attempt; False if its frame is gone."""
        row = self._journal.frame(seq)
        if row is None or slot < 0:
            return False
        frame = self._frame(row)
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        if ledger.outcome_of(value) != ledger.DEAD:
            return False
        frame.slots[slot] = ledger.word(channel, priority)
        frame.notes.pop(slot, None)
        frame.open += 1
        frame.mask |= ledger.lane_bit(ledger.lane_of(channel, priority))
        self.counters.channels[channel].outcomes[ledger.DEAD] -= 1
        self.forget_dead(seq, slot, letter.reason)
        self._changed(frame)
        self.frames[seq] = frame
        if seq <= self.behind.get(ledger.lane_of(channel, priority), self.last):
            self.wait(seq, slot, channel, now.mono)
        return True

    def forget_dead(self, seq: int, slot: int, reason: str) -> None:
        """A dead letter is no more: replayed, or purged."""
        self.changes.revived.append((seq, slot))
        self.counters.dead_letters[reason] -= 1

    # --- after the commit --------------------------------------------------------------------------------------

    def committed(self) -> None:
        """Everything in ``changes`` is stored: forget what needs no memory."""
        for frame in self.changes.frames:
            frame.dirty = False
            frame.new = None
            if not frame.active:
                self.frames.pop(frame.seq, None)
        self._fresh.clear()
        self.changes = Changes()

    def next_due(self) -> float | None:
        """When the first retry is due."""
        dues = [due for heap in self.retrying if (due := heap.next_due()) is not None]
        return min(dues) if dues else None


def decode_notes(blob: bytes | None) -> dict[int, tuple[int | None, str, str]]:
    return msgspec.msgpack.decode(blob, type=dict[int, tuple[int | None, str, str]]) if blob else {}


def _expired(notification: Notification, now: Now) -> bool:
    expires_at = notification.expires_at
    return expires_at is not None and int(expires_at) * 1000 <= now.wall_us


def _content(notification: Notification) -> tuple[object, ...]:
    """All that makes two notifications the same to their user; addressing and keys aside."""
    return (
        notification.category,
        notification.type,
        notification.priority,
        notification.title,
        notification.body,
        notification.template,
        notification.payload,
        notification.channels,
        notification.send_at,
        notification.expires_at,
        notification.metadata,
    )
