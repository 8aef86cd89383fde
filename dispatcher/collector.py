"""The collector's process: metrics and dead letters of all shards, in one SQLite file for operators.

Shards number what they send. Rows and the number reached are stored in one transaction and only then confirmed, so
that nothing is lost or counted twice, whoever is killed when.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
import orjson
import zmq

from dispatcher.child_settings import CollectorSettings
from shards import logs
from shards.dead_table import dead_filter
from shards.process import Stop, begin_child, say_ready, usage
from shards.wire import (
    COLLECTOR,
    PAGE_BYTES_MAX,
    RECONNECT_MS,
    DeadAdded,
    DeadLetter,
    DeadRemoved,
    Error,
    Metrics,
    Outbox,
    OutboxAck,
    Query,
    Reply,
    Request,
    RequestError,
    ToCollector,
    pack,
)

log = logs.logger()

POLL_MS = 200
MESSAGES_PER_TURN = 200
HWM = 10_000
METRICS_KEPT_S = 7 * 86_400
PRUNE_EVERY_S = 60.0
OPEN_EVERY_S = 0.5
PAGE = 100

TABLES = """
CREATE TABLE IF NOT EXISTS progress (shard INTEGER, generation TEXT, n INTEGER, PRIMARY KEY (shard, generation));
CREATE TABLE IF NOT EXISTS metrics (
    at_s INTEGER, shard INTEGER, channel TEXT, outcome TEXT, count INTEGER,
    PRIMARY KEY (at_s, shard, channel, outcome)
);
CREATE TABLE IF NOT EXISTS dead_letters (
    id TEXT, channel TEXT, user_id TEXT, category TEXT, reason TEXT, error_class TEXT, last_error TEXT,
    attempts INTEGER, died_at_ms INTEGER, shard INTEGER, notification TEXT,
    PRIMARY KEY (id, channel)
);
CREATE INDEX IF NOT EXISTS idx_dead_letters_died_at_ms ON dead_letters (died_at_ms);
"""

_to_collector = msgspec.msgpack.Decoder(ToCollector)


class Store:
    """collector.db: ``dead_letters``, ``metrics`` (per second, shard, channel and outcome) and ``progress``."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.executescript(TABLES)
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
        cursor = self.connection.cursor()
        cursor.row_factory = sqlite3.Row
        rows = cursor.execute(
            f"SELECT rowid AS place, * FROM dead_letters WHERE {where} AND rowid > ? ORDER BY rowid LIMIT ?",
            (*values, after, limit + 1),
        ).fetchall()
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


class Collector:
    """Stores what shards send, and answers operators, until it is told to stop."""

    def __init__(self, settings: CollectorSettings, stop: Stop) -> None:
        self.stop = stop
        self._path = Path(settings.path)
        self._failure = ""  # why nothing can be stored now
        self.store: Store | None = None
        self._open()
        self.context = zmq.Context(1)
        self.incoming = self.context.socket(zmq.PULL)
        self.incoming.set(zmq.RCVHWM, HWM)
        self.incoming.bind("ipc://run/collector")
        self.shards = [self._connect(f"ipc://run/control-{shard}") for shard in range(settings.shards)]
        self.router = self._connect("ipc://run/router")
        self.poller = zmq.Poller()
        self.poller.register(self.incoming, zmq.POLLIN)
        self.poller.register(stop.bell, zmq.POLLIN)
        self._next_step = 0.0

    def _open(self) -> None:
        """A full disk, or one that fails, is no reason to end: shards keep what was not confirmed."""
        try:
            self.store = Store(self._path)
        except (sqlite3.Error, OSError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if str(error) != self._failure:
            log.error("cannot be written: nothing is confirmed to the shards", file=str(self._path), error=str(error))
        self._failure = str(error)

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.PUSH)
        socket.set(zmq.SNDHWM, HWM)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.connect(endpoint)
        return socket

    def run(self) -> None:
        while not self.stop.requested:
            self.stop.other_settings()  # no more than the log's level can change
            if self.poller.poll(POLL_MS):
                self.stop.bell.hear()
                self._turn()
            if time.monotonic() >= self._next_step:
                self._next_step = time.monotonic() + self._step()
        if self.store:
            self.store.connection.close()
        self.context.destroy(linger=0)

    def _step(self) -> float:
        """What is to be done now and then; seconds until the next time."""
        if self.store is None:
            self._open()
            return OPEN_EVERY_S
        try:
            self.store.prune(int(time.time()) - METRICS_KEPT_S)
        except sqlite3.Error as error:
            self._fail(error)
        return PRUNE_EVERY_S

    def _turn(self) -> None:
        try:
            for _ in range(MESSAGES_PER_TURN):
                message = _to_collector.decode(self.incoming.recv(zmq.DONTWAIT))
                if isinstance(message, Outbox):
                    reached = self._stored(message)
                    if reached is not None:
                        self._send(self.shards[message.shard], OutboxAck(message.generation, reached))
                else:
                    self._send(self.router, self._reply(message))
        except zmq.Again:
            pass

    def _stored(self, outbox: Outbox) -> int | None:
        """The number that is now reached; None where it cannot be stored: the shard sends it again."""
        if self.store is None:
            return None
        try:
            reached = self.store.store(outbox)
        except sqlite3.Error as error:
            self._fail(error)
            return None
        if self._failure:
            log.warning("can be written again", file=str(self._path))
            self._failure = ""
        return reached

    def _reply(self, query: Query) -> Reply:
        if self.store is None:
            return Reply(query.query, COLLECTOR, error=Error("unavailable", f"{self._path}: {self._failure}"))
        try:
            if query.request.op == "stats":
                return Reply(query.query, COLLECTOR, self.store.stats())
            return Reply(query.query, COLLECTOR, self.store.dead(query.request))
        except RequestError as error:
            return Reply(query.query, COLLECTOR, error=error.error)
        except sqlite3.Error as error:
            log.exception("collector.db failed", op=query.request.op)
            return Reply(query.query, COLLECTOR, error=Error("unavailable", f"collector.db: {error}"))

    def _send(self, socket: zmq.Socket[bytes], message: msgspec.Struct) -> None:
        try:
            socket.send(pack(message), zmq.DONTWAIT)
        except zmq.Again:
            log.warning("answer not taken, it will be asked for again", answer=type(message).__name__)


def main() -> None:
    stop, line = begin_child("the collector")
    collector = Collector(msgspec.json.decode(line, type=CollectorSettings), stop)
    say_ready()
    collector.run()


if __name__ == "__main__":
    main()
