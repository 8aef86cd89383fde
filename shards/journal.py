"""A shard's state on disk: one SQLite file in WAL mode, one writer, a transaction per poll turn.

The frame is the row. A frame's ledger is a small blob beside it; only the exceptional (dead letters, users who
chose, inbox marks) have rows of their own. Whoever holds the file holds the shard: the lock is exclusive.
"""

from __future__ import annotations

import secrets
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from shards.core import Changes, Dead, Note, Result, StoredFrame, decode_notes
from shards.counters import Counters
from shards.frames import Frame
from shards.ledger import LANE_BITS, OPEN, outcome_of, words
from shards.preferences import UserDocument
from shards.validation import instant_ms
from shards.wire import DeadAdded, DeadLetter, DeadRemoved, OutboxItem, pack

FORMAT = 1
PAGE_BYTES = 4_096  # every page that a small commit touches is written whole: this decides the tail of the latency
CHECKPOINT_PAGES = 500  # 2 MB: a checkpoint holds up its turn, so it is to be short
CACHE_KIB = 32_768

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE state(id INTEGER PRIMARY KEY CHECK (id = 1), value BLOB NOT NULL);
CREATE TABLE frames(
    seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, source INTEGER NOT NULL, fanned INTEGER NOT NULL,
    inbox INTEGER NOT NULL, crc INTEGER NOT NULL, widths BLOB NOT NULL, verdict BLOB, digests BLOB, body BLOB NOT NULL);
CREATE TABLE ledger(
    seq INTEGER PRIMARY KEY, open INTEGER NOT NULL, mask INTEGER NOT NULL, updated_ms INTEGER NOT NULL,
    log INTEGER NOT NULL, slots BLOB NOT NULL, notes BLOB);
