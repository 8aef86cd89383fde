"""A journal that no shard holds, read row by row: strictly, or stepping over what is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from shards import schema
from shards.schema import DamagedError

STEPS = 1_000  # keys tried one by one behind a damaged page, before the steps double: a leaf has fewer rows
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1


class Loss(NamedTuple):
    """What cannot be read: rows of a table, in words."""

    table: str
    what: str


class Reader:
    """Strict without ``losses``: raises ``DamagedError`` or ``sqlite3.Error``. With it, tells there what is lost.

    Nobody else may have the journal open. It is not written to.
    """

    def __init__(self, path: Path, losses: list[Loss] | None = None) -> None:
        self.path = path
        self._losses = losses
        # beside a log, SQLite makes a third file: reading such a journal needs a directory for it
        how = "mode=ro" if schema.log_path(path).exists() else "immutable=1"
        self.database = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, isolation_level=None)
        self.database.text_factory = schema.text_of

    def close(self) -> None:
        self.database.close()

    def meta(self) -> dict[str, Any]:
        """What ``meta`` says; nothing where that cannot be relied on."""
        try:
            schema.check_meta(self.path, self.database)
            return dict(self.database.execute("SELECT key, value FROM meta").fetchall())
        except (sqlite3.Error, DamagedError) as error:
            self._lose("meta", str(error), error)
            return {}

    def count(self, table: str) -> int:
        """How many rows there are; 0 where that cannot be read."""
        try:
            return int(self.database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        except sqlite3.Error as error:
            self._lose(table, "the number of its rows", error)
            return 0

    def row(self, table: str, key: object) -> tuple[Any, ...] | None:
        """The row with this key in the first column, without its checksum; None if there is none, or it is lost."""
        name = schema.columns(table)[0]
        try:
            row = self.database.execute(f"SELECT * FROM {table} WHERE {name} = ?", (key,)).fetchone()
            return schema.verified(self.path, table, row) if row else None
        except (sqlite3.Error, DamagedError) as error:
            self._lose(table, f"{name} {key!r}", error)
            return None

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        """All rows in the order of their keys, without their checksums."""
        keys = schema.key_columns(table)
        first, width = keys[0], len(keys)
        query = f"SELECT * FROM {table} {{}} ORDER BY {', '.join(keys)}"
        last: tuple[Any, ...] | None = None  # the key of the last good row
        floor: Any = None  # what is to be read next is above it
        cursor: Iterator[tuple[Any, ...]] | None = None
        while True:
            try:
                cursor = cursor or self.database.execute(query.format(""))
                for row in cursor:
                    key = row[:width]
                    if last is not None and not key > last:
                        raise DamagedError(f"{self.path}: the rows of table {table} are out of order at {key!r}")
                    try:
                        good = schema.verified(self.path, table, row)
                    except DamagedError as error:
                        self._lose(table, f"{first} {key[0]!r}", error)
                        continue
                    last = key
                    yield good
                return
            except (sqlite3.Error, DamagedError, TypeError) as error:  # TypeError: a key of another type
                if last is not None and (floor is None or last[0] > floor):
                    floor = last[0]
                where = "the beginning" if floor is None else f"{first} {floor!r}"
                floor, cursor = self._behind(table, floor)
                self._lose(table, f"rows after {where}{'' if floor is None else f', before {first} {floor!r}'}", error)
                if cursor is None:
                    return

    def _behind(self, table: str, floor: Any) -> tuple[Any, Iterator[tuple[Any, ...]] | None]:
        """The next key that can be reached behind a damaged page, and the rows from there on; None without any."""
        keys = schema.key_columns(table)
        query = f"SELECT * FROM {table} WHERE {keys[0]} >= ? ORDER BY {', '.join(keys)}"
        probes: Iterator[Any] = _text_probes(floor or "") if schema.has_text_key(table) else _number_probes(floor)
        for key in probes:
            try:
                row = self.database.execute(query + " LIMIT 1", (key,)).fetchone()
                if row is None:
                    return None, None
                if type(row[0]) is type(key) and row[0] >= key:
                    return row[0], self.database.execute(query, (row[0],))
            except sqlite3.Error:
                continue
        return None, None

    def _lose(self, table: str, what: str, error: Exception) -> None:
        if self._losses is None:
            raise error
        self._losses.append(Loss(table, what))


def _number_probes(floor: int | None) -> Iterator[int]:
    start = 0 if floor is None else floor
    if floor is None:
        yield from (INTEGER_MIN + 2**bits for bits in range(63))
    yield from range(start + 1, min(start + STEPS, INTEGER_MAX))
    for bits in range(10, 64):
        if start + 2**bits <= INTEGER_MAX:
            yield start + 2**bits


def _text_probes(floor: str) -> Iterator[str]:
    """Ever greater texts: "user-17" is followed by "user-18", "user-2", "user.", ..."""
    for length in range(len(floor), 0, -1):
        yield floor[: length - 1] + chr(min(ord(floor[length - 1]) + 1, 0x10FFFF))
    yield from (chr(code) for code in chain(range(1, 0x80), range(0x80, 0xD800, 0x80)) if chr(code) > floor)
