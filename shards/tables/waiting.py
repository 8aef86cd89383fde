"""What waits: the timers of deferred deliveries, and digests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shards.deferrals import Timer
from shards.digests import PLACE_SHIFT, Digest
from shards.schema import checksum
from shards.tables.rows import Rows

PLACES_ASKED = 500  # in one query


class WaitingTables:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._digests_stored = rows.any("digests")  # whether there are any: most installations have none

    def record_deferrals(self, added: Iterable[Timer], removed: list[Timer]) -> None:
        """Within the transaction."""
        many = self._rows.many
        if removed:
            many("DELETE FROM timers WHERE lane = ? AND due_ms = ? AND seq = ? AND slot = ?", removed)
        rows = [(*timer, checksum(*timer)) for timer in added]
        if rows:
            many("INSERT OR REPLACE INTO timers VALUES (?, ?, ?, ?, ?)", rows)

    def timers(self, lane: int, now_ms: int, count: int) -> list[Timer]:
        """Deferred deliveries of a lane that are due, those that waited longest first."""
        rows = self._rows.run(
            "SELECT * FROM timers WHERE lane = ? AND due_ms <= ? ORDER BY due_ms, seq, slot LIMIT ?",
            (lane, now_ms, count),
        )
        return [Timer(*self._rows.verified("timers", row)) for row in rows]

    def due_after(self, lane: int, timers: list[Timer]) -> int | None:
        """When what is left of a lane without these, its first ones, is due."""
        after = timers[-1][1:] if timers else (-1, 0, 0)
        row = self._rows.run(
            "SELECT due_ms FROM timers WHERE lane = ? AND (due_ms, seq, slot) > (?, ?, ?) "
            "ORDER BY due_ms, seq, slot LIMIT 1",
            (lane, *after),
        ).fetchone()
        return None if row is None else int(row[0])

    def first_dues(self) -> dict[int, int]:
        """By lane, when its first deferred delivery is due."""
        return dict(self._rows.run("SELECT lane, min(due_ms) FROM timers GROUP BY lane").fetchall())

    def deferred(self) -> dict[int, int]:
        """By lane, how many wait."""
        return dict(self._rows.run("SELECT lane, count(*) FROM timers GROUP BY lane").fetchall())

    # --- digests -----------------------------------------------------------------------------------------------

    def record_digests(self, changed: Mapping[str, Digest | None]) -> None:
        """Within the transaction; None removes one."""
        for identifier, digest in changed.items():
            if digest is None:
                self._rows.run("DELETE FROM digests WHERE id = ?", (identifier,))
                continue
            row = digest.row()
            self._rows.run("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, checksum(*row)))
            self._digests_stored = True

    def prune_digests(self, seqs: Iterable[int]) -> None:
        """Within the transaction: those that were sent by way of deliveries of these frames."""
        if self._digests_stored:
            ranges = [(seq << PLACE_SHIFT, (seq + 1) << PLACE_SHIFT) for seq in seqs]
            self._rows.many("DELETE FROM digests WHERE carrier >= ? AND carrier < ?", ranges)

    def first_windows(self) -> dict[int, int]:
        """By lane, when its first digest closes."""
        found = self._rows.run(
            "SELECT lane, min(due_ms) FROM digests WHERE due_ms IS NOT NULL GROUP BY lane"
        ).fetchall()
        return dict(found)

    def due_windows(self, lane: int, now_ms: int, count: int) -> list[Digest]:
        """Windows of a lane that are over, the first ones first."""
        return self._digests(
            "SELECT * FROM digests WHERE due_ms IS NOT NULL AND lane = ? AND due_ms <= ? ORDER BY due_ms LIMIT ?",
            (lane, now_ms, count),
        )

    def window_due_after(self, lane: int, now_ms: int) -> int | None:
        row = self._rows.run(
            "SELECT min(due_ms) FROM digests WHERE due_ms IS NOT NULL AND lane = ? AND due_ms > ?", (lane, now_ms)
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def open_window(self, window: str) -> Digest | None:
        """The newest one of those with this name."""
        found = self._digests(
            "SELECT * FROM digests WHERE due_ms IS NOT NULL AND window = ? ORDER BY due_ms DESC LIMIT 1", (window,)
        )
        return found[0] if found else None

    def digests_of(self, seq: int) -> list[Digest]:
        """Those that are sent by way of a delivery of the frame."""
        if not self._digests_stored:
            return []
        return self._digests(
            "SELECT * FROM digests WHERE carrier >= ? AND carrier < ?", (seq << PLACE_SHIFT, (seq + 1) << PLACE_SHIFT)
        )

    def digests_holding(self, prefix: str, place: int) -> list[Digest]:
        """Those of a user and channel, which begin the names of their windows, that have an item."""
        found = self._digests("SELECT * FROM digests WHERE window >= ? AND window < ?", (prefix, prefix[:-1] + "\1"))
        return [digest for digest in found if place in digest.places]

    def digests_at(self, places: Sequence[int]) -> list[Digest]:
        """Those that are sent by way of one of these deliveries, on whatever channel."""
        found: list[Digest] = []
        for start in range(0, len(places) if self._digests_stored else 0, PLACES_ASKED):
            some = tuple(places[start : start + PLACES_ASKED])
            found += self._digests(f"SELECT * FROM digests WHERE carrier IN ({', '.join('?' * len(some))})", some)
        return found

    def _digests(self, query: str, values: tuple[object, ...]) -> list[Digest]:
        rows = self._rows.run(query, values).fetchall()
        return [msgspec.msgpack.decode(self._rows.verified("digests", row)[-1], type=Digest) for row in rows]
