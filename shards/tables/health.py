"""Contacts that do not work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shards.health import Contact, Health
from shards.schema import checksum
from shards.tables.rows import Rows


class HealthTable:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._stored = rows.any("health")  # whether there may be any, which spares most installations the look

    def record(self, changed: Mapping[Contact, Health | None]) -> None:
        """Store what a turn has changed; None forgets."""
        for contact, health in changed.items():
            if health is None:
                self._rows.run("DELETE FROM health WHERE user_id = ? AND channel = ? AND contact = ?", contact)
                continue
            row = (*contact, *health)
            self._rows.run("INSERT OR REPLACE INTO health VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, checksum(*row)))
            self._stored = True

    def health_of(self, user_id: str) -> Iterator[tuple[str, str, Health]]:
        """Channel, contact and what is held against it."""
        if not self._stored:
            return
        for row in self._rows.run("SELECT * FROM health WHERE user_id = ?", (user_id,)).fetchall():
            _, channel, contact, *health = self._rows.verified("health", row)
            yield channel, contact, Health(*health)

    def failing(self) -> Iterator[Contact]:
        for row in self._rows.run("SELECT * FROM health WHERE state = 'failing'").fetchall():
            user_id, channel, contact, *_ = self._rows.verified("health", row)
            yield user_id, channel, contact
