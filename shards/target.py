"""A journal that is being made from others: rows go in by the thousand, and it is on the disk when it is finished."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from shards import ledger, schema
from shards.counters import ChannelCounters
from shards.cutting import Part, counted
from shards.preferences import UserDocument
from shards.schema import checksum
from shards.tables.state import State
from shards.tables.users import topics_of
from shards.wire.encoding import pack
from shards.wire.notification import EVERY_USER

BATCH_ROWS = 1_000
BATCH_BYTES = 32 * 2**20  # for all targets together, like the cache
CACHE_KIB = 65_536


class Target:
    """Nobody reads it before ``finish``, so that nothing is synchronised or undone: whoever fails deletes the file."""

    def __init__(self, path: Path, shard: int, shards: int, targets: int = 1) -> None:
        self.path = path
        self.state = State()
        self.database = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        for pragma in (
            f"page_size = {schema.PAGE_BYTES}",
            "locking_mode = EXCLUSIVE",
            "journal_mode = OFF",
            "synchronous = OFF",
            f"cache_size = -{max(256, CACHE_KIB // targets)}",
        ):
            self.database.execute(f"PRAGMA {pragma}")
        self.database.execute("BEGIN")
        schema.create(self.database, shard, shards)
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        self._count = self._bytes = 0
        self._bytes_max = BATCH_BYTES // targets
        self._run = (0, 0, "", 0)  # the last row of origins, which may still grow
        self._topics: Counter[str] = Counter()  # users of each
        self.words: Counter[int] = Counter()  # of all deliveries
        self.accepted = 0  # notifications
        self.frames = 0
        self.pending: Counter[int] = Counter()  # by channel

    def add(self, table: str, row: tuple[Any, ...]) -> None:
        self._rows.setdefault(table, []).append((*row, checksum(*row)))
        self._count += 1
        self._bytes += sum(len(value) for value in row if isinstance(value, bytes))
        if self._count >= BATCH_ROWS or self._bytes >= self._bytes_max:
            self.flush()

    def flush(self) -> None:
        for table, rows in self._rows.items():
            marks = ", ".join("?" * len(rows[0]))
            self.database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        self._rows.clear()
        self._count = self._bytes = 0

    def add_frame(self, seq: int, part: Part, origin: tuple[str, int]) -> None:
        still_open, mask, words = counted(part.slots)
        self.words.update(words)
        self.frames += 1
        self.accepted += len(part.widths) - part.widths.count(0)
        self.add(
            "frames",
            (
                seq,
                part.at_us,
                part.source,
                int(part.fanned),
                int(part.inbox),
                part.widths,
                part.verdict,
                part.digests,
                part.body,
                part.config,
                part.rules,
            ),
        )
        notes = pack(part.notes) if part.notes else None
        self.add("ledger", (seq, still_open, mask, part.updated_ms, 0, part.slots.tobytes(), notes))
        for slot, (due_ms, _, _) in part.notes.items():
            value = part.slots[slot]
            in_digest = ledger.reason_of(value) == ledger.REASON["digest"]
            if due_ms is not None and ledger.outcome_of(value) == ledger.DEFERRED and not in_digest:
                self.add("timers", (ledger.lane_of_word(value), due_ms, seq, slot))
        self._add_origin(seq, *origin)

    def add_user(self, user_id: str, document: bytes) -> None:
        self.add("users", (user_id, document))
        for topic in topics_of(msgspec.msgpack.decode(document, type=UserDocument)):
            self._topics[topic] += 1
            if topic != EVERY_USER:
                self.add("subscriptions", (topic, user_id))

    def _add_origin(self, seq: int, generation: str, old: int) -> None:
        first, _, of, start = self._run
        if generation == of and old - start == seq - first:
            self._run = first, seq - first + 1, of, start
            return
        self._end_run()
        self._run = seq, 1, generation, old

    def _end_run(self) -> None:
        if self._run[1]:
            self.add("origins", self._run)

    def add_dead(self, row: tuple[Any, ...]) -> None:
        self.add("dead", row)
        counts = self.state.counters.dead_letters
        counts[row[6]] = counts.get(row[6], 0) + 1

    def post(self, item: bytes) -> None:
        self.state.outbox += 1
        self.add("outbox", (self.state.outbox, item))

    def seen(self, names: list[str]) -> dict[str, ChannelCounters]:
        """What the ledgers alone say of each channel."""
        found = {name: ChannelCounters() for name in names}
        for value, count in self.words.items():
            channel = found[names[ledger.channel_of(value)]]
            channel.planned += count
            channel.attempts += count * ledger.attempts_of(value)
            if ledger.outcome_of(value) not in ledger.OPEN:
                channel.outcomes[ledger.outcome_of(value)] += count
        return found

    def count_pending(self, names: list[str]) -> None:
        """Plan in this shard exactly what is pending in it."""
        channels = self.state.counters.channels = [ChannelCounters() for _ in names]
        for value, count in self.words.items():
            if ledger.outcome_of(value) in ledger.OPEN:
                self.pending[ledger.channel_of(value)] += count
        for channel, count in self.pending.items():
            channels[channel].planned = count

    def finish(self, names: list[str], merged: int) -> None:
        """Write what is left, and see it onto the disk."""
        self._end_run()
        for counted_topic in self._topics.items():
            self.add("topics", counted_topic)
        row = (1, pack(self.state))
        self.add("state", row)
        self.flush()
        schema.set_meta(self.database, "channels", pack(names))
        schema.set_meta(self.database, "merged", merged)
        self.database.execute("COMMIT")
        self.close()
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self.database.close()