CREATE TABLE results(id INTEGER PRIMARY KEY, entries BLOB NOT NULL);
CREATE INDEX open_frames ON ledger(seq, mask) WHERE open > 0;
CREATE TABLE users(user_id TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE dead(
    seq INTEGER, slot INTEGER, id TEXT NOT NULL, user_id TEXT, channel TEXT, category TEXT, reason TEXT NOT NULL,
    error_class TEXT NOT NULL, died_at_ms INTEGER NOT NULL, letter BLOB NOT NULL,
    PRIMARY KEY (seq, slot)) WITHOUT ROWID;
CREATE TABLE outbox(n INTEGER PRIMARY KEY, item BLOB NOT NULL);
CREATE TABLE inbox_tail(id INTEGER PRIMARY KEY, entries BLOB NOT NULL);
CREATE TABLE inbox(
    user_hash INTEGER, first INTEGER, places BLOB NOT NULL, PRIMARY KEY (user_hash, first)) WITHOUT ROWID;
CREATE TABLE inbox_marks(
    user_hash INTEGER, place INTEGER, state TEXT NOT NULL, PRIMARY KEY (user_hash, place)) WITHOUT ROWID;
"""

LOG_ROWS_MAX = 1_000
LOGGED_FRAMES_MAX = 2_000
_UPDATE_LEDGER = "UPDATE ledger SET open = ?, mask = ?, updated_ms = ?, log = ?, slots = ?, notes = ? WHERE seq = ?"
_FRAME = "SELECT seq, at_us, source, fanned, body, widths, mask, slots, notes, crc FROM frames JOIN ledger USING (seq)"


class JournalError(Exception):
    """The journal cannot be used: the message names the file, what is wrong, and what to do."""


class State(msgspec.Struct, array_like=True):
    """What changes with every transaction: the link's position, the totals, the outbox's last number."""

    last: int = 0
    epoch: int = 0
    gen: int = 0
    base: int = 0
    outbox: int = 0
    log: int = 0  # of the last transaction
    counters: Counters = msgspec.field(default_factory=Counters)


class SqliteJournal:
    """Opens or creates the journal, and holds it until ``close``."""

    def __init__(self, path: Path, shard: int, shards: int, durability: str, channel_names: Iterable[str]) -> None:
        self.path = path
        self.database = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        run = self.database.execute
        run(f"PRAGMA page_size = {PAGE_BYTES}")
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        run(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        run(f"PRAGMA cache_size = -{CACHE_KIB}")
        run("PRAGMA cache_spill = OFF")
        run("PRAGMA temp_store = MEMORY")
        run("BEGIN IMMEDIATE")
        if not run("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            self._create(shard, shards)
        self._check(shard, shards)
        self.channel_names = self._number_channels(channel_names)
        row = run("SELECT value FROM state").fetchone()
        self.state = msgspec.msgpack.decode(row[0], type=State) if row else State()
        self._logged: dict[int, Frame] = {}  # frames with changes that only the log has
        self._log_settled = self.state.log
        self._settle_log()
        run("COMMIT")
        path.chmod(0o600)
        self.generation = str(self._meta("generation"))
        self._users_stored = run("SELECT 1 FROM users LIMIT 1").fetchone() is not None

    def _create(self, shard: int, shards: int) -> None:
        for statement in SCHEMA.split(";"):
            self.database.execute(statement)
        self.database.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [
                ("format", FORMAT),
                ("generation", secrets.token_hex(4)),
                ("shard", shard),
                ("shards", shards),
                ("channels", pack([])),
            ],
        )

    def _check(self, shard: int, shards: int) -> None:
        found = self._meta("format")
        if found != FORMAT:
            raise JournalError(
                f"{self.path} has format {found}; this version reads {FORMAT}. Use the version that wrote it"
            )
        if (self._meta("shard"), self._meta("shards")) != (shard, shards):
            raise JournalError(
                f"{self.path} is of shard {self._meta('shard')} of {self._meta('shards')}, not {shard} of {shards}"
            )

    def _meta(self, key: str) -> Any:
        return self.database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]

    def _number_channels(self, names: Iterable[str]) -> list[str]:
        """A channel keeps its number for the life of the journal, as the ledger's words hold it."""
        numbered: list[str] = msgspec.msgpack.decode(self._meta("channels"), type=list[str])
        numbered += [name for name in names if name not in numbered]
        self.database.execute("UPDATE meta SET value = ? WHERE key = 'channels'", (pack(numbered),))
        return numbered

    def close(self) -> None:
        self.database.close()

    # --- writing -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the turn's transaction, if it is not open."""
        if not self.database.in_transaction:
            self.database.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.database.execute("COMMIT")

    def record(self, changes: Changes, now_ms: int) -> None:
        """Write what a turn did, within the transaction."""
        frames, entered, updated = [], [], []
        self.state.log += 1
        logged = False
        for frame in changes.frames:
            frame.updated_ms = now_ms
            if frame.new is None and not frame.dirty and frame.active:
                logged = True
                self._logged[frame.seq] = frame
                continue
            frame.stored_open = frame.open
            slots, notes = frame.slots.tobytes(), pack(frame.notes) if frame.notes else None
            new = frame.new
            if new is None:
                updated.append((frame.open, frame.mask, now_ms, self.state.log, slots, notes, frame.seq))
                self._logged.pop(frame.seq, None)
                continue
            entered.append((frame.seq, frame.open, frame.mask, now_ms, self.state.log, slots, notes))
            frames.append(
                (
                    frame.seq,
                    frame.at_us,
                    new.source,
                    new.fanned,
                    new.has_inbox,
                    checksum(new.body),
                    frame.widths,
                    new.verdict,
                    new.digests,
                    new.body,
                )
            )
        many = self.database.executemany
        if frames:
            many("INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", frames)
            many("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)", entered)
        if updated:
            many(_UPDATE_LEDGER, updated)
        if logged:
            self._write_log(changes.results, now_ms)
        if changes.revived:
            self._remove_dead(changes.revived)
        if changes.dead:
            self._add_dead(changes.dead)

    def _write_log(self, results: list[Result], now_ms: int) -> None:
        """The single changes of frames whose ledger is not written now. A long log is settled by writing them all."""
        if len(self._logged) > LOGGED_FRAMES_MAX or self.state.log >= self._log_settled + LOG_ROWS_MAX:
            rows = [
                (frame.open, frame.mask, now_ms, self.state.log, frame.slots.tobytes(), pack(frame.notes), frame.seq)
                for frame in self._logged.values()
            ]
            self.database.executemany(_UPDATE_LEDGER, rows)
            self.database.execute("DELETE FROM results")
            for frame in self._logged.values():
                frame.stored_open = frame.open
            self._logged.clear()
            self._log_settled = self.state.log
            return
        entries = [(frame.seq, slot, value, note) for frame, slot, value, note in results if frame.seq in self._logged]
        self.database.execute("INSERT INTO results VALUES (?, ?)", (self.state.log, pack(entries)))

    def _settle_log(self) -> None:
        """At the start: what was logged goes into the ledgers, where these were not written later."""
        run = self.database.execute
        ledgers: dict[int, tuple[int, array[int], dict[int, Note]]] = {}
        for number, blob in run("SELECT id, entries FROM results ORDER BY id").fetchall():
            for seq, slot, value, note in msgspec.msgpack.decode(blob, type=list[tuple[int, int, int, Note | None]]):
                if seq not in ledgers:
                    row = run("SELECT log, slots, notes FROM ledger WHERE seq = ?", (seq,)).fetchone()
                    if row is None:
                        continue
                    ledgers[seq] = row[0], words(row[1]), decode_notes(row[2])
                written, slots, notes = ledgers[seq]
                if number > written:
                    slots[slot] = value
                    if note is not None:
                        notes[slot] = note
        for seq, (_, slots, notes) in ledgers.items():
            still_open = sum(outcome_of(value) in OPEN for value in slots)
            run(
                "UPDATE ledger SET open = ?, slots = ?, notes = ? WHERE seq = ?",
                (still_open, slots.tobytes(), pack(notes) if notes else None, seq),
            )
        run("DELETE FROM results")

    def _add_dead(self, dead: list[Dead]) -> None:
        self.database.executemany(
            "INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    seq,
                    slot,
                    letter.id,
                    letter.user_id,
                    letter.channel,
                    letter.category,
                    letter.reason,
                    letter.error_class,
                    letter.died_at_ms,
                    pack(letter),
                )
                for seq, slot, letter in dead
            ],
        )
        self.post([DeadAdded(letter) for _, _, letter in dead])

    def _remove_dead(self, places: list[tuple[int, int]]) -> None:
        ids = []
        for place in places:
            row = self.database.execute(
                "DELETE FROM dead WHERE seq = ? AND slot = ? RETURNING id, channel", place
            ).fetchone()
            ids.append((row[0], row[1]))
        self.post([DeadRemoved(ids)])

    def post(self, items: Iterable[OutboxItem]) -> None:
        """Number items for the collector, within the transaction."""
        for item in items:
            self.state.outbox += 1
            self.database.execute("INSERT INTO outbox VALUES (?, ?)", (self.state.outbox, pack(item)))

    def save_state(self) -> None:
        self.database.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", (pack(self.state),))

    def put_user(self, user_id: str, document: UserDocument | None) -> bool:
        """Store a document, or delete it; whether there was one."""
        before = self.load_user(user_id) is not None
        if document is None:
            self.database.execute("DELETE FROM users WHERE user_id = ?", (user_id,))
        else:
            self.database.execute("INSERT OR REPLACE INTO users VALUES (?, ?)", (user_id, pack(document)))
            self._users_stored = True
        return before

    def trim_outbox(self, upto: int) -> None:
        self.database.execute("DELETE FROM outbox WHERE n <= ?", (upto,))

    def prune(self, seqs: list[int]) -> None:
        places = [(seq,) for seq in seqs]
        self.database.executemany("DELETE FROM frames WHERE seq = ?", places)
        self.database.executemany("DELETE FROM ledger WHERE seq = ?", places)

    # --- reading -----------------------------------------------------------------------------------------------

    def load_user(self, user_id: str) -> UserDocument | None:
        if not self._users_stored:
            return None
        row = self.database.execute("SELECT document FROM users WHERE user_id = ?", (user_id,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=UserDocument) if row else None

    def frame(self, seq: int) -> StoredFrame | None:
        row = self.database.execute(f"{_FRAME} WHERE seq = ?", (seq,)).fetchone()
        return self._stored(row) if row else None

    def open_frames(self, lane: int, after: int, count: int) -> list[StoredFrame]:
        """Frames after ``after`` that may have pending deliveries for the lane."""
        seqs = self.database.execute(
            "SELECT seq FROM ledger WHERE open > 0 AND seq > ? AND mask >> ? & 1 ORDER BY seq LIMIT ?",
            (after, lane % LANE_BITS, count),
        ).fetchall()
        return [frame for (seq,) in seqs if (frame := self.frame(seq)) is not None]

    def _stored(self, row: tuple[Any, ...]) -> StoredFrame:
        stored, crc = StoredFrame(*row[:-1]), row[-1]
        self._verify(stored.seq, stored.body, crc)
        return stored

    def content(self, seq: int) -> tuple[bytes, bool, bytes | None] | None:
        """``(body, fanned, digests)``, as ``contents.Content`` takes them."""
        row = self.database.execute("SELECT body, fanned, digests, crc FROM frames WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            return None
        self._verify(seq, row[0], row[3])
        return row[0], bool(row[1]), row[2]

    def _verify(self, seq: int, body: bytes, crc: int) -> None:
        if checksum(body) != crc:
            raise JournalError(f"{self.path}: frame {seq} is damaged: its checksum does not match")

    def digests_from(self, seq: int, count: int) -> list[tuple[int, int, bytes]]:
        """``(seq, at_us, digests)`` of the frames from ``seq`` on that have any."""
        return self.database.execute(
            "SELECT seq, at_us, digests FROM frames WHERE seq >= ? AND digests IS NOT NULL ORDER BY seq LIMIT ?",
            (seq, count),
        ).fetchall()

    def verdicts(self, seqs: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
        for seq in seqs:
            row = self.database.execute("SELECT verdict FROM frames WHERE seq = ?", (seq,)).fetchone()
            if row:
                yield seq, row[0]

    def open_mask(self) -> tuple[int, int]:
        """The first frame with open deliveries, and the lanes of all such frames; (0, 0) if there is none."""
        first = self.database.execute("SELECT min(seq) FROM ledger WHERE open > 0").fetchone()[0]
        mask = 0
        for (one,) in self.database.execute("SELECT DISTINCT mask FROM ledger WHERE open > 0"):
            mask |= one
        return first or 0, mask

    def waiting(self) -> Iterator[tuple[int, bytes, bytes]]:
        """``(seq, slots, notes)`` of open frames in which something was tried."""
        yield from self.database.execute("SELECT seq, slots, notes FROM ledger WHERE open > 0 AND notes IS NOT NULL")

    def pending(self) -> int:
        """Deliveries that are not final: by the stored ledgers, less what the log has ended since."""
        stored = self.database.execute("SELECT coalesce(sum(open), 0) FROM ledger WHERE open > 0").fetchone()[0]
        return int(stored) - sum(frame.stored_open - frame.open for frame in self._logged.values())

    def updated_ms(self, seq: int) -> int:
        row = self.database.execute("SELECT updated_ms FROM ledger WHERE seq = ?", (seq,)).fetchone()
        return int(row[0]) if row else 0

    def outbox(self, after: int, count: int) -> list[tuple[int, bytes]]:
        return self.database.execute(
            "SELECT n, item FROM outbox WHERE n > ? ORDER BY n LIMIT ?", (after, count)
        ).fetchall()

    def dead(
        self, filters: dict[str, Any], count: int, channels: Sequence[str] | None = None
    ) -> list[tuple[int, int, DeadLetter]]:
        """Dead letters that match all filters, the oldest first; on these ``channels``, or rejections as well."""
        where, values = dead_filter(filters)
        if channels is not None:
            where += f" AND slot >= 0 AND channel IN ({', '.join('?' * len(channels))})"
            values += channels
        rows = self.database.execute(
            f"SELECT seq, slot, letter FROM dead WHERE {where} ORDER BY died_at_ms, seq, slot LIMIT ?", (*values, count)
        ).fetchall()
        return [(seq, slot, msgspec.msgpack.decode(letter, type=DeadLetter)) for seq, slot, letter in rows]

    def prunable(self, after: int, finished_us: int, inbox_us: int, count: int) -> list[tuple[int, int, bool]]:
        """``(seq, at_us, may go)`` of the frames after ``after``: final, old enough, and no dead letter's."""
        return [
            (seq, at_us, bool(final) and at_us < (inbox_us if inbox else finished_us))
            for seq, at_us, inbox, final in self.database.execute(
                "SELECT seq, at_us, inbox, open = 0 AND NOT EXISTS (SELECT 1 FROM dead WHERE dead.seq = frames.seq) "
                "FROM frames JOIN ledger USING (seq) WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, count),
            )
        ]

    def size_bytes(self) -> int:
        """What is in use, without the pages that wait for reuse."""
        used = self.database.execute("PRAGMA page_count").fetchone()[0]
        free = self.database.execute("PRAGMA freelist_count").fetchone()[0]
        return int(used - free) * PAGE_BYTES


def checksum(body: bytes) -> int:
    """63 bits of XXH3, as SQLite's integers are signed."""
    return xxhash.xxh3_64_intdigest(body) >> 1


DEAD_FILTERS = ("channel", "category", "reason", "error_class", "user_id", "id")


def dead_filter(filters: dict[str, Any]) -> tuple[str, list[Any]]:
    """An SQL condition over the columns of dead letters, for the shard's table and the collector's alike."""
    conditions, values = ["1"], []
    for name in DEAD_FILTERS:
        if filters.get(name) is not None:
            conditions.append(f"{name} = ?")
            values.append(filters[name])
    if filters.get("since") is not None:
        conditions.append("died_at_ms >= ?")
        values.append(instant_ms("since", filters["since"]))
    return " AND ".join(conditions), values
