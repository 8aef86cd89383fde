"""Topics on disk: who is subscribed to what, and the broadcasts with the frames that came of them.

The subscriptions are an index of the users' documents, and change with them. Call what writes within the journal's
transaction. Raises ``DamagedError`` for what is not as it was written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from shards.broadcast import Broadcast
from shards.schema import checksum
from shards.tables.rows import Rows
from shards.wire.encoding import pack
from shards.wire.notification import EVERY_USER

LIKELY_SHARED = 2  # characters that a misspelt name most often has in common with what was meant
_broadcast = msgspec.msgpack.Decoder(Broadcast)


class TopicTables:
    def __init__(self, rows: Rows) -> None:
        self._verified = rows.verified
        self._run = rows.run
        self._many = rows.many

    # --- subscriptions -----------------------------------------------------------------------------------------

    def change(self, user_id: str, before: Collection[str], after: Collection[str]) -> None:
        """A user's topics were ``before``, and are ``after``; that of every user is one of them."""
        for topic in after:
            if topic not in before:
                self._count(topic, 1)
                if topic != EVERY_USER:
                    row = (topic, user_id)
                    self._run("INSERT OR REPLACE INTO subscriptions VALUES (?, ?, ?)", (*row, checksum(*row)))
        for topic in before:
            if topic not in after:
                self._count(topic, -1)
                self._run("DELETE FROM subscriptions WHERE topic = ? AND user_id = ?", (topic, user_id))

    def _count(self, topic: str, more: int) -> None:
        row = (topic, self.users(topic) + more)
        if row[1] > 0:
            self._run("INSERT OR REPLACE INTO topics VALUES (?, ?, ?)", (*row, checksum(*row)))
        else:
            self._run("DELETE FROM topics WHERE topic = ?", (topic,))

    def users(self, topic: str) -> int:
        """How many users of this shard a topic has."""
        row = self._run("SELECT * FROM topics WHERE topic = ?", (topic,)).fetchone()
        return int(self._verified("topics", row)[1]) if row else 0

    def near(self, topic: str, count: int) -> list[str]:
        """Names among which a misspelt one may be meant: those that begin like it, and the first of all."""
        query = "SELECT topic FROM topics WHERE topic >= ? AND topic <> ? ORDER BY topic LIMIT ?"
        starts = dict.fromkeys((topic[:LIKELY_SHARED], ""))
        return sorted({name for start in starts for (name,) in self._run(query, (start, EVERY_USER, count))})

    def page(self, topic: str, after: str, count: int) -> list[str]:
        """At most ``count`` users of a topic, in the order of their ids, from behind ``after`` on."""
        if topic == EVERY_USER:
            found = self._run("SELECT user_id FROM users WHERE user_id > ? ORDER BY user_id LIMIT ?", (after, count))
            return [user_id for (user_id,) in found]
        found = self._run(
            "SELECT * FROM subscriptions WHERE topic = ? AND user_id > ? ORDER BY user_id LIMIT ?",
            (topic, after, count),
        )
        return [self._verified("subscriptions", row)[1] for row in found]

    # --- broadcasts --------------------------------------------------------------------------------------------

    def save(self, broadcasts: Iterable[Broadcast], pages: Iterable[tuple[str, int]]) -> None:
        """``pages`` are ``(id, seq)`` of the frames that came of broadcasts in this turn."""
        rows = [row_of(broadcast) for broadcast in broadcasts]
        self._many("INSERT OR REPLACE INTO broadcasts VALUES (?, ?, ?, ?)", [(*row, checksum(*row)) for row in rows])
        self._many("INSERT INTO pages VALUES (?, ?, ?)", [(*page, checksum(*page)) for page in pages])

    def open_broadcasts(self) -> list[Broadcast]:
        """Those that are not expanded yet, the oldest first."""
        rows = self._run("SELECT * FROM broadcasts WHERE finished_ms IS NULL")
        return sorted(map(self._decoded, rows), key=lambda one: (one.created_ms, one.id))

    def finished_broadcasts(self, count: int) -> list[Broadcast]:
        """The last ones."""
        query = "SELECT * FROM broadcasts WHERE finished_ms IS NOT NULL ORDER BY finished_ms DESC LIMIT ?"
        return list(map(self._decoded, self._run(query, (count,))))

    def broadcast(self, id_: str) -> Broadcast | None:
        row = self._run("SELECT * FROM broadcasts WHERE id = ?", (id_,)).fetchone()
        return self._decoded(row) if row else None

    def _decoded(self, row: tuple[object, ...]) -> Broadcast:
        return broadcast_of(self._verified("broadcasts", row))

    def pages(self, id_: str) -> list[int]:
        """The frames that came of a broadcast; some may be pruned."""
        return [self._verified("pages", row)[1] for row in self._run("SELECT * FROM pages WHERE id = ?", (id_,))]

    def open_pages(self, id_: str) -> list[tuple[int, int]]:
        """The frames in which something is open, and how much, as the ledgers were last written."""
        query = "SELECT seq, open FROM pages CROSS JOIN ledger USING (seq) WHERE id = ? AND open > 0"
        return self._run(query, (id_,)).fetchall()

    def last_open_page(self, id_: str, before: int) -> int | None:
        """The last frame before ``before`` in which something is open, as the ledgers were last written."""
        query = (
            "SELECT seq FROM pages CROSS JOIN ledger USING (seq) WHERE id = ? AND seq < ? AND open > 0 "
            "ORDER BY seq DESC LIMIT 1"
        )
        row = self._run(query, (id_, before)).fetchone()
        return row[0] if row else None

    def old_broadcasts(self, before_ms: int, count: int) -> list[str]:
        """Broadcasts that ended before then."""
        query = "SELECT id FROM broadcasts WHERE finished_ms IS NOT NULL AND finished_ms < ? LIMIT ?"
        return [id_ for (id_,) in self._run(query, (before_ms, count))]

    def forget(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._run("DELETE FROM pages WHERE id = ?", (id_,))
            self._run("DELETE FROM broadcasts WHERE id = ?", (id_,))


def row_of(broadcast: Broadcast) -> tuple[str, int | None, bytes]:
    return broadcast.id, broadcast.finished_ms, pack(broadcast)


def broadcast_of(row: tuple[object, ...]) -> Broadcast:
    value = row[2]
    assert isinstance(value, bytes)
    return _broadcast.decode(value)
