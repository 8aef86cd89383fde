"""The shard's disk and its end: crashes between any two steps that the world can see, and statements that fail.

Every statement of the journal passes through ``Disk``; every socket call and every start of an attempt passes by its
fuse. What happens between two such places is in memory, and is lost by a crash at either of them alike.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NoReturn

CODES = {"database or disk is full": sqlite3.SQLITE_FULL, "disk I/O error": sqlite3.SQLITE_IOERR}
READ_ONLY = ("SELECT", "PRAGMA")

_allocate = os.posix_fallocate


class Crash(BaseException):
    """The process is gone, right here."""


class Fuse:
    """Counts the places where a crash is worth something; the armed one crashes."""

    def __init__(self) -> None:
        self.left = -1
        self.lives = False  # the shard is running; otherwise it is somebody else who looks at its disk
        self.blown = False  # it has crashed: it does nothing any more

    @contextmanager
    def live(self) -> Iterator[None]:
        self.lives = True
        self.blown = False
        try:
            yield
        finally:
            self.lives = False

    def reached(self, place: str) -> None:
        if self.lives and self.left >= 0:
            self.left -= 1
            if self.left < 0:
                self.blow(place)

    def blow(self, place: str) -> NoReturn:
        self.blown = True
        raise Crash(place)


class Disk:
    """``committed`` is called right after each commit, whether or not the shard lives to see it."""

    def __init__(self, random: Random, fuse: Fuse, committed: Callable[[sqlite3.Connection], None]) -> None:
        self.failed = 0  # statements
        self._random = random
        self._fuse = fuse
        self._committed = committed
        self._message = ""
        self._left = 0  # statements, until it starts to fail
        self._healed = True
        self._open: set[DiskConnection] = set()
        self.is_uncommitted = False  # a transaction began that was not committed

    def connect(self, *arguments: Any, **named: Any) -> sqlite3.Connection:
        """In the place of ``sqlite3.connect``."""
        connection = DiskConnection(*arguments, **named)
        connection.disk = self
        self._open.add(connection)
        return connection

    def close(self) -> None:
        """The process has ended, and with it what it had open."""
        while self._open:
            sqlite3.Connection.close(self._open.pop())

    def closed(self, connection: DiskConnection) -> bool:
        """Whether the process still lived to do it."""
        if self._fuse.blown:
            return False
        self._open.discard(connection)
        return True

    def allocate(self, descriptor: int, offset: int, length: int) -> None:
        """In the place of ``os.posix_fallocate``."""
        self._fuse.reached("before an allocation")
        if self.is_failing and self._fuse.lives and self._random.random() < 0.3:
            self.failed += 1
            raise OSError(errno.ENOSPC if self._random.random() < 0.5 else errno.EIO, "no space, as it is simulated")
        _allocate(descriptor, offset, length)

    def fail(self, after: int) -> None:
        """Soon, and until ``heal``, what is written fails; an I/O error also takes what is read."""
        self._message = self._random.choice(list(CODES))
        self._left = after
        self._healed = False

    def heal(self) -> None:
        self._healed = True

    @property
    def is_failing(self) -> bool:
        return not self._healed and self._left <= 0

    def run(self, connection: DiskConnection, call: Callable[..., Any], statement: str, arguments: Any) -> Any:
        verb = statement.strip().partition(" ")[0].upper()
        self._fuse.reached(f"before {statement[:40]!r}")
        error = self._error(connection, verb) if not self._healed and self._fuse.lives else None
        result = None
        if error is None or (verb == "COMMIT" and self._random.random() < 0.3):  # an error may come after the fact
            result = call(statement, *arguments)
            self.is_uncommitted = verb == "BEGIN" or (self.is_uncommitted and verb != "COMMIT")
            if verb == "COMMIT":
                self._committed(connection)
                self._fuse.reached("after COMMIT")
        if error is not None:
            raise error
        return result

    def _error(self, connection: DiskConnection, verb: str) -> sqlite3.OperationalError | None:
        if verb == "ROLLBACK" or (verb in READ_ONLY and CODES[self._message] != sqlite3.SQLITE_IOERR):
            return None
        self._left -= 1
        if self._left > 0:
            return None
        self.failed += 1
        if verb != "COMMIT" and connection.in_transaction and self._random.random() < 0.5:
            connection.rollback()  # as SQLite itself does after some of these errors
        error = sqlite3.OperationalError(self._message)
        error.sqlite_errorcode = CODES[self._message]
        return error


class DiskConnection(sqlite3.Connection):
    disk: Disk

    def close(self) -> None:
        if self.disk.closed(self):
            super().close()

    def execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.disk.run(self, super().execute, statement, arguments)
        return cursor

    def executemany(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.disk.run(self, super().executemany, statement, arguments)
        return cursor
