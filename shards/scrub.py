"""A look at every row of a journal, some at a time: damage is to be found before what it hit is needed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from shards import schema
from shards.schema import DamagedError

ROW_BYTES = 8_192  # what a row counts beside its blobs, by the time that it takes


class Scrub:
    """Goes around and around. ``step`` raises ``DamagedError`` for what it finds."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database
        self._at: tuple[str, tuple[Any, ...]] = ("ledger", ())  # table, and the key of the last row checked

    def step(self, bytes_max: int) -> None:
        """Check the next rows, from where the last call ended, and at the most once around."""
        tables = list(schema.TABLES)
        first = table = self._at[0]
        while bytes_max >= 0:
            bytes_max = self._check(table, bytes_max)
            if bytes_max >= 0:
                table = tables[(tables.index(table) + 1) % len(tables)]
                self._at = (table, ())
                if table == first:
                    return

    def _check(self, table: str, bytes_max: int) -> int:
        """What is left of the bytes; negative where the table did not end."""
        after = self._at[1]
        columns = schema.key_columns(table)
        keys = ", ".join(columns)
        where = f"WHERE ({keys}) > ({', '.join('?' * len(columns))})" if after else ""
        for row in self._database.execute(f"SELECT * FROM {table} {where} ORDER BY {keys}", after):
            schema.verified(self._path, table, row)
            if table == "ledger" and row[1]:
                self._check_index(row[0])
            after = row[: len(columns)]
            bytes_max -= ROW_BYTES + sum(len(value) for value in row if isinstance(value, bytes))
            if bytes_max < 0:
                self._at = (table, after)
                break
        return bytes_max

    def _check_index(self, seq: int) -> None:
        """An open frame that the index does not have would never be delivered."""
        found = self._database.execute("SELECT 1 FROM ledger INDEXED BY open_frames WHERE open > 0 AND seq = ?", (seq,))
        if found.fetchone() is None:
            raise DamagedError(f"{self._path}: the index of open frames does not have frame {seq}")
