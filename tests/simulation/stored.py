"""Invariants C and A: what the journal's file says at a commit, read without the shard's code for it."""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from itertools import chain
from typing import Any

import msgspec
import xxhash

from shards import ledger
from shards.changes import Note
from shards.dedupe import DIGEST_BYTES, NO_DIGEST
from shards.journal import State
from shards.wire import PRIORITIES, Verdict
from tests.simulation.producer import Submission

TABLES = (
    "state", "frames", "ledger", "results", "users", "dead", "outbox", "inbox_tail", "inbox", "inbox_marks", "origins",
    "suspects", "timers", "limits", "digests", "subscriptions", "broadcasts", "configs",
)  # fmt: skip

Place = tuple[int, int]  # seq, slot
Results = list[tuple[int, int, int, Note | None]]


class Stored:
    """``read`` after every commit; what it knew of frames that are pruned since, it keeps."""

    def __init__(self, made: dict[bytes, Submission]) -> None:
        self.words: dict[int, tuple[int, ...]] = {}  # by seq; of pruned frames, as they were
        self.open: dict[Place, int] = {}
        self.pruned: set[int] = set()
        self.entered: dict[int, Submission] = {}
        self.verdicts: dict[int, Verdict] = {}
        self.at_us: dict[int, int] = {}
        self.digests: dict[int, list[bytes]] = {}  # of its notifications that have a key
        self.priority: dict[Place, int] = {}  # by seq and position
        self.revivals: Counter[Place] = Counter()
        self.documents: dict[str, dict[str, Any]] = {}
        self.suspects: dict[Place, int] = {}  # and the crashes under each
        self.poisoned: set[Place] = set()
        self.channel_names: list[str] = []
        self._made = made
        self._raw: dict[int, tuple[bytes, int]] = {}
        self._verdict_counts: Counter[str] = Counter()
        self._reset_attempts: Counter[int] = Counter()  # by channel, of what was replayed

    def read(self, database: sqlite3.Connection) -> None:
        """Compare with what was there before; ``AssertionError`` names the invariant that is broken."""
        run = _plainly(database)
        self.channel_names = msgspec.msgpack.decode(
            run("SELECT value FROM meta WHERE key = 'channels'").fetchone()[0], type=list[str]
        )
        dead = {(seq, slot): reason for seq, slot, reason in run("SELECT seq, slot, reason FROM dead")}
        self.poisoned = {place for place, reason in dead.items() if reason == "poison"}
        self.suspects = {(seq, slot): crashes for seq, slot, crashes in run("SELECT seq, slot, crashes FROM suspects")}
        self._compare(self._changed(run, {seq for seq, _ in dead}))
        for seq in sorted(self.words.keys() - self.at_us.keys()):
            self._enter(seq, run("SELECT * FROM frames WHERE seq = ?", (seq,)))
            if self.entered[seq].is_unjudgeable:
                letters = run("SELECT slot, reason, error_class FROM dead WHERE seq = ?", (seq,)).fetchall()
                assert letters == [(-1, "rejected", "internal")], f"frame {seq} cannot be judged, and has {letters}"
        rows = run("SELECT user_id, document FROM users")
        self.documents = {user_id: msgspec.msgpack.decode(blob) for user_id, blob in rows}
        row = run("SELECT value FROM state").fetchone()
        self._conserved(msgspec.msgpack.decode(row[0], type=State) if row else State(), dead)

    def _changed(self, run: Any, dead: set[int]) -> dict[int, tuple[int, ...]]:
        rows = {seq: (log, slots) for seq, log, slots in run("SELECT seq, log, slots FROM ledger")}
        logged: dict[int, list[tuple[int, int, int]]] = {}
        for number, blob in run("SELECT id, entries FROM results ORDER BY id"):
            for seq, slot, value, _ in msgspec.msgpack.decode(blob, type=Results):
                logged.setdefault(seq, []).append((number, slot, value))
        changed: dict[int, tuple[int, ...]] = {}
        for seq, (log, blob) in rows.items():
            later = [entry for entry in logged.get(seq, ()) if entry[0] > log]
            if not later and self._raw.get(seq) == (blob, log):
                continue
            slots = array("I")
            slots.frombytes(blob)
            for _, slot, value in later:
                slots[slot] = value
            self._raw[seq] = blob, -1 if later else log
            changed[seq] = tuple(slots)
        for seq in self._raw.keys() - rows.keys():
            words = self.words[seq]
            assert all(ledger.outcome_of(word) in ledger.FINAL for word in words), f"A: frame {seq} went while open"
            assert seq not in dead, f"A: frame {seq} went and its dead letters are left"
            del self._raw[seq]
            self.pruned.add(seq)
        return changed

    def _compare(self, changed: dict[int, tuple[int, ...]]) -> None:
        for seq, words in changed.items():
            before = self.words.get(seq)
            self.words[seq] = words
            if before == words:
                continue
            for slot, word in enumerate(words):
                if ledger.outcome_of(word) in ledger.OPEN:
                    self.open[seq, slot] = word
                else:
                    self.open.pop((seq, slot), None)
            if before is None:
                continue
            assert len(before) == len(words), f"C: frame {seq} has another number of deliveries"
            for slot, (old, new) in enumerate(zip(before, words, strict=True)):
                if old != new:
                    self._compare_words((seq, slot), old, new)

    def _compare_words(self, place: Place, old: int, new: int) -> None:
        assert old & 0x30FF == new & 0x30FF, f"C: {place} changed its channel or priority"
        if ledger.outcome_of(old) == ledger.DEAD and ledger.outcome_of(new) == ledger.PENDING:
            self.revivals[place] += 1
            self._reset_attempts[ledger.channel_of(old)] += ledger.attempts_of(old) - ledger.attempts_of(new)
            return
        assert ledger.outcome_of(old) in ledger.OPEN, f"C: {place} was final as {old:#x} and is {new:#x}"
        steps = ledger.attempts_of(new) - ledger.attempts_of(old)
        assert steps in {0, 1}, f"D: {place} went from {old:#x} to {new:#x}"
        if steps == 0:
            unsent = (ledger.SUPPRESSED, ledger.RATE_LIMITED, ledger.EXPIRED, ledger.CANCELLED, ledger.DEAD)
            waits = (ledger.PENDING, ledger.DEFERRED) if ledger.outcome_of(old) != ledger.RETRYING else ()
            assert ledger.outcome_of(new) in (*unsent, *waits), f"C: {place} is {new:#x} without an attempt"

    # --- a frame's first commit --------------------------------------------------------------------------------

    def _enter(self, seq: int, cursor: sqlite3.Cursor) -> None:
        """What was decided on a new frame is what its producer and its users asked for."""
        names = [column[0] for column in cursor.description]
        row = dict(zip(names, cursor.fetchone(), strict=True))
        assert row["body"] in self._made, f"A: frame {seq} holds what nobody sent"
        submission = self.entered[seq] = self._made[row["body"]]
        verdict = msgspec.msgpack.decode(row["verdict"], type=Verdict) if row["verdict"] else Verdict()
        self.verdicts[seq] = verdict
        self.at_us[seq] = row["at_us"]
        digests = row["digests"] or b""
        found = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
        self.digests[seq] = [digest for digest in found if digest != NO_DIGEST]
        dropped = {one.index for one in verdict.duplicates} | {one.index for one in verdict.rejected}
        self._verdict_counts["duplicates"] += len(verdict.duplicates)
        self._verdict_counts["rejected"] += len(verdict.rejected)
        self._verdict_counts["accepted"] += len(submission.positions) - len(dropped)
        if submission.is_unjudgeable:
            codes = [(one.index, one.error.code) for one in verdict.rejected]
            assert codes == [(at, "internal") for at in range(len(submission.positions))], f"frame {seq}: {codes}"
            assert not row["widths"], f"C: frame {seq} cannot be judged, and is planned"
            return
        slot = 0
        for index, (position, width) in enumerate(zip(submission.positions, row["widths"], strict=True)):
            if index in dropped:
                assert not width, f"C: {(seq, index)} was not accepted, and is planned"
                continue
            channels, priority, category = position.planned()
            words = self.words[seq][slot : slot + width]
            planned = tuple(self.channel_names[ledger.channel_of(word)] for word in words)
            assert planned == channels, f"C: {(seq, index)} is planned for {planned}, not for {channels}"
            assert {ledger.priority_of(word) for word in words} == {PRIORITIES.index(priority)}
            self.priority[seq, index] = PRIORITIES.index(priority)
            for channel, word in zip(channels, words, strict=True):
                blocked = category != "security" and self._blocks(position.user_id, category, channel)
                self._decided((seq, index), channel, word, blocked)
            slot += width

    def _blocks(self, user_id: str, category: str, channel: str) -> bool:
        """As of the commit before: a turn judges its frames before it takes new preferences."""
        preferences = self.documents.get(user_id, {}).get("preferences", {})
        categories = preferences.get("categories", {}).get(category, {})
        by_category = categories is False or (categories is not True and categories.get(channel) is False)
        return preferences.get("channels", {}).get(channel) is False or by_category

    @staticmethod
    def _decided(place: Place, channel: str, word: int, blocked: bool) -> None:
        outcome, reason = ledger.outcome_of(word), ledger.REASONS[ledger.reason_of(word)]
        if outcome == ledger.SUPPRESSED and reason == "preference":
            assert blocked, f"{place} on {channel} is suppressed, and its user allows it"
        elif blocked:
            undecided = outcome in {ledger.PENDING, ledger.EXPIRED}
            assert undecided, f"{place} on {channel} is {ledger.OUTCOMES[outcome]}, and its user forbade it"

    # --- totals ------------------------------------------------------------------------------------------------

    def _conserved(self, state: State, dead: dict[Place, str]) -> None:
        planned: Counter[int] = Counter()
        attempts: Counter[int] = Counter(self._reset_attempts)
        outcomes: Counter[tuple[int, int]] = Counter()
        for word, count in Counter(chain.from_iterable(self.words.values())).items():
            channel = ledger.channel_of(word)
            planned[channel] += count
            attempts[channel] += count * ledger.attempts_of(word)
            outcomes[channel, ledger.outcome_of(word)] += count
        counters = state.counters
        assert state.last == max(self.words, default=0), f"A: the journal says {state.last} frames"
        for channel, counts in enumerate(counters.channels):
            assert counts.planned == planned[channel], f"C: channel {channel} planned"
            assert counts.attempts == attempts[channel], f"C: channel {channel} attempts"
            for final in ledger.FINAL:
                what = f"C: channel {channel}, {ledger.OUTCOMES[final]}"
                assert counts.outcomes[final] == outcomes[channel, final], what
        pending = sum(count for (_, outcome), count in outcomes.items() if outcome in ledger.OPEN)
        assert pending == len(self.open)
        finals = sum(sum(counts.outcomes) for counts in counters.channels)
        assert planned.total() == finals + pending, "C: planned = outcomes + pending"
        reasons = {reason: count for reason, count in counters.dead_letters.items() if count}
        assert reasons == Counter(dead.values()), "C: dead letters"
        for seq, slot in dead:
            assert slot < 0 or ledger.outcome_of(self.words[seq][slot]) == ledger.DEAD, f"C: {(seq, slot)} is not dead"
        verdicts = {name: getattr(counters, name) for name in ("accepted", "duplicates", "rejected")}
        assert verdicts == {name: self._verdict_counts[name] for name in verdicts}, f"C: verdicts {verdicts}"

    def compare(self, database: sqlite3.Connection) -> None:
        """What a second reader finds in the files that a crash left is what was committed, no more and no less."""
        other = Stored(self._made)
        other._verdict_counts = self._verdict_counts.copy()
        other._reset_attempts = self._reset_attempts.copy()
        other.words = {seq: self.words[seq] for seq in self.pruned}
        other.at_us, other.entered = self.at_us, self.entered
        other.read(database)
        assert other.words == self.words, "A: what is on disk after the crash is not what was committed"
        for seq, body in _plainly(database)("SELECT seq, body FROM frames"):
            assert body == self.entered[seq].body, f"A: frame {seq} has another body after the crash"
        assert other.documents == self.documents, "A: users' documents after the crash"
        assert other.suspects == self.suspects, "suspects after the crash"
        for table in TABLES:
            for row in _plainly(database)(f"SELECT * FROM {table}"):
                checksum = xxhash.xxh3_64_intdigest(msgspec.msgpack.encode(row[:-1])) >> 1
                assert checksum == row[-1], f"the checksum of {row} in {table}"


def _plainly(database: sqlite3.Connection) -> Any:
    """Reading that takes no part in the faults."""
    return lambda *arguments: sqlite3.Connection.execute(database, *arguments)
