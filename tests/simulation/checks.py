"""The invariants of docs/architecture.md over all lives of a shard; each kind has a file of its own."""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards import ledger, releasing
from shards.changes import Now, decode_notes
from shards.core import Core
from shards.frames import Entry, Run
from shards.inbox import PLACE_SHIFT, Inbox
from shards.sending import SLOWED
from shards.settings import ShardSettings
from shards.shard import Shard
from shards.wire.notification import Notification
from shards.worker import Worker
from tests.simulation.asking import Asking, signed
from tests.simulation.endpoints import Endpoints
from tests.simulation.memory import Memory
from tests.simulation.order import Attempts
from tests.simulation.policies import Policies
from tests.simulation.receipts import Receipts
from tests.simulation.router import Router
from tests.simulation.spending import Spending
from tests.simulation.stored import Stored, plainly
from tests.simulation.trials import Trials
from tests.simulation.waiting import Waiting
from tests.simulation.windows import Windows
from tests.simulation.wire import Clock

TRACED = 60


class Checker:
    """A failed check raises ``AssertionError`` that names the invariant; ``trace`` has what came before it."""

    def __init__(
        self,
        stored: Stored,
        policies: Policies,
        receipts: Receipts,
        asking: Asking,
        trials: Trials,
        clock: Clock,
        users: list[str],
        endpoints: Endpoints,
    ) -> None:
        self.stored = stored
        self.waiting = Waiting(stored, policies, clock)
        self.windows = Windows(stored, self.waiting, policies, clock)
        self.spending = Spending(stored, self.windows, policies, clock, users)
        self.receipts = receipts
        self.asking = asking
        self.endpoints = endpoints
        self.attempts = Attempts(stored, clock, endpoints)
        self.trials = trials
        self.trace: deque[str] = deque(maxlen=TRACED)
        self.commits = 0
        self._users = users
        self._clock = clock
        self._memory: Memory | None = None
        self._has_committed = False  # since the journal was opened

    def opened(self, shard: Shard) -> None:
        """Retries wait no longer than the policy says, wherever the wall clock is now; keys are within their bound."""
        core = shard.core
        self.attempts.restart()
        self.spending.restart()
        self.waiting.lives += 1
        self.windows.lives += 1
        self.trials.opened(shard)
        self._memory = Memory(core, self.stored, self.endpoints)
        self._has_committed = False
        self.asking.generation = self.receipts.generation = shard.journal.generation
        for due, _, item in (one for heap in core.retrying for one in heap._heap):
            assert len(item) == 2, "a retry is in memory before it is due"
            seq, slot = item
            wait_s = due - self._clock.mono - 1e-6
            row = shard.journal.frames.get(seq)
            patient = row is not None and decode_notes(row.notes)[slot][1] in SLOWED  # nobody knows how long was asked
            assert patient or wait_s <= core.settings.retry.max, f"a retry waits {wait_s:.0f} s after a restart"
        assert len(core.idempotency) <= core.settings.idempotency.max_entries, "B: keys after a restart"

    def attempt(self, channel: str, entry: Entry) -> None:
        self.trace.append(f"    starts {entry[0].seq}/{entry[1]} on {channel}: {entry[0].slots[entry[1]]:#x}")
        assert self._memory is not None
        said = self._memory.core.said(entry)
        self.attempts.start(channel, entry, self.windows.check_start(entry, said))

    def queued(self, run: Run, said: Callable[[int, int], Notification]) -> None:
        for at in range(len(run)):
            entry = run.entry(at)
            self.waiting.check_queued(entry, said(run.frame.seq, entry[2]))

    def committed(self, database: sqlite3.Connection) -> None:
        self.commits += 1
        before = len(self.stored.words)
        self.stored.read(database)
        self.waiting.read(database)
        self.windows.read(database)
        self.spending.read(database, self.waiting.due_ms)
        self.trials.committed()
        self._has_committed = True
        new = len(self.stored.words) - before
        self.trace.append(f"    commit: {new} new frames, {len(self.stored.open)} deliveries open")

    def turned(self, worker: Worker, shard: Shard) -> None:
        assert self._memory is not None
        assert self._memory.core is shard.core
        if self._has_committed:
            statement, state = shard.journal._witness.read(), shard.state
            assert statement is not None, "witness: it says nothing"
            assert statement[:3] == (shard.journal.generation, state.log, state.last), f"witness: {statement}"
        due_ms = {**self.windows.first_due_ms()}
        for (seq, slot), one in self.waiting.due_ms.items():
            lane = ledger.lane_of_word(self.stored.words[seq][slot])
            due_ms[lane] = min(one, due_ms.get(lane, one))
        self._memory.check(worker, shard, self.attempts.starts, due_ms, self._clock.now())
        self.receipts.check_set(shard.core.idempotency)
        self.trials.turned(shard, self._clock.now())

    def heard(self, router: Router) -> None:
        """Invariant A, with the bytes: what is released is stored."""
        for seq, submission in router.released:
            stored = self.stored.entered.get(seq)
            assert stored is not None, f"A: frame {seq} was released and is not in the journal"
            assert stored.body == submission.body, f"A: frame {seq} was released and is not what was sent"
        router.released.clear()
        for one in router.acknowledged:
            self.receipts.acknowledge(one)
        router.acknowledged.clear()

    def crashed(self, database: sqlite3.Connection) -> None:
        """A second reader looks at what the crash left."""
        self.stored.compare(database)
        self.asking.check_stored(database)
        self.inboxes(database)

    def inboxes(self, database: sqlite3.Connection) -> None:
        """In-app deliveries are exactly the inboxes' entries; these only grow, and are in order."""
        fresh = Inbox(Path(), database)
        found: Counter[int] = Counter()
        for user_id in self._users:
            entries = fresh.places(signed(user_id), 0, 2**62)
            assert [number for number, _ in entries] == list(range(1, len(entries) + 1)), f"inbox: {user_id}'s numbers"
            places = [place for _, place in entries]
            assert len(set(places)) == len(places), f"inbox: {user_id} has an entry twice"
            before = self.asking.inbox.get(user_id, [])
            assert places[: len(before)] == before, f"inbox: {user_id}'s entries changed"
            self.asking.inbox[user_id] = places
            newest = [0] * 4
            for place in places:
                seq, index = place >> PLACE_SHIFT, place & (1 << PLACE_SHIFT) - 1
                found[seq] += 1
                priority = self.stored.priority[seq, index]
                assert self.stored.entered[seq].positions[index].user_id == user_id, f"inbox: {seq}/{index} of another"
                slots = {(seq, slot) for slot in self.stored.slots_of(seq, index) if self._is_inapp(seq, slot)}
                if slots & (self.stored.late | self.windows.ever_carried):
                    continue
                assert place > newest[priority], f"O: {seq}/{index} in {user_id}'s inbox after a later one"
                newest[priority] = place
        delivered: Counter[int] = Counter()
        for seq, words in self.stored.words.items():
            count = sum(
                self._is_inapp(seq, slot)
                and ledger.outcome_of(word) == ledger.DELIVERED
                and not self.windows.came_along((seq, slot))
                for slot, word in enumerate(words)
            )
            if count:
                delivered[seq] = count
        assert found == delivered, "inbox: entries are not the in-app deliveries"
        kept = {seq for (seq,) in plainly(database)("SELECT seq FROM frames WHERE inbox")} | self.stored.pruned
        assert delivered.keys() <= kept, f"inbox: frames {delivered.keys() - kept} would be pruned too early"

    def _is_inapp(self, seq: int, slot: int) -> bool:
        word = self.stored.words[seq][slot]
        return self.stored.channel_names[ledger.channel_of(word)] == "inapp"

    def drained(self, shard: Shard, letters: set[tuple[str, str | None]]) -> None:
        core, journal = shard.core, shard.journal
        left = [(seq, slot, hex(word)) for (seq, slot), word in self.stored.open.items()]
        assert not left, f"{len(left)} deliveries are left pending: {left[:10]}"
        assert not any(core.queued), f"lanes: {core.queued}"
        assert not any(map(len, core.queues)), "runs are left in lanes"
        assert not any(core.in_flight), f"in flight: {core.in_flight}"
        assert not any(map(len, core.retrying)), "something waits for a retry"
        assert not any(self.endpoints.waiting(core).values()), "something waits for its endpoint"
        self.endpoints.check(core, [], 0)
        assert not core.frames, f"frames are left in memory: {list(core.frames)}"
        assert not core.behind, f"lanes are behind: {core.behind}"
        stored = set(journal.database.execute("SELECT id, channel FROM dead"))
        assert letters == stored, "the collector's dead letters are not the shard's"
        assert not self.waiting.due_ms, f"timers are left: {self.waiting.due_ms}"
        counts = {lane: count for lane, count in core.deferrals.counts.items() if count}
        assert not counts, f"deferred, as stats have it: {counts}"
        self.trials.drained(shard)
        self.crashed(journal.database)
        self.receipts.check_keys()


