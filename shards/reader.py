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

    Strict reading takes a file that nobody has open or will open, and whose log was checkpointed; it writes nothing.
    The other kind may replay the log into the file: give it a copy.
    """

    def __init__(self, path: Path, losses: list[Loss] | None = None) -> None:
        self.path = path
        self._losses = losses
        how = "immutable=1" if losses is None else "mode=rw"
        self.database = sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, isolation_level=None)
        self.database.text_factory = schema.text_of
        if losses is not None:
            self.database.execute("PRAGMA locking_mode = EXCLUSIVE")

    def close(self) -> None:
        self.database.close()

    def check_meta(self) -> bool:
        """Whether ``meta`` can be relied on."""
        try:
            schema.check_meta(self.path, self.database)
        except (sqlite3.Error, DamagedError) as error:
            self._lose("meta", str(error), error)
            return False
        return True

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
        last: tuple[Any, ...] | None = None
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
                where = "the beginning" if last is None else f"{first} {last[0]!r}"
                again = self._behind(table, last)
                upto = "" if again is None else f" up to {first} {again!r}"
                self._lose(table, f"rows after {where}{upto}", error)
                if again is None:
                    return
                cursor = self.database.execute(query.format(f"WHERE {first} >= ?"), (again,))

    def _behind(self, table: str, last: tuple[Any, ...] | None) -> Any:
        """A key behind a damaged page from which on rows can be read; None if there is none."""
        first = schema.key_columns(table)[0]
        for key in _text_probes(last) if table == "users" else _number_probes(last):
            try:
                row = self.database.execute(
                    f"SELECT * FROM {table} WHERE {first} >= ? ORDER BY {first} LIMIT 1", (key,)
                ).fetchone()
            except sqlite3.Error:
                continue
            return key if row is not None and row[0] >= key else None
        return None

    def _lose(self, table: str, what: str, error: Exception) -> None:
        if self._losses is None:
            raise error
        self._losses.append(Loss(table, what))


def _number_probes(last: tuple[Any, ...] | None) -> Iterator[int]:
    start = 0 if last is None else last[0]
    if last is None:
        yield from (INTEGER_MIN + 2**bits for bits in range(63))
    yield from range(start + 1, min(start + STEPS, INTEGER_MAX))
    for bits in range(10, 64):
        if start + 2**bits <= INTEGER_MAX:
            yield start + 2**bits


def _text_probes(last: tuple[Any, ...] | None) -> Iterator[str]:
    """Ever greater texts: "user-17" is followed by "user-18", "user-2", "user.", ..."""
    text = "" if last is None else last[0]
    for length in range(len(text), 0, -1):
        yield text[: length - 1] + chr(min(ord(text[length - 1]) + 1, 0x10FFFF))
    yield from (chr(code) for code in chain(range(1, 0x80), range(0x80, 0xD800, 0x80)) if chr(code) > text)
