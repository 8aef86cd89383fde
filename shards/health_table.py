"""The journal's part of contacts that do not work."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from shards.health import Contact, Health
from shards.schema import checksum, verified


class HealthTable:
    """Over the journal's connection, within its transactions."""

    path: Path
    database: sqlite3.Connection
    _health_stored: bool  # whether there may be any, which spares most installations the look

    def record_health(self, changed: Mapping[Contact, Health | None]) -> None:
        """Store what a turn has changed; None forgets."""
        for contact, health in changed.items():
            if health is None:
                self.database.execute("DELETE FROM health WHERE user_id = ? AND channel = ? AND contact = ?", contact)
                continue
            row = (*contact, *health)
            self.database.execute("INSERT OR REPLACE INTO health VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, checksum(*row)))
            self._health_stored = True

    def health_of(self, user_id: str) -> Iterator[tuple[str, str, Health]]:
        """Channel, contact and what is held against it."""
        if not self._health_stored:
            return
        for row in self.database.execute("SELECT * FROM health WHERE user_id = ?", (user_id,)).fetchall():
            _, channel, contact, *health = verified(self.path, "health", row)
            yield channel, contact, Health(*health)

    def failing(self) -> Iterator[Contact]:
        for row in self.database.execute("SELECT * FROM health WHERE state = 'failing'").fetchall():
            user_id, channel, contact, *_ = verified(self.path, "health", row)
            yield user_id, channel, contact
