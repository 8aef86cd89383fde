"""Dead letters in the journal, and how they are looked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from shards.changes import Dead, Place
from shards.schema import checksum
from shards.tables.outbox import OutboxTable
from shards.tables.rows import Rows
from shards.validation import instant_ms
from shards.wire.encoding import pack
from shards.wire.outbox import DeadAdded, DeadLetter, DeadRemoved


class DeadTable:
    """What changes here is posted to the collector."""

    def __init__(self, rows: Rows, outbox: OutboxTable) -> None:
        self._rows = rows
        self._outbox = outbox

    def add(self, dead: list[Dead]) -> None:
        rows = []
        for seq, slot, letter in dead:
            row = (
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
            rows.append((*row, checksum(*row)))
        self._rows.many("INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._outbox.post([DeadAdded(letter) for _, _, letter in dead])

    def remove(self, places: list[Place]) -> None:
        ids = []
        for place in places:
            row = self._rows.run("DELETE FROM dead WHERE seq = ? AND slot = ? RETURNING id, channel", place).fetchone()
            ids.append((row[0], row[1]))
        self._outbox.post([DeadRemoved(ids)])

    def find(
        self, filters: dict[str, Any], count: int, channels: Sequence[str] | None = None
    ) -> Iterator[tuple[int, int, DeadLetter]]:
        """Dead letters that match all filters, the oldest first, one at a time: each may be large.

        With ``channels`` only what can be tried again there: no rejections, and none whose frame is no more.
        """
        where, values = dead_filter(filters)
        if channels is not None:
            where += f" AND slot >= 0 AND channel IN ({', '.join('?' * len(channels))})"
            where += " AND EXISTS (SELECT 1 FROM frames WHERE frames.seq = dead.seq)"
            values += channels
        places = self._rows.run(
            f"SELECT seq, slot FROM dead WHERE {where} ORDER BY died_at_ms, seq, slot LIMIT ?", (*values, count)
        ).fetchall()
        for place in places:
            letter = self.letter(*place)
            assert letter is not None
            yield *place, letter

    def letter(self, seq: int, slot: int) -> DeadLetter | None:
        """The dead letter of a delivery; None if there is none (any more)."""
        row = self._rows.run("SELECT * FROM dead WHERE seq = ? AND slot = ?", (seq, slot)).fetchone()
        return msgspec.msgpack.decode(self._rows.verified("dead", row)[-1], type=DeadLetter) if row else None


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
