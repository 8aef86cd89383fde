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
from shards.tables.state import State
from shards.wire.link import Verdict
from shards.wire.notification import PRIORITIES
from tests.simulation.policies import Policies
from tests.simulation.producer import Sent, Submission

TABLES = (
    "state", "frames", "ledger", "results", "users", "dead", "outbox", "inbox_tail", "inbox", "inbox_marks", "origins",
    "suspects", "timers", "limits", "digests", "subscriptions", "topics", "broadcasts", "pages",
    "configs",
)  # fmt: skip

Place = tuple[int, int]  # seq, slot
Change = tuple[Place, int | None, int]  # a delivery, its word before, or None if it is new, and its word now
Results = list[tuple[int, int, int, Note | None]]


class Stored:
    """``read`` after every commit; what it knew of frames that are pruned since, it keeps."""

    def __init__(self, made: dict[bytes, Submission], policies: Policies) -> None:
        self.changed: list[Change] = []  # by the last commit
        self.revived: set[Place] = set()  # by the last commit
        self.late: set[Place] = set()  # was deferred, or moved to the inbox: it is in no order
        self.index: dict[int, list[int]] = {}  # by seq: the position that each slot is of
        self.withdrawn: set[Place] = set()  # open, and somebody was told that they are cancelled once they fail
        self.unwanted: set[object] = set()  # that somebody asked to cancel, by seq and position or by user and key
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
        self.documents_before: dict[str, dict[str, Any]] = {}  # as of the commit before: what a turn decides by
        self.suspects: dict[Place, int] = {}  # and the crashes under each
        self.poisoned: set[Place] = set()
        self.channel_names: list[str] = []
        self._made = made
        self._policies = policies
        self._raw: dict[int, tuple[bytes, int]] = {}
        self._verdict_counts: Counter[str] = Counter()
        self._reset_attempts: Counter[int] = Counter()  # by channel, of what was replayed

    def read(self, database: sqlite3.Connection) -> None:
        """Compare with what was there before; ``AssertionError`` names the invariant that is broken."""
        run = plainly(database)
        self.channel_names = msgspec.msgpack.decode(
            run("SELECT value FROM meta WHERE key = 'channels'").fetchone()[0], type=list[str]
        )
        dead = {(seq, slot): reason for seq, slot, reason in run("SELECT seq, slot, reason FROM dead")}
        self.poisoned = {place for place, reason in dead.items() if reason == "poison"}
        self.suspects = {(seq, slot): crashes for seq, slot, crashes in run("SELECT seq, slot, crashes FROM suspects")}
        self.changed, self.revived = [], set()
        self._compare(self._find_changes(run, {seq for seq, _ in dead}))
        for seq in sorted(self.words.keys() - self.at_us.keys()):
            self._enter(seq, run("SELECT * FROM frames WHERE seq = ?", (seq,)))
            if self.entered[seq].is_unjudgeable:
                letters = run("SELECT slot, reason, error_class FROM dead WHERE seq = ?", (seq,)).fetchall()
                assert letters == [(-1, "rejected", "internal")], f"frame {seq} cannot be judged, and has {letters}"
        rows = run("SELECT user_id, document FROM users")
        self.documents_before = self.documents
        self.documents = {user_id: msgspec.msgpack.decode(blob) for user_id, blob in rows}
        row = run("SELECT value FROM state").fetchone()
        self._conserved(msgspec.msgpack.decode(row[0], type=State) if row else State(), dead)

    def _find_changes(self, run: Any, dead: set[int]) -> dict[int, tuple[int, ...]]:
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
                self.changed += [((seq, slot), None, word) for slot, word in enumerate(words)]
                self.late |= {(seq, slot) for slot, word in enumerate(words) if _is_deferred(word)}
                continue
            assert len(before) == len(words), f"C: frame {seq} has another number of deliveries"
            for slot, (old, new) in enumerate(zip(before, words, strict=True)):
                if old != new:
                    self._compare_words((seq, slot), old, new)

    def _compare_words(self, place: Place, old: int, new: int) -> None:
        self.changed.append((place, old, new))
        if ledger.outcome_of(new) in ledger.FINAL:
            self.withdrawn.discard(place)
        if _is_deferred(new):
            self.late.add(place)
        before, after = ledger.outcome_of(old), ledger.outcome_of(new)
        if old & 0xFF != new & 0xFF:
            names = [self.channel_names[ledger.channel_of(word)] for word in (old, new)]
            limit = self._policies.rate_limits.get(names[0])
            assert limit is not None, f"C: {place} changed its channel"
            assert (limit.overflow, names[1]) == ("inapp", "inapp"), f"C: {place} moved from {names}"
            assert before in {ledger.PENDING, ledger.DEFERRED}, f"C: {place} moved when it was {old:#x}"
            self.late.add(place)
        assert ledger.priority_of(old) == ledger.priority_of(new), f"C: {place} changed its priority"
        if before == ledger.DEAD and after in {ledger.PENDING, ledger.DEFERRED, ledger.CANCELLED}:  # at once, perhaps
            self.revivals[place] += 1
            self.revived.add(place)
            self._reset_attempts[ledger.channel_of(old)] += ledger.attempts_of(old) - ledger.attempts_of(new)
            return
        assert before in ledger.OPEN, f"C: {place} was final as {old:#x} and is {new:#x}"
        steps = ledger.attempts_of(new) - ledger.attempts_of(old)
        if is_digest_item(old):  # it takes the outcome of another, which is checked beside the digests
            return
        if after == ledger.CANCELLED and steps < 0:  # what carries its digest in its place has them
            return
        assert steps in {0, 1}, f"D: {place} went from {old:#x} to {new:#x}"
        if steps == 0:
            unsent = (
                ledger.DELIVERED,
                ledger.SUPPRESSED,
                ledger.RATE_LIMITED,
                ledger.EXPIRED,
                ledger.CANCELLED,
                ledger.DEAD,
            )
            still = ledger.RETRYING if before == ledger.RETRYING else ledger.PENDING
            # with refused credentials an attempt does not count, and is made again
            waits = (still, ledger.DEFERRED, ledger.RETRYING)
            assert after in (*unsent, *waits), f"C: {place} is {new:#x} without an attempt"

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
            assert len(channels) == width, (
                f"C: {(seq, index)} {position} has {width} deliveries, not {channels} {words}"
            )
            planned = tuple(self.channel_names[ledger.channel_of(word)] for word in words)
            self.index.setdefault(seq, []).extend([index] * width)
            for at, (channel, wanted) in enumerate(zip(planned, channels, strict=True)):
                limit = self._policies.rate_limits.get(wanted)
                may_move = limit is not None and limit.overflow == "inapp" and "inapp" not in channels
                assert channel == wanted or (may_move and channel == "inapp"), f"C: {(seq, index)} is for {planned}"
                if channel != wanted:
                    self.late.add((seq, slot + at))
            assert {ledger.priority_of(word) for word in words} == {PRIORITIES.index(priority)}
            self.priority[seq, index] = PRIORITIES.index(priority)
            for channel, word in zip(planned, words, strict=True):
                self._decided((seq, index), channel, word, self.forbids(position.user_id, category, channel))
            slot += width

    def forbids(self, user_id: str, category: str, channel: str) -> bool:
        """As of the commit before: a turn judges its frames before it takes new preferences."""
        preferences = self.documents.get(user_id, {}).get("preferences", {})
        categories = preferences.get("categories", {}).get(category, {})
        by_category = categories is False or (categories is not True and categories.get(channel) is False)
        return category != "security" and (preferences.get("channels", {}).get(channel) is False or by_category)

    def has_no_contact(self, user_id: str, channel: str) -> bool:
        """Who has none at all is simulated."""
        contacts = self.documents.get(user_id, {}).get("contacts", {})
        name = {"email": "email", "sms": "phone", "push": "push", "webhook": "webhook"}.get(channel)
        return bool(contacts) and name is not None and not contacts.get(name)

    @staticmethod
    def _decided(place: Place, channel: str, word: int, blocked: bool) -> None:
        outcome, reason = ledger.outcome_of(word), ledger.REASONS[ledger.reason_of(word)]
        if outcome == ledger.SUPPRESSED and reason == "preference":
            assert blocked, f"{place} on {channel} is suppressed, and its user allows it"
        elif blocked and reason != "overflow":
            undecided = outcome in {ledger.PENDING, ledger.EXPIRED, ledger.CANCELLED} or reason == "send_at"
            assert undecided, f"{place} on {channel} is {ledger.OUTCOMES[outcome]}, and its user forbade it"

    def only_waits(self) -> bool:
        """Whether everything that is open waits for an instant."""
        waits = {ledger.DEFERRED, ledger.RETRYING}
        return all(ledger.outcome_of(word) in waits for word in self.open.values())

    def slots_of(self, seq: int, index: int) -> list[int]:
        return [slot for slot, at in enumerate(self.index.get(seq, ())) if at == index]

    def sent(self, place: Place) -> Sent:
        """What a delivery is of."""
        return self.entered[place[0]].positions[self.index[place[0]][place[1]]]

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
        other = Stored(self._made, self._policies)
        other._verdict_counts = self._verdict_counts.copy()
        other._reset_attempts = self._reset_attempts.copy()
        other.words = {seq: self.words[seq] for seq in self.pruned}
        other.at_us, other.entered = self.at_us, self.entered
        other.read(database)
        assert other.words == self.words, "A: what is on disk after the crash is not what was committed"
        for seq, body in plainly(database)("SELECT seq, body FROM frames"):
            assert body == self.entered[seq].body, f"A: frame {seq} has another body after the crash"
        assert other.documents == self.documents, "A: users' documents after the crash"
        assert other.suspects == self.suspects, "suspects after the crash"
        for table in TABLES:
            for row in plainly(database)(f"SELECT * FROM {table}"):
                checksum = xxhash.xxh3_64_intdigest(msgspec.msgpack.encode(row[:-1])) >> 1
                assert checksum == row[-1], f"the checksum of {row} in {table}"


def _is_deferred(word: int) -> bool:
    return ledger.outcome_of(word) == ledger.DEFERRED


def is_digest_item(word: int) -> bool:
    return _is_deferred(word) and ledger.REASONS[ledger.reason_of(word)] == "digest"


def plainly(database: sqlite3.Connection) -> Any:
    """Reading that takes no part in the faults."""
    return lambda *arguments: sqlite3.Connection.execute(database, *arguments)
