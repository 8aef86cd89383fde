"""What an error of SQLite or of the file system means for a shard."""

from __future__ import annotations

import sqlite3

from shards.schema import DamagedError

# that pass when space returns, the disk answers again, or whoever holds the file lets it go
_PASSING = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
    }
)
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def is_passing(error: Exception) -> bool:
    """Whether it is worth trying again later."""
    return isinstance(error, OSError) or _code(error) in _PASSING


def is_damage(error: Exception) -> bool:
    """Whether the journal is not what was written."""
    return isinstance(error, DamagedError) or _code(error) in _DAMAGE


def _code(error: Exception) -> int | None:
    """SQLite's primary error code."""
    return error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) and _has_code(error) else None


def _has_code(error: sqlite3.Error) -> bool:
    return hasattr(error, "sqlite_errorcode")  # errors of the module itself, such as of a closed connection, have none
