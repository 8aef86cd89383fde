"""Deliveries that were under way when the shard died, and how often it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shards.changes import Place
from shards.marks import Mark
from shards.schema import checksum
from shards.tables.rows import Rows


class SuspectTable:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def add(self, found: Iterable[Mark], is_open: Callable[[Place], bool]) -> dict[Place, int]:
        """What was under way now, within the transaction; all suspects, with their crashes."""
        run = self._rows.run
        known = {(seq, slot): crashes for seq, slot, crashes, _ in run("SELECT * FROM suspects")}
        for mark in found:
            place = mark.seq, mark.slot
            if is_open(place) and (mark.alone or place not in known):
                row = (*place, known.get(place, 0) + 1)
                known[place] = row[2]
                run("INSERT OR REPLACE INTO suspects VALUES (?, ?, ?, ?)", (*row, checksum(*row)))
        return known

    def acquit(self, places: Iterable[Place]) -> None:
        self._rows.many("DELETE FROM suspects WHERE seq = ? AND slot = ?", places)
