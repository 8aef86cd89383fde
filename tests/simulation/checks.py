"""The invariants of docs/architecture.md, checked from the journal's file and from what the shard does."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass, field

import msgspec

from shards import ledger
from shards.core import Core, Note, Now
from shards.frames import Entry, Run
from shards.inbox import PLACE_SHIFT, Inbox
from shards.journal import SqliteJournal
from shards.lanes import LANES, MARKS_PER_STEP, NotificationQueue
from shards.wire import hash_user
from tests.simulation.models import Acknowledged, Submission

Place = tuple[int, int]  # seq, slot
Stream = tuple[str, int, int]  # user, channel, priority: what is in order


class CheckedQueue(NotificationQueue[Run]):
    """Invariant P: what leaves is the head of its lane, and no other lane's head had a higher effective priority."""

    def __init__(self, aging_s: float) -> None:
        super().__init__(aging_s)
        self._aging = aging_s
        self._came: list[deque[tuple[Run, float]]] = [deque() for _ in range(LANES)]
        self._last: tuple[Run, float] | None = None

    def push(self, item: Run, priority: int, now: float) -> None:
        super().push(item, priority, now)
        self._came[priority].append((item, now))

    def put_back(self, item: Run, priority: int) -> None:
        super().put_back(item, priority)
        assert self._last is not None
        assert self._last[0] is item, "P: only what was popped last can be put back"
        self._came[priority].appendleft(self._last)

    def pop(self, now: float) -> Run | None:
        item = super().pop(now)
        heads = {priority: lane[0] for priority, lane in enumerate(self._came) if lane}
        if item is None:
            assert not heads, "P: the queue says it is empty, and is not"
            return None
        (taken,) = [priority for priority, (head, _) in heads.items() if head is item]
        self._last = self._came[taken].popleft()
        grain = self._aging / MARKS_PER_STEP  # waits are known to this precision
        mine = self._effective(taken, now - heads[taken][1] + grain)
        for priority, (_, came) in heads.items():
            assert self._effective(priority, now - came - 1e-6) <= mine, f"P: {taken} was taken before {priority}"
        return item

    def _effective(self, priority: int, waited_s: float) -> int:
        return min(LANES - 1, priority + int(max(0.0, waited_s) / self._aging))


@dataclass
class FileView:
    """What the journal's file says at a commit, computed without the shard's code for it."""

    words: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by seq; of pruned frames, as they were
    pruned: set[int] = field(default_factory=set)
    inbox: dict[str, list[int]] = field(default_factory=dict)
    raw: dict[int, tuple[bytes, int]] = field(default_factory=dict)


