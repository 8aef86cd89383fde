"""What all tables of the journal are read and written through. Every row ends with a checksum of its other columns."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from shards import schema


class Rows:
    """``run`` and ``many`` execute a statement, once or for many values."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self.run = database.execute
        self.many = database.executemany

    def get(self, table: str, key: object) -> tuple[Any, ...] | None:
        """The row with this key in the table's first column, without its checksum, which is right."""
        name = schema.columns(table)[0]
        row = self.run(f"SELECT * FROM {table} WHERE {name} = ?", (key,)).fetchone()
        return schema.verified(self.path, table, row) if row else None

    def verified(self, table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """A whole row without its checksum; raises ``DamagedError`` where that does not match."""
        return schema.verified(self.path, table, row)

    def any(self, table: str) -> bool:
        return self.run(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None
