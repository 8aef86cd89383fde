"""What does it cost to journal a notification? A turn of frames in one transaction, beside bare rows of the bodies."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path
from typing import Any, Literal

from bench.report import Figure, disk_directory, medians, options, result, seconds, show
from dispatcher.settings import Settings
from dispatcher.simulation.workload import batches
from shards.changes import Now
from shards.core import Core
from shards.counters import ChannelCounters
from shards.journal import SqliteJournal
from shards.schema import CACHE_KIB, CHECKPOINT_PAGES, PAGE_BYTES
from shards.settings import ShardSettings
from shards.wire.encoding import pack
from shards.wire.link import SUBMIT, Data
from shards.wire.notification import CHANNELS

TURN_FRAMES = 256
Durability = Literal["power", "process"]
DURABILITIES: tuple[Durability, ...] = ("power", "process")


class Shard:
    """A core with its journal, without the process around them."""

    def __init__(self, path: Path, durability: Durability) -> None:
        settings = Settings()
        self.journal = SqliteJournal(path, 0, 1, durability, CHANNELS)
        counters = self.journal.state.counters
        counters.channels = [ChannelCounters() for _ in self.journal.channel_names]
        self.core = Core(
            ShardSettings(
                shard=0,
                shards=1,
                path=str(path),
                durability=durability,
                incarnation=1,
                secret=1,
                categories=settings.categories,
                rate_limits=settings.rate_limits,
                retry=settings.retry,
                priorities=settings.priorities,
                idempotency=settings.idempotency,
                retention=settings.retention,
                bounds=settings.bounds,
                channels=settings.channels,
            ),
            self.journal.channel_names,
            self.journal,
            counters,
            random.Random(1).random,
        )
        self.seq = 0

    def turn(self, bodies: list[bytes]) -> float:
        """Seconds that storing takes; judging the frames is not part of it."""
        now = Now(time.monotonic(), time.time_ns() // 1000)
        for body in bodies:
            self.seq += 1
            self.core.receive(Data(1, 0, 1, self.seq, SUBMIT, now.wall_us, False, body), self.seq, now)
        self.core.deliver_inapp(now)
        spent = seconds(lambda: self._store(now))
        self.core.committed()
        return spent

    def _store(self, now: Now) -> None:
        self.journal.begin()
        self.journal.record(self.core.changes, now.wall_us // 1000)
        self.journal.save_state()
        self.journal.commit()


class Bare:
    """One row per frame, and nothing else."""

    def __init__(self, path: Path, durability: Durability) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.executescript(
            f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
            f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; PRAGMA cache_size = -{CACHE_KIB};"
            f"PRAGMA cache_spill = OFF; PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'};"
            "CREATE TABLE frames(seq INTEGER PRIMARY KEY, body BLOB);"
        )

    def turn(self, bodies: list[bytes]) -> float:
        return seconds(lambda: self._store(bodies))

    def _store(self, bodies: list[bytes]) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        self.database.executemany("INSERT INTO frames(body) VALUES (?)", [(body,) for body in bodies])
        self.database.execute("COMMIT")


def run(rounds: int = 3, items: int = 100_000) -> dict[str, Any]:
    figures = []
    for size in (500, 100, 1):
        count = items if size > 1 else items // 5
        per_turn = max(1, min(TURN_FRAMES, 8_192 // size))
        for durability in DURABILITIES:
            with disk_directory() as directory:
                shard, bare = Shard(directory / "shard.db", durability), Bare(directory / "bare.db", durability)
                producers = iter(range(10**9))
                value, floor = medians(
                    rounds,
                    lambda: _ns(shard, next(producers), count, size, per_turn),  # noqa: B023
                    lambda: _ns(bare, next(producers), count, size, per_turn),  # noqa: B023
                )
                shard.journal.close()
                bare.database.close()
            figures.append(Figure(f"frames of {size}, {durability}", value, floor, "ns/item"))
    return result("journal", rounds, figures, items=items)


def _ns(store: Shard | Bare, producer: int, items: int, size: int, per_turn: int) -> float:
    bodies = [pack(batch) for batch in batches(1, producer, items, 10_000, 0.0, size)]
    return sum(store.turn(bodies[at : at + per_turn]) for at in range(0, len(bodies), per_turn)) / items * 1e9


def main() -> None:
    chosen = options("bench.journal", __doc__, 3, items=100_000)
    show(run(chosen.rounds, chosen.items), chosen.json)


if __name__ == "__main__":
    main()
