"""The in-app inbox: per user a numbered list of places in the journal, oldest first.

An entry is a place, not a copy. New entries go to a tail, one blob per transaction; when the tail is long, it is
sorted into one row per user, some users at a time: of a broadcast each entry is another user's. So an entry costs a few
bytes of a blob, and reading an inbox looks at few rows.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from shards.schema import checksum, verified

PLACE_SHIFT = 16  # place = seq << 16 | index
TAIL_MAX = 50_000  # entries
SORTED_USERS = 500  # rows of users in one transaction: they delay whatever comes in
MARK = 0  # the row of the tail that says how far sorting in has come
NUMBER_BYTES = 8
UNSEEN = "new"  # the state of an entry that nobody has marked


class Inbox:
    """Numbers are per user, from 1, without gaps. Call ``append`` within the journal's transaction.

    Raises ``DamagedError`` for what is not as it was written: sorted in, it would look as if it were.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database
        self._turn = 0  # the last row of the tail
        self._index: dict[int, array[int]] = {}  # user hash -> places, of what is not being sorted in,
        self._size = 0  # and how many entries that are
        self._old: dict[int, array[int]] = {}  # the same, of what is being sorted in
        self._rest: list[int] = []  # its users, the next one last
        self._until = 0  # the last row of what is being sorted in
        rows = [verified(path, "inbox_tail", row) for row in database.execute("SELECT * FROM inbox_tail ORDER BY id")]
        self._until, _ = mark_of(rows)
        for turn, user_hash, place in unsorted(rows):
            _add(self._old if turn <= self._until else self._index, [(user_hash, place)])
            self._size += turn > self._until
        self._turn = rows[-1][0] if rows else 0
        self._rest = sorted(self._old, reverse=True)

    def append(self, entries: array[int]) -> None:
        """``user hash, place, user hash, place, ...`` in the order of delivery; hashes are signed."""
        self._turn += 1
        row = (self._turn, entries.tobytes())
        self._database.execute("INSERT INTO inbox_tail VALUES (?, ?, ?)", (*row, checksum(*row)))
        _add(self._index, zip(entries[0::2], entries[1::2], strict=True))
        self._size += len(entries) // 2
        if not self._rest and self._size >= TAIL_MAX:
            self._old, self._index, self._size, self._until = self._index, {}, 0, self._turn
            self._rest = sorted(self._old, reverse=True)
        if self._rest:
            self._sort_in(max(SORTED_USERS, len(entries)))  # twice as fast as more come

    def _sort_in(self, count: int) -> None:
        """The rows of the next users, of which the tail then has nothing more."""
        users = self._rest[: -count - 1 : -1]
        del self._rest[-count:]
        rows = []
        for user_hash in users:
            row = (user_hash, self._stored(user_hash) + 1, self._old[user_hash].tobytes())
            rows.append((*row, checksum(*row)))
        self._database.executemany("INSERT INTO inbox VALUES (?, ?, ?, ?)", rows)
        for user_hash in users:
            del self._old[user_hash]
        if self._rest:
            mark = (MARK, array("q", [self._until, users[-1]]).tobytes())
            self._database.execute("INSERT OR REPLACE INTO inbox_tail VALUES (?, ?, ?)", (*mark, checksum(*mark)))
        else:
            self._database.execute("DELETE FROM inbox_tail WHERE id <= ?", (self._until,))

    def _unsorted(self, user_hash: int) -> array[int]:
        """The user's places in the tail."""
        return self._old.get(user_hash, _NONE) + self._index.get(user_hash, _NONE)

    def _stored(self, user_hash: int) -> int:
        """The last number that is in a row of the user's own."""
        row = self._database.execute(
            "SELECT first, length(places) FROM inbox WHERE user_hash = ? ORDER BY first DESC LIMIT 1", (user_hash,)
        ).fetchone()
        return row[0] + row[1] // NUMBER_BYTES - 1 if row else 0

    def last_number(self, user_hash: int) -> int:
        return self._stored(user_hash) + len(self._unsorted(user_hash))

    def places(self, user_hash: int, after: int, count: int) -> list[tuple[int, int]]:
        """``(number, place)`` of at most ``count`` entries with a number above ``after``, in order."""
        found: list[tuple[int, int]] = []
        for first, places in self._pieces(user_hash, after):
            start = max(0, after + 1 - first)
            found += enumerate(places[start : start + count - len(found)], first + start)
            if len(found) >= count:
                break
        return found

    def numbers(self, user_hash: int, wanted: Container[int]) -> dict[int, int]:
        """Place -> number, of those of the places that are in the user's inbox."""
        return {
            place: number
            for first, places in self._pieces(user_hash)
            for number, place in enumerate(places, first)
            if place in wanted
        }

    def _pieces(self, user_hash: int, after: int = 0) -> Iterator[tuple[int, array[int]]]:
        """The user's places in order, and the number of the first, from the piece on that has one above ``after``."""
        rows = self._database.execute(
            "SELECT * FROM inbox WHERE user_hash = ? AND first + length(places) / 8 > ? ORDER BY first",
            (user_hash, after + 1),
        )
        for row in rows:
            _, first, blob = verified(self._path, "inbox", row)
            yield first, _numbers(blob)
        yield self._stored(user_hash) + 1, self._unsorted(user_hash)

    def unread(self, user_hash: int, oldest_seq: int) -> int:
        """Entries that are not marked read or archived, of the frames that are still kept."""
        oldest = oldest_seq << PLACE_SHIFT
        total = sum(sum(map(oldest.__le__, places)) for _, places in self._pieces(user_hash))
        marked = self._database.execute(
            "SELECT count(*) FROM inbox_marks WHERE user_hash = ? AND place >= ? AND state IN ('read', 'archived')",
            (user_hash, oldest),
        ).fetchone()[0]
        return int(total - marked)

    def state(self, user_hash: int, place: int) -> str:
        row = self._database.execute(
            "SELECT state FROM inbox_marks WHERE user_hash = ? AND place = ?", (user_hash, place)
        ).fetchone()
        return str(row[0]) if row else UNSEEN

    def mark(self, user_hash: int, place: int, state: str) -> None:
        row = (user_hash, place, state)
        self._database.execute("INSERT OR REPLACE INTO inbox_marks VALUES (?, ?, ?, ?)", (*row, checksum(*row)))


_NONE = array("q")


def _add(index: dict[int, array[int]], entries: Iterable[tuple[int, int]]) -> None:
    for user_hash, place in entries:
        places = index.get(user_hash)
        if places is None:
            index[user_hash] = array("q", (place,))
        else:
            places.append(place)


def mark_of(rows: Iterable[tuple[int, bytes]]) -> tuple[int, int]:
    """``(row, user hash)`` where sorting in stopped: of rows up to that, the entries of users up to this are moved."""
    for turn, blob in rows:
        if turn == MARK:
            until, user_hash = _numbers(blob)
            return until, user_hash
    return 0, 0


def unsorted(rows: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, int, int]]:
    """``(row, user hash, place)`` of the tail's rows, in their order, without what is in rows of users."""
    rows = list(rows)
    until, last = mark_of(rows)
    for turn, blob in rows:
        if turn != MARK:
            entries = _numbers(blob)
            for user_hash, place in zip(entries[0::2], entries[1::2], strict=True):
                if turn > until or user_hash > last:
                    yield turn, user_hash, place


def _numbers(blob: bytes) -> array[int]:
    numbers = array("q")
    numbers.frombytes(blob)
    return numbers
