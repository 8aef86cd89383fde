"""How a journal of an older format becomes one of this format."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import xxhash

from shards.schema import (
    FORMAT,
    INDEXES,
    NO_CHECKSUM,
    TABLES,
    JournalError,
    checksum,
    columns,
    create_indexes,
    create_table,
    meta,
    set_meta,
)
from shards.wire.notification import EVERY_USER

_OLD_INDEXES: dict[int, tuple[str, ...]] = {
    1: ("open_frames",),
    2: ("open_frames", "origin"),
    3: tuple(name for name in INDEXES if name != "failing"),
}
# table -> the format that brought it, and its columns since then, with what they are in older rows
_SINCE = {
    "origins": 2, "suspects": 2,
    "timers": 3, "limits": 3, "digests": 3, "subscriptions": 3, "topics": 3, "broadcasts": 3, "pages": 3, "configs": 3,
    "health": 4,
}  # fmt: skip
_ADDED_IN_3 = {"frames": {"config": "0", "rules": "NULL"}, "results": {"at_ms": "0"}}


def migrate(path: Path, database: sqlite3.Connection) -> None:
    """Bring an older format to this one, in the open transaction; raises ``JournalError`` for a newer one."""
    found = meta(database, "format")
    if found == FORMAT:
        return
    if found not in _OLD_INDEXES:
        raise JournalError(
            f"{path} has format {found}, and this version reads formats 1 to {FORMAT}: "
            "use the version of the dispatcher that wrote it, or a newer one"
        )
    database.create_function("checksum", -1, checksum, deterministic=True)
    database.create_function("body_checksum", 1, lambda body: xxhash.xxh3_64_intdigest(body) >> 1, deterministic=True)
    for index in _OLD_INDEXES[found]:
        database.execute(f"DROP INDEX {index}")
    for table in TABLES:
        if _SINCE.get(table, 1) > found:
            create_table(database, table)
        elif found == 1 or (found < 3 and table in _ADDED_IN_3):
            _copy_table(database, table, found)
    create_indexes(database)
    if found < 3:
        _count_users(database)
    set_meta(database, "format", FORMAT)


def _count_users(database: sqlite3.Connection) -> None:
    """The topic of every user, from the documents there are."""
    row = (EVERY_USER, database.execute("SELECT count(*) FROM users").fetchone()[0])
    if row[1]:
        database.execute("INSERT INTO topics VALUES (?, ?, ?)", (*row, checksum(*row)))


def _copy_table(database: sqlite3.Connection, table: str, found: int) -> None:
    """The rows of an older format, with checksums over what they have now. What was damaged is to stay so."""
    added = _ADDED_IN_3.get(table, {})
    old = ", ".join(name for name in columns(table) if name not in added)
    new = ", ".join(added.get(name, name) for name in columns(table))
    # of format 1 only bodies had a checksum
    was_good = f"checksum({old}) = crc" if found > 1 else "body_checksum(body) = crc" if table == "frames" else "1"
    database.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    create_table(database, table)
    database.execute(
        f"INSERT INTO {table} SELECT {new}, iif({was_good}, checksum({new}), {NO_CHECKSUM}) FROM old_{table}"
    )
    database.execute(f"DROP TABLE old_{table}")
