"""A shard's state on disk: one SQLite file in WAL mode, one writer, a transaction per poll turn.

The frame is the row. A frame's ledger is a small blob beside it; only the exceptional (dead letters, users who
chose, inbox marks) have rows of their own. Whoever holds the file holds the shard: the lock is exclusive.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shards import logs, schema
from shards.book import StoredFrame
from shards.changes import Changes, Note, Place, Result, decode_notes
from shards.counters import Counters
from shards.dead_table import DeadTable
from shards.frames import Frame
from shards.health_table import HealthTable
from shards.ledger import LANE_BITS, NUMBERS, OPEN, outcome_of, words
from shards.marks import Mark
from shards.preferences import UserDocument
from shards.schema import DamagedError, JournalError, checksum
from shards.topics import Topics
from shards.waiting_tables import WaitingTables
from shards.wire import EVERY_USER, OutboxItem, pack
from shards.witness import Statement, Witness, boot_now

log = logs.logger()

LOG_ROWS_MAX = 1_000
LOGGED_FRAMES_MAX = 2_000
TAIL_FRAMES = 256  # checked at every start
WORD_BYTES = 4
_UPDATE_LEDGER = (
    "UPDATE ledger SET open = ?, mask = ?, updated_ms = ?, log = ?, slots = ?, notes = ?, crc = ? WHERE seq = ?"
)


class State(msgspec.Struct, array_like=True):
    """What changes with every transaction: the link's position, the totals, the outbox's last number."""

    last: int = 0
    epoch: int = 0
    gen: int = 0
    base: int = 0
    outbox: int = 0
    log: int = 0  # of the last transaction
    counters: Counters = msgspec.field(default_factory=Counters)
    counted: list[int] | None = None  # of ``counters.finals``, as the collector was last told; None if it never was
    paused: dict[str, int] = {}  # channels that an operator has paused, and since when (milliseconds since 1970)


class SqliteJournal(WaitingTables, DeadTable, HealthTable):
    """Opens or creates the journal, and holds it until ``close``.

    Raises ``DamagedError`` where the file is not what was written, another ``JournalError`` where it is not for this
    version or this shard, ``sqlite3.Error`` and ``OSError`` where the disk does not do its part.
    """

    def __init__(self, path: Path, shard: int, shards: int, durability: str, channel_names: Iterable[str]) -> None:
        self.path = path
        self._synced = durability == "power"
        self._boot = boot_now()
        self._logged: dict[int, Frame] = {}  # frames with changes that only the log has
        if path.exists() and schema.is_unopened(path):
            forget_replaced(path)
        self._witness = Witness(witness_path(path))
        statement = self._witness.read()
        if statement and not path.exists():
            raise DamagedError(f"{path} is missing, and {witness_path(path)} says that there was one")
        if path.exists():
            schema.check_header(path)
        self.database = schema.connect(path, durability)
        try:
            self.database.execute("BEGIN IMMEDIATE")
            if schema.is_new(self.database):
                if statement:
                    raise DamagedError(f"{path} is empty, and {witness_path(path)} says that it was not")
                schema.create(self.database, shard, shards)
            schema.check_meta(path, self.database)
            self._check_owner(shard, shards)
            schema.migrate(path, self.database)
            schema.check_tables(path, self.database)
            self.generation = str(schema.meta(self.database, "generation"))
            self.channel_names = self._number_channels(channel_names)
            row = self._row("state", 1)
            self.state = msgspec.msgpack.decode(row[1], type=State) if row else State()
            if statement:
                self._compare(statement)
            self._log_settled = self.state.log
            self._check_tail()
            self._settle_log()
            self.database.execute("COMMIT")
        except BaseException:
            self.close()
            raise
        self.topics = Topics(path, self.database)
        self._users_stored = self._any("users")
        self._health_stored = self._any("health")
        self._digests_stored = self._any("digests")
        found = self.database.execute("SELECT max(seq + count - 1) FROM origins").fetchone()
        self._foreign = int(found[0] or 0)  # the last frame that another journal numbered

    def _check_owner(self, shard: int, shards: int) -> None:
        owner = schema.meta(self.database, "shard"), schema.meta(self.database, "shards")
        if owner != (shard, shards):
            raise JournalError(f"{self.path} is of shard {owner[0]} of {owner[1]}, not {shard} of {shards}")

    def _compare(self, statement: Statement) -> None:
        """The journal beside its witness: one that ends earlier has lost what was acknowledged."""
        if statement.generation == self.generation and statement.commits <= self.state.log:
            return
        missing = (
            f"{self.path} ends at frame {self.state.last}, transaction {self.state.log} of {self.generation}; its "
            f"witness says frame {statement.last}, transaction {statement.commits} of {statement.generation}"
        )
        if statement.generation != self.generation or statement.synced or statement.boot == self._boot:
            raise DamagedError(f"{missing}: what was committed is gone")
        log.warning("the last instants before a power cut are lost, as durability = process allows", lost=missing)
        self.begin_generation()

    def begin_generation(self, told: int = 0) -> None:
        """Go on under another name, within the transaction: here what follows is not what follows elsewhere.

        The outbox is numbered anew under it, without what the collector has, which is up to ``told``.
        """
        self.generation = schema.begin_generation(self.database, self.state.last)
        items = self.outbox(told, -1)
        self.database.execute("DELETE FROM outbox")
        self.state.outbox = 0
        self._post(item for _, item in items)
        self.save_state()

    def _check_tail(self) -> None:
        for (seq,) in self.database.execute("SELECT seq FROM frames ORDER BY seq DESC LIMIT ?", (TAIL_FRAMES,)):
            self.frame(seq)

    def _number_channels(self, names: Iterable[str]) -> list[str]:
        """A channel keeps its number for the life of the journal, as the ledger's words hold it."""
        numbered: list[str] = msgspec.msgpack.decode(schema.meta(self.database, "channels"), type=list[str])
        fresh = [name for name in names if name not in numbered]
        if len(numbered) + len(fresh) > NUMBERS:
            raise JournalError(
                f"{self.path} has had {len(numbered)} channels, and {len(fresh)} are new; there are {NUMBERS} numbers "
                "for all that there ever were: use the names of channels that are no more"
            )
        if fresh:
            numbered += fresh
            schema.set_meta(self.database, "channels", pack(numbered))
        return numbered

    def add_channels(self, names: Iterable[str]) -> None:
        """Number those that are new, within the transaction."""
        self.begin()
        self.channel_names += self._number_channels(names)[len(self.channel_names) :]

    def close(self) -> None:
        """Let go of the file; what was not committed is undone."""
        self.database.close()
        self._witness.close()

    # --- writing -----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open the turn's transaction, if it is not open."""
        if not self.database.in_transaction:
            self.database.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.database.execute("COMMIT")
        state = self.state
        self._witness.write(Statement(self.generation, state.log, state.last, self._boot, self._synced))

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
                updated.append(self._ledger_update(frame, now_ms, slots, notes))
                self._logged.pop(frame.seq, None)
                continue
            row = (frame.seq, frame.open, frame.mask, now_ms, self.state.log, slots, notes)
            entered.append((*row, checksum(*row)))
            whole = (
                frame.seq,
                frame.at_us,
                new.source,
                int(new.fanned),
                int(new.has_inbox),
                frame.widths,
                new.verdict,
                new.digests,
                new.body,
                new.config,
                new.rules,
            )
            frames.append((*whole, checksum(*whole)))
        many = self.database.executemany
        if frames:
            many("INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", frames)
            many("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", entered)
        if updated:
            many(_UPDATE_LEDGER, updated)
        if logged:
            self._write_log(changes.results, now_ms)
        if changes.revived:
            self._remove_dead(changes.revived)
        if changes.dead:
            self._add_dead(changes.dead)
        if changes.moved:
            self._mark_inbox(changes.moved)
        if changes.broadcasts:
            self.topics.save(changes.broadcasts.values(), changes.pages)
        if changes.acquitted:
            many("DELETE FROM suspects WHERE seq = ? AND slot = ?", changes.acquitted)

    def _mark_inbox(self, seqs: Iterable[int]) -> None:
        """Frames of which a delivery was moved to the inbox are kept as long as those that named it."""
        for seq in set(seqs):
            row = self._row("frames", seq)
            if row is not None:
                marked = (*row[:4], 1, *row[5:])
                self.database.execute("UPDATE frames SET inbox = 1, crc = ? WHERE seq = ?", (checksum(*marked), seq))

    def _ledger_update(self, frame: Frame, now_ms: int, slots: bytes, notes: bytes | None) -> tuple[Any, ...]:
        row = (frame.open, frame.mask, now_ms, self.state.log, slots, notes)
        return (*row, checksum(frame.seq, *row), frame.seq)

    def _write_log(self, results: list[Result], now_ms: int) -> None:
        """The single changes of frames whose ledger is not written now. A long log is settled by writing them all."""
        if len(self._logged) > LOGGED_FRAMES_MAX or self.state.log >= self._log_settled + LOG_ROWS_MAX:
            rows = [
                self._ledger_update(frame, now_ms, frame.slots.tobytes(), pack(frame.notes))
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
        row = (self.state.log, pack(entries), now_ms)
        self.database.execute("INSERT INTO results VALUES (?, ?, ?, ?)", (*row, checksum(*row)))

    def _settle_log(self) -> None:
        """At the start: what was logged goes into the ledgers, where these were not written later."""
        run = self.database.execute
        ledgers: dict[int, tuple[tuple[Any, ...], array[int], dict[int, Note]]] = {}
        changed_ms: dict[int, int] = {}
        for row in run("SELECT * FROM results ORDER BY id").fetchall():
            number, blob, at_ms = schema.verified(self.path, "results", row)
            for seq, slot, value, note in msgspec.msgpack.decode(blob, type=list[tuple[int, int, int, Note | None]]):
                if seq not in ledgers:
                    found = self._row("ledger", seq)
                    if found is None:
                        continue
                    ledgers[seq] = found, words(found[5]), decode_notes(found[6])
                (*_, written, _, _), slots, notes = ledgers[seq]
                if number > written:
                    changed_ms[seq] = at_ms
                    slots[slot] = value
                    if note is not None:
                        notes[slot] = note
        for seq, ((_, _, mask, updated_ms, written, _, _), slots, notes) in ledgers.items():
            still_open = sum(outcome_of(value) in OPEN for value in slots)
            updated_ms = max(updated_ms, changed_ms.get(seq, 0))
            settled = (still_open, mask, updated_ms, written, slots.tobytes(), pack(notes) if notes else None)
            run(_UPDATE_LEDGER, (*settled, checksum(seq, *settled), seq))
        run("DELETE FROM results")

    def post(self, items: Iterable[OutboxItem]) -> None:
        """Number items for the collector, within the transaction."""
        self._post(map(pack, items))

    def _post(self, items: Iterable[bytes]) -> None:
        for item in items:
            self.state.outbox += 1
            row = (self.state.outbox, item)
            self.database.execute("INSERT INTO outbox VALUES (?, ?, ?)", (*row, checksum(*row)))

    def save_state(self) -> None:
        row = (1, pack(self.state))
        self.database.execute("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (*row, checksum(*row)))

    def put_user(self, user_id: str, document: UserDocument | None) -> bool:
        """Store a document, or delete it; whether there was one."""
        before = self.load_user(user_id)
        self.topics.change(user_id, topics_of(before), topics_of(document))
        if document is None:
            self.database.execute("DELETE FROM users WHERE user_id = ?", (user_id,))
        else:
            row = (user_id, pack(document))
            self.database.execute("INSERT OR REPLACE INTO users VALUES (?, ?, ?)", (*row, checksum(*row)))
            self._users_stored = True
        return before is not None

    def put_config(self, version: int, rules: list[tuple[str, int | None, str | None]]) -> None:
        """What the numbers of rules mean in frames that are judged by this version of the configuration."""
        if self._row("configs", version) is None:
            row = (version, pack(rules))
            self.begin()
            self.database.execute("INSERT INTO configs VALUES (?, ?, ?)", (*row, checksum(*row)))

    def routed_by(self, seq: int, index: int) -> tuple[int, int, str | None, int | None]:
        """What routed a notification: the version of the configuration (0 if unknown) and the number of the rule (0
        if none) with its name and its line there."""
        *_, version, numbers = self._row("frames", seq) or (0, None)
        number = array("H", numbers)[index] if numbers else 0
        config = self._row("configs", version) if number else None
        name, line, _ = msgspec.msgpack.decode(config[1])[number - 1] if config else (None, None, None)
        return version, number, name, line

    def trim_outbox(self, upto: int) -> None:
        self.database.execute("DELETE FROM outbox WHERE n <= ?", (upto,))

    def suspect(self, found: Iterable[Mark], is_open: Callable[[Place], bool]) -> dict[Place, int]:
        """Add what was under way when the shard died, and give all suspects with their crashes; commits."""
        run = self.database.execute
        self.begin()
        known = {(seq, slot): crashes for seq, slot, crashes, _ in run("SELECT * FROM suspects")}
        for mark in found:
            place = mark.seq, mark.slot
            if is_open(place) and (mark.alone or place not in known):
                row = (*place, known.get(place, 0) + 1)
                known[place] = row[2]
                run("INSERT OR REPLACE INTO suspects VALUES (?, ?, ?, ?)", (*row, checksum(*row)))
        self.database.execute("COMMIT")
        return known

    def prune(self, seqs: list[int]) -> None:
        places = [(seq,) for seq in seqs]
        self.database.executemany("DELETE FROM frames WHERE seq = ?", places)
        self.database.executemany("DELETE FROM ledger WHERE seq = ?", places)
        self.prune_digests(seqs)

    # --- reading -----------------------------------------------------------------------------------------------

    def _row(self, table: str, key: object) -> tuple[Any, ...] | None:
        """The row with this key in the table's first column, without its checksum, which is right."""
        name = schema.columns(table)[0]
        row = self.database.execute(f"SELECT * FROM {table} WHERE {name} = ?", (key,)).fetchone()
        return schema.verified(self.path, table, row) if row else None

    def _any(self, table: str) -> bool:
        return self.database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None

    def origin(self, seq: int) -> tuple[str, int]:
        if seq <= self._foreign:
            row = self.database.execute(
                "SELECT seq, count, generation, old FROM origins WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (seq,)
            ).fetchone()
            if row and seq < row[0] + row[1]:
                return row[2], row[3] + seq - row[0]
        return self.generation, seq

    def seq_of(self, generation: str, old: int) -> int | None:
        if generation == self.generation:
            return old
        row = self.database.execute(
            "SELECT seq, count, old FROM origins WHERE generation = ? AND old <= ? ORDER BY old DESC LIMIT 1",
            (generation, old),
        ).fetchone()
        return row[0] + old - row[2] if row and old < row[2] + row[1] else None

    def load_user(self, user_id: str) -> UserDocument | None:
        if not self._users_stored:
            return None
        row = self._row("users", user_id)
        return msgspec.msgpack.decode(row[1], type=UserDocument) if row else None

    def frame(self, seq: int) -> StoredFrame | None:
        frame, ledger = self._row("frames", seq), self._row("ledger", seq)
        if frame is None or ledger is None:
            if frame or ledger:
                raise DamagedError(f"{self.path}: frame {seq} has no {'ledger' if frame else 'content'}")
            return None
        _, at_us, source, fanned, _, widths, _, _, body, *_ = frame
        _, still_open, mask, _, _, slots, notes = ledger
        return StoredFrame(seq, at_us, source, bool(fanned), body, widths, still_open, mask, slots, notes)

    def deliveries(self, seq: int, index: int) -> tuple[int, array[int]] | None:
        """When a frame was accepted, and the words of one of its notifications, without a look at its content."""
        row = self.database.execute(
            "SELECT at_us, widths, slots FROM frames JOIN ledger USING (seq) WHERE seq = ?", (seq,)
        ).fetchone()
        if row is None:
            return None
        at_us, widths, slots = row
        first = sum(widths[:index])
        return at_us, words(slots[WORD_BYTES * first : WORD_BYTES * (first + widths[index])])

    def open_frames(self, lane: int, after: int, count: int) -> Iterator[StoredFrame]:
        """Frames after ``after`` that may have pending deliveries for the lane."""
        seqs = self.database.execute(
            "SELECT seq FROM ledger WHERE open > 0 AND seq > ? AND mask >> ? & 1 ORDER BY seq LIMIT ?",
            (after, lane % LANE_BITS, count),
        ).fetchall()
        return (frame for (seq,) in seqs if (frame := self.frame(seq)) is not None)

    def content(self, seq: int) -> tuple[bytes, bool, bytes | None] | None:
        """``(body, fanned, digests)``, as ``contents.Content`` takes them."""
        row = self._row("frames", seq)
        return (row[8], bool(row[3]), row[7]) if row else None

    def digests_from(self, seq: int, count: int) -> list[tuple[int, int, bytes]]:
        """``(seq, at_us, digests)`` of the frames from ``seq`` on that have any."""
        return self.database.execute(
            "SELECT seq, at_us, digests FROM frames WHERE seq >= ? AND digests IS NOT NULL ORDER BY seq LIMIT ?",
            (seq, count),
        ).fetchall()

    def verdicts(self, seqs: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
        for seq in seqs:
            row = self._row("frames", seq)
            if row:
                yield seq, row[6]

    def open_mask(self) -> tuple[int, int]:
        """The first frame with open deliveries, and the lanes of all such frames; (0, 0) if there is none."""
        first = self.database.execute("SELECT min(seq) FROM ledger WHERE open > 0").fetchone()[0]
        mask = 0
        for (one,) in self.database.execute("SELECT DISTINCT mask FROM ledger WHERE open > 0"):
            mask |= one
        return first or 0, mask

    def waiting(self) -> Iterator[tuple[int, bytes, bytes]]:
        """``(seq, slots, notes)`` of open frames in which something was tried."""
        for row in self.database.execute("SELECT * FROM ledger WHERE open > 0 AND notes IS NOT NULL"):
            seq, *_, slots, notes = schema.verified(self.path, "ledger", row)
            yield seq, slots, notes

    def pending(self) -> int:
        """Deliveries that are not final: by the stored ledgers, less what the log has ended since."""
        stored = self.database.execute("SELECT coalesce(sum(open), 0) FROM ledger WHERE open > 0").fetchone()[0]
        return int(stored) - sum(frame.stored_open - frame.open for frame in self._logged.values())

    def updated_ms(self, seq: int) -> int:
        row = self.database.execute("SELECT updated_ms FROM ledger WHERE seq = ?", (seq,)).fetchone()
        return int(row[0]) if row else 0

    def outbox(self, after: int, count: int, bytes_max: float = math.inf) -> list[tuple[int, bytes]]:
        """Items after ``after``; of more than ``bytes_max`` the first ones, and at least one."""
        items: list[tuple[int, bytes]] = []
        for row in self.database.execute("SELECT * FROM outbox WHERE n > ? ORDER BY n LIMIT ?", (after, count)):
            n, item = schema.verified(self.path, "outbox", row)
            bytes_max -= len(item)
            if items and bytes_max < 0:
                break
            items.append((n, item))
        return items

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
        return int(used - free) * schema.PAGE_BYTES


def topics_of(document: UserDocument | None) -> tuple[str, ...]:
    """What reaches a user, by what is stored of them."""
    return () if document is None else (EVERY_USER, *document.preferences.topics)


def witness_path(path: Path) -> Path:
    return path.with_suffix(".witness")


def forget_replaced(path: Path) -> None:
    """What is beside a journal that was just made is another one's, which it replaces; SQLite would read it as its own.

    Done when the new one stands in its place, or at its first opening, if a rescue was cut short in between.
    """
    witness_path(path).unlink(missing_ok=True)
    schema.log_path(path).unlink(missing_ok=True)