class Checker:
    """Lives through every crash and restart; a failed check raises ``AssertionError`` that names the invariant."""

    def __init__(self, users: list[str], aging_s: float) -> None:
        self.users = users
        self.aging_s = aging_s
        self.view = FileView()
        self.bodies: dict[int, bytes] = {}  # of released frames: they are in the journal for good
        self.revivals: Counter[Place] = Counter()
        self._started: set[tuple[Place, int, int]] = set()  # (place, revival, attempt) of this incarnation
        self._ever: set[Place] = set()
        self._first: dict[Stream, Place] = {}
        self._newest: dict[Stream, Place] = {}
        self._recovered = 0

    # --- while it runs -----------------------------------------------------------------------------------------

    def restarted(self, core: Core, now: Now) -> None:
        """Retries wait no longer than the policy says, wherever the wall clock is now."""
        latest = max((due for heap in core.retrying for due, *_ in heap._heap), default=0.0)
        assert latest <= now.mono + core.settings.retry.max, f"a retry waits {latest - now.mono:.0f} s after a restart"
        self._started.clear()
        self._newest.clear()
        self._recovered = sum(map(len, core.retrying))
        core.queues[:] = [CheckedQueue(self.aging_s) for _ in core.queues]

    def attempt(self, channel: int, entry: Entry) -> None:
        """Invariants D and O: an attempt starts."""
        frame, slot, _, user, _ = entry
        place, value = (frame.seq, slot), frame.slots[slot]
        committed = self.view.words[frame.seq][slot]
        assert value == committed, f"D: {place} starts from {value:#x}, which is not committed"
        assert ledger.outcome_of(value) in ledger.OPEN, f"D: {place} starts and is final"
        assert ledger.channel_of(value) == channel
        attempts, revival = ledger.attempts_of(value), self.revivals[place]
        number = (place, revival, attempts)
        assert number not in self._started, f"D: attempt {attempts + 1} of {place} is started twice in one life"
        self._started.add(number)
        if attempts or revival:
            return
        stream = user.user_id, channel, ledger.priority_of(value)
        assert place > self._newest.get(stream, (0, 0)), f"O: {place} of {stream} after {self._newest[stream]}"
        self._newest[stream] = place
        if place not in self._ever:
            assert place > self._first.get(stream, (0, 0)), f"O: {place} of {stream} after {self._first[stream]}"
            self._ever.add(place)
            self._first[stream] = place

    def bounds(self, core: Core, positions_max: int) -> None:
        """Invariant B. Operators may replay what they like; that is not bounded here."""
        bounds, replayed = core.settings.bounds, self.revivals.total()
        for lane, queued in enumerate(core.queued):
            limit = bounds.lane_items + positions_max + bounds.retrying + self._recovered + replayed
            assert 0 <= queued <= limit, f"B: lane {lane} has {queued}"
        for channel, heap in enumerate(core.retrying):
            limit = max(bounds.retrying, self._recovered) + replayed
            assert len(heap) + core.in_flight[channel] <= limit, f"B: {len(heap)} wait for a retry"
            settings = core.settings.channels.get(core.channel_names[channel])
            assert 0 <= core.in_flight[channel] <= (settings.concurrency if settings else 0), "B: in flight"
        assert len(core.people.known) <= bounds.users, "B: users"

    # --- after each commit -------------------------------------------------------------------------------------

    def committed(self, journal: SqliteJournal) -> None:
        """Invariants C and A, and that no final outcome changes but by a replay."""
        changed = self._read(journal)
        self._compare(changed)
        self._conserved(journal)
        for seq, body in self.bodies.items():
            assert seq in self.view.words, f"A: frame {seq} was released and is not in the journal"
            assert body == b"" or seq in self.view.raw or seq in self.view.pruned

    def released(self, seq: int, submission: Submission, journal: SqliteJournal) -> None:
        """Invariant A, with the bytes."""
        assert seq in self.view.words, f"A: frame {seq} was released and is not in the journal"
        self.bodies[seq] = submission.body
        if seq not in self.view.pruned:
            content = journal.content(seq)
            assert content is not None
            assert content[0] == submission.body, f"A: frame {seq} has another body"

    def _read(self, journal: SqliteJournal) -> dict[int, tuple[int, ...]]:
        run = journal.database.execute
        rows = {seq: (log, slots) for seq, log, slots in run("SELECT seq, log, slots FROM ledger")}
        logged: dict[int, list[tuple[int, int, int]]] = {}
        for number, blob in run("SELECT id, entries FROM results ORDER BY id"):
            for seq, slot, value, _ in msgspec.msgpack.decode(blob, type=list[tuple[int, int, int, Note | None]]):
                logged.setdefault(seq, []).append((number, slot, value))
        changed: dict[int, tuple[int, ...]] = {}
        for seq, (log, blob) in rows.items():
            later = [entry for entry in logged.get(seq, ()) if entry[0] > log]
            if not later and self.view.raw.get(seq) == (blob, log):
                continue
            slots = array("I")
            slots.frombytes(blob)
            for _, slot, value in later:
                slots[slot] = value
            self.view.raw[seq] = blob, -1 if later else log
            changed[seq] = tuple(slots)
        dead = {seq for (seq,) in run("SELECT DISTINCT seq FROM dead")}
        for seq in self.view.raw.keys() - rows.keys():
            words = self.view.words[seq]
            assert all(ledger.outcome_of(word) in ledger.FINAL for word in words), f"A: frame {seq} went while open"
            assert seq not in dead, f"A: frame {seq} went and its dead letters are left"
            del self.view.raw[seq]
            self.view.pruned.add(seq)
        return changed

    def _compare(self, changed: dict[int, tuple[int, ...]]) -> None:
        for seq, words in changed.items():
            before = self.view.words.get(seq)
            self.view.words[seq] = words
            if before is None or before == words:
                continue
            assert len(before) == len(words), f"C: frame {seq} has another number of deliveries"
            for slot, (old, new) in enumerate(zip(before, words, strict=True)):
                final = ledger.outcome_of(old) in ledger.FINAL
                if ledger.outcome_of(old) == ledger.DEAD and ledger.outcome_of(new) in (ledger.PENDING, ledger.DEAD):
                    self.revivals[seq, slot] += old != new
                    continue
                assert old == new or not final, f"C: {(seq, slot)} was final as {old:#x} and is {new:#x}"
                if not final and not self.revivals[seq, slot]:
                    assert ledger.attempts_of(new) >= ledger.attempts_of(old), f"D: {(seq, slot)} forgot attempts"

    def _conserved(self, journal: SqliteJournal) -> None:
        planned: Counter[int] = Counter()
        outcomes: Counter[tuple[int, int]] = Counter()
        for words in self.view.words.values():
            for word in words:
                planned[word & 0xFF] += 1
                outcomes[word & 0xFF, word >> 8 & 0xF] += 1
        counters = journal.state.counters
        for channel, counts in enumerate(counters.channels):
            assert counts.planned == planned[channel], f"C: channel {channel} planned"
            for final in ledger.FINAL:
                what = f"C: channel {channel}, {ledger.OUTCOMES[final]}"
                assert counts.outcomes[final] == outcomes[channel, final], what
        pending = sum(count for (_, outcome), count in outcomes.items() if outcome in ledger.OPEN)
        assert journal.pending() == pending, f"C: the journal says {journal.pending()} pending, and {pending} are"
        finals = sum(sum(counts.outcomes) for counts in counters.channels)
        assert planned.total() == finals + pending, "C: planned = outcomes + pending"
        rows = dict(journal.database.execute("SELECT reason, count(*) FROM dead GROUP BY reason"))
        assert rows == {reason: count for reason, count in counters.dead_letters.items() if count}, "C: dead letters"

    # --- now and then ------------------------------------------------------------------------------------------

    def inboxes(self, journal: SqliteJournal, inapp: int) -> None:
        """In-app deliveries are exactly the inboxes' entries; these only grow, and are in order."""
        fresh = Inbox(journal.database)
        found: Counter[int] = Counter()
        for user_id in self.users:
            unsigned = hash_user(user_id)
            entries = fresh.places(unsigned - 2**64 if unsigned >= 2**63 else unsigned, 0, 2**62)
            assert [number for number, _ in entries] == list(range(1, len(entries) + 1)), f"inbox: {user_id}'s numbers"
            places = [place for _, place in entries]
            assert len(set(places)) == len(places), f"inbox: {user_id} has an entry twice"
            before = self.view.inbox.get(user_id, [])
            assert places[: len(before)] == before, f"inbox: {user_id}'s entries changed"
            self.view.inbox[user_id] = places
            found.update(place >> PLACE_SHIFT for place in places)
        delivered: Counter[int] = Counter()
        for seq, words in self.view.words.items():
            count = sum(word & 0xFF == inapp and word >> 8 & 0xF == ledger.DELIVERED for word in words)
            if count:
                delivered[seq] = count
        assert found == delivered, "inbox: entries are not the in-app deliveries"

    # --- at the end --------------------------------------------------------------------------------------------

    def drained(self, core: Core, journal: SqliteJournal, letters: set[tuple[str, str | None]]) -> None:
        assert journal.pending() == 0, f"{journal.pending()} deliveries are left pending: {self._open()}"
        assert not any(core.queued), f"lanes: {core.queued}"
        assert not any(map(len, core.queues)), "runs are left in lanes"
        assert not any(core.in_flight), f"in flight: {core.in_flight}"
        assert not any(map(len, core.retrying)), "something waits for a retry"
        assert not core.frames, f"frames are left in memory: {list(core.frames)}"
        assert not core.behind, f"lanes are behind: {core.behind}"
        stored = set(journal.database.execute("SELECT id, channel FROM dead"))
        assert letters == stored, "the collector's dead letters are not the shard's"

    def verdicts(self, acknowledged: list[Acknowledged]) -> None:
        """What is bad was rejected, nothing else was; each key was accepted exactly once."""
        accepted: dict[tuple[str, str], list[int]] = {}
        seen: set[int] = set()
        for seq, submission, verdict in ((one.seq, one.submission, one.verdict) for one in acknowledged):
            assert seq not in seen, f"frame {seq} was acknowledged twice"
            seen.add(seq)
            rejected = {rejection.index for rejection in verdict.rejected} if verdict else set()
            wanted = {at for at, position in enumerate(submission.positions) if not position.valid}
            assert rejected == wanted, f"frame {seq}: rejected {rejected}, and wrong are {wanted}"
            repeated = {duplicate.index for duplicate in verdict.duplicates} if verdict else set()
            for at, position in enumerate(submission.positions):
                if position.key is not None and at not in repeated:
                    accepted.setdefault((position.user_id, position.key), []).append(seq)
                assert position.key is not None or at not in repeated, f"frame {seq}: {at} has no key"
        for key, seqs in accepted.items():
            forgotten = {seq for seq in sorted(seqs)[:-1] if seq in self.view.pruned}  # its key may come again
            assert len(seqs) == 1 + len(forgotten), f"{key} was accepted more than once, in {seqs}"

    def _open(self) -> list[tuple[int, int, str]]:
        return [
            (seq, slot, hex(word))
            for seq, words in self.view.words.items()
            for slot, word in enumerate(words)
            if ledger.outcome_of(word) in ledger.OPEN
        ][:10]
