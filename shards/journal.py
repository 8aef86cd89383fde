"""A shard's state on disk: one SQLite file in WAL mode, one writer, a transaction per poll turn.

Whoever holds the file holds the shard: the lock is exclusive. What is in it, by table, is in ``tables``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from shards import logs, schema
from shards.changes import Changes, Place
from shards.ledger import NUMBERS
from shards.marks import Mark
from shards.migration import migrate
from shards.schema import DamagedError, JournalError
from shards.tables.configs import ConfigTable
from shards.tables.dead import DeadTable
from shards.tables.frames import FrameTable
from shards.tables.health import HealthTable
from shards.tables.ledgers import LedgerTable
from shards.tables.outbox import OutboxTable
from shards.tables.rows import Rows
from shards.tables.state import load_state, save_state
from shards.tables.suspects import SuspectTable
from shards.tables.topics import TopicTables
from shards.tables.users import UserTable
from shards.tables.waiting import WaitingTables
from shards.wire.encoding import pack
from shards.witness import Statement, Witness, boot_now

log = logs.logger()

TAIL_FRAMES = 256  # checked at every start


class SqliteJournal:
    """Opens or creates the journal, and holds it until ``close``.

    Raises ``DamagedError`` where the file is not what was written, another ``JournalError`` where it is not for this
    version or this shard, ``sqlite3.Error`` and ``OSError`` where the disk does not do its part.
    """

    def __init__(self, path: Path, shard: int, shards: int, durability: str, channel_names: Iterable[str]) -> None:
        self.path = path
        self._synced = durability == "power"
        self._boot = boot_now()
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
            migrate(path, self.database)
            schema.check_tables(path, self.database)
            self.generation = str(schema.meta(self.database, "generation"))
            self.channel_names = self._number_channels(channel_names)
            self._open_tables()
            if statement:
                self._compare(statement)
            self.frames.check_tail(TAIL_FRAMES)
            self.ledgers.settle_log()
            self.database.execute("COMMIT")
        except BaseException:
            self.close()
            raise
        found = self.database.execute("SELECT max(seq + count - 1) FROM origins").fetchone()
        self._foreign = int(found[0] or 0)  # the last frame that another journal numbered

    def _open_tables(self) -> None:
        self._rows = rows = Rows(self.path, self.database)
        self.state = load_state(rows)
        self.frames = FrameTable(rows)
        self.ledgers = LedgerTable(rows, self.state.log)
        self.waiting = WaitingTables(rows)
        self.suspects = SuspectTable(rows)
        self.outbox = OutboxTable(rows, self.state)
        self.dead = DeadTable(rows, self.outbox)
        self.topics = TopicTables(rows)
        self.users = UserTable(rows, self.topics)
        self.health = HealthTable(rows)
        self.configs = ConfigTable(rows)

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
        self.outbox.renumber(told)
        self.save_state()

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
        self.state.log += 1
        self.frames.enter(changes.frames)
        self.ledgers.write(changes.frames, changes.results, self.state.log, now_ms)
        if changes.revived:
            self.dead.remove(changes.revived)
        if changes.dead:
            self.dead.add(changes.dead)
        if changes.moved:
            self.frames.mark_inbox(changes.moved)
        if changes.broadcasts:
            self.topics.save(changes.broadcasts.values(), changes.pages)
        if changes.acquitted:
            self.suspects.acquit(changes.acquitted)

    def save_state(self) -> None:
        save_state(self._rows, self.state)

    def put_config(self, version: int, rules: list[tuple[str, int | None, str | None]]) -> None:
        """What the numbers of rules mean in frames that are judged by this version, if that is not known yet."""
        if not self.configs.has(version):
            self.begin()
            self.configs.put(version, rules)

    def suspect(self, found: Iterable[Mark], is_open: Callable[[Place], bool]) -> dict[Place, int]:
        """Add what was under way when the shard died, and give all suspects with their crashes; commits."""
        self.begin()
        known = self.suspects.add(found, is_open)
        self.database.execute("COMMIT")
        return known

    def prune(self, seqs: list[int]) -> None:
        """Frames, and the digests that were sent by way of them; within the transaction."""
        self.frames.remove(seqs)
        self.waiting.prune_digests(seqs)

    # --- what is asked of the file as a whole ---------------------------------------------------------------------

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

    def size_bytes(self) -> int:
        """What is in use, without the pages that wait for reuse."""
        used = self.database.execute("PRAGMA page_count").fetchone()[0]
        free = self.database.execute("PRAGMA freelist_count").fetchone()[0]
        return int(used - free) * schema.PAGE_BYTES


def witness_path(path: Path) -> Path:
    return path.with_suffix(".witness")


def forget_replaced(path: Path) -> None:
    """What is beside a journal that was just made is another one's, which it replaces; SQLite would read it as its own.

    Done when the new one stands in its place, or at its first opening, if a rescue was cut short in between.
    """
    witness_path(path).unlink(missing_ok=True)
    schema.log_path(path).unlink(missing_ok=True)