class CheckedCore(Core):
    def __init__(self, checker: Checker, *arguments: Any) -> None:
        self._checker = checker
        super().__init__(*arguments)

    def configure(self, settings: ShardSettings) -> None:
        super().configure(settings)
        if name := self._checker.endpoints.channel:
            self._open_gates(self.channel_names.index(name), settings.channels[name])

    def _url(self, entry: Entry) -> str | None:
        return self._checker.endpoints.url_of(entry[3].user_id)

    def _enqueue(self, lane: int, run: Run, mono: float) -> None:
        self._checker.queued(run, self.contents.notification)
        super()._enqueue(lane, run, mono)

    def release(self, now: Now) -> bool:
        """Invariant B: what is deferred waits on disk while its lane is full. What overflows goes to the inbox, and a
        digest may be carried by an item of another lane than its window's."""
        full = {lane: queued for lane, queued in enumerate(self.queued) if queued >= self.settings.bounds.lane_items}
        more = super().release(now)
        for lane, queued in full.items():
            most = queued + releasing.ITEMS_MAX
            assert self.queued[lane] <= most or lane >> 2 == self.inapp, f"B: lane {lane} is full, and gets more"
        return more

    def refill(self, now: Now) -> bool:
        """Invariant P, of what waits on disk: a lane that has nothing in memory comes nearer to it."""
        before = {lane: after for lane, after in self.behind.items() if not self.queued[lane]}
        more = super().refill(now)
        for lane, after in before.items():
            assert self.queued[lane] or self.behind.get(lane, after + 1) > after, (
                f"P: lane {lane} stays empty behind {after}"
            )
        return more
