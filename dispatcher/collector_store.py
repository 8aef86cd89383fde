"""collector.db: what the collector keeps for operators, and what it answers them from it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import orjson
import sqlite_utils

from shards.process import usage
from shards.tables.dead import dead_filter
from shards.wire.errors import RequestError
from shards.wire.outbox import DeadAdded, DeadLetter, DeadRemoved, Metrics, Outbox
from shards.wire.requests import PAGE_BYTES_MAX, Request

PAGE = 100


class Store:
    """collector.db: ``dead_letters``, ``metrics`` (per second, shard, channel and outcome) and ``progress``."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.tables = sqlite_utils.Database(self.connection)
        create: Any = self.tables.table
        create("progress").create(
            {"shard": int, "generation": str, "n": int}, pk=("shard", "generation"), if_not_exists=True
        )
        create("metrics").create(
            {"at_s": int, "shard": int, "channel": str, "outcome": str, "count": int},
            pk=("at_s", "shard", "channel", "outcome"),
            if_not_exists=True,
        )
        create("dead_letters").create(
            {
                "id": str,
                "channel": str,
                "user_id": str,
                "category": str,
                "reason": str,
                "error_class": str,
                "last_error": str,
                "attempts": int,
                "died_at_ms": int,
                "shard": int,
                "notification": str,
            },
            pk=("id", "channel"),
            if_not_exists=True,
        )
        create("dead_letters").create_index(["died_at_ms"], if_not_exists=True)
        path.chmod(0o600)

    def store(self, outbox: Outbox) -> int:
        """The items that are new, in one transaction; the number that is now reached."""
        run = self.connection.execute
        if self.connection.in_transaction:  # the last one failed
            run("ROLLBACK")
        run("BEGIN IMMEDIATE")
        row = run(
            "SELECT n FROM progress WHERE shard = ? AND generation = ?", (outbox.shard, outbox.generation)
        ).fetchone()
        reached = int(row[0]) if row else 0
        if outbox.first <= reached + 1:
            for n, item in enumerate(outbox.items, outbox.first):
                if n <= reached:
                    continue
                if isinstance(item, Metrics):
                    self._count(outbox.shard, item)
                elif isinstance(item, DeadAdded):
                    self._bury(outbox.shard, item.letter)
                elif isinstance(item, DeadRemoved):
                    self.connection.executemany(
                        "DELETE FROM dead_letters WHERE id = ? AND channel = ?",
                        [(letter, channel or "") for letter, channel in item.ids],
                    )
                reached = n
            run("INSERT OR REPLACE INTO progress VALUES (?, ?, ?)", (outbox.shard, outbox.generation, reached))
        run("COMMIT")
        return reached

    def _count(self, shard: int, metrics: Metrics) -> None:
        self.connection.executemany(
            "INSERT INTO metrics VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (at_s, shard, channel, outcome) DO UPDATE SET count = count + excluded.count",
            [(metrics.at_s, shard, channel, outcome, count) for channel, outcome, count in metrics.counts],
        )

    def _bury(self, shard: int, letter: DeadLetter) -> None:
        self.connection.execute(
            "INSERT OR REPLACE INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                letter.id,
                letter.channel or "",
                letter.user_id,
                letter.category,
                letter.reason,
                letter.error_class,
                letter.last_error,
                letter.attempts,
                letter.died_at_ms,
                shard,
                letter.notification.decode(),
            ),
        )

    def replace_letters(self, letters: list[tuple[int, DeadLetter]]) -> None:
        """Have exactly these dead letters of shards, in this order."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.execute("DELETE FROM dead_letters")
        for shard, letter in letters:
            self._bury(shard, letter)
        self.connection.execute("COMMIT")

    def dead(self, request: Request) -> dict[str, Any]:
        """A page of dead letters that match the request's filters, the oldest first."""
        where, values = dead_filter(
            {key: value for key, value in msgspec.to_builtins(request).items() if value is not None}
        )
        try:
            after = int(request.cursor or 0)
        except ValueError:
            raise RequestError("bad_value", "cursor is not one that dead.list answered", "cursor") from None
        limit = request.limit or PAGE
        rows = list(
            self.tables.query(
                f"SELECT rowid AS place, * FROM dead_letters WHERE {where} AND rowid > ? ORDER BY rowid LIMIT ?",
                (*values, after, limit + 1),
            )
        )
        ends, size = 0, 0
        for row in rows[:limit]:
            size += len(row["notification"])
            if ends and size > PAGE_BYTES_MAX:
                break
            ends += 1
        items = [
            {
                "id": row["id"],
                "user_id": row["user_id"],
                "channel": row["channel"] or None,
                "category": row["category"],
                "reason": row["reason"],
                "error_class": row["error_class"],
                "last_error": row["last_error"],
                "attempts": row["attempts"],
                "died_at": row["died_at_ms"],
                "notification": orjson.loads(row["notification"]),
            }
            for row in rows[:ends]
        ]
        return {"items": items, "next": rows[ends - 1]["place"] if len(rows) > ends else None}

    def stats(self) -> dict[str, Any]:
        count = self.connection.execute("SELECT count(*) FROM dead_letters").fetchone()[0]
        progress = {
            str(shard): n for shard, n in self.connection.execute("SELECT shard, max(n) FROM progress GROUP BY shard")
        }
        return {"dead_letters": count, "progress": progress, **usage()}

    def prune(self, before_s: int) -> None:
        self.connection.execute("DELETE FROM metrics WHERE at_s < ?", (before_s,))
