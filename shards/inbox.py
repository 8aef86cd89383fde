"""The in-app inbox: per user a numbered list of places in the journal, oldest first.

An entry is a place, not a copy. New entries go to a tail, one blob per transaction; when the tail is long, it is
sorted into one row per user. So an entry costs a few bytes of a blob, and reading an inbox looks at few rows.
"""

from __future__ import annotations

import sqlite3
from array import array
from pathlib import Path

from shards.schema import checksum, verified

PLACE_SHIFT = 16  # place = seq << 16 | index
TAIL_MAX = 50_000  # entries; sorting in so many takes some 10 ms
NUMBER_BYTES = 8
UNSEEN = "new"  # the state of an entry that nobody has marked


class Inbox:
    """Numbers are per user, from 1, without gaps. Call ``append`` within the journal's transaction.

    Raises ``DamagedError`` for what is not as it was written: sorted in, it would look as if it were.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self._path = path
        self._database = database
        self._tail = array("q")
        self._turn = 0  # the last row of the tail
        for row in database.execute("SELECT * FROM inbox_tail ORDER BY id"):
            self._turn, entries = verified(path, "inbox_tail", row)
            self._tail.frombytes(entries)
        self._index: dict[int, array[int]] = {}  # user hash -> places, of the tail's first _indexed numbers
        self._indexed = 0

    def append(self, entries: array[int]) -> None:
        """``user hash, place, user hash, place, ...`` in the order of delivery; hashes are signed."""
        self._turn += 1
        row = (self._turn, entries.tobytes())
        self._database.execute("INSERT INTO inbox_tail VALUES (?, ?, ?)", (*row, checksum(*row)))
        self._tail.extend(entries)
        if len(self._tail) >= 2 * TAIL_MAX:
            self._sort_in()

    def _sort_in(self) -> None:
        rows = []
        for user_hash, places in self._tail_index().items():
            row = (user_hash, self._stored(user_hash) + 1, places.tobytes())
            rows.append((*row, checksum(*row)))
        rows.sort()
        self._database.executemany("INSERT INTO inbox VALUES (?, ?, ?, ?)", rows)
        self._database.execute("DELETE FROM inbox_tail")
        self._tail = array("q")
        self._index = {}
        self._indexed = 0

    def _tail_index(self) -> dict[int, array[int]]:
        """Places of the tail by user; it is only made when somebody asks."""
        index, tail = self._index, self._tail
        for at in range(self._indexed, len(tail), 2):
            places = index.get(tail[at])
            if places is None:
                places = index[tail[at]] = array("q")
            places.append(tail[at + 1])
        self._indexed = len(tail)
        return index

    def _stored(self, user_hash: int) -> int:
        """The last number that is in a row of the user's own."""
        row = self._database.execute(
            "SELECT first, length(places) FROM inbox WHERE user_hash = ? ORDER BY first DESC LIMIT 1", (user_hash,)
        ).fetchone()
        return row[0] + row[1] // NUMBER_BYTES - 1 if row else 0

    def last_number(self, user_hash: int) -> int:
        return self._stored(user_hash) + len(self._tail_index().get(user_hash, ()))

    def places(self, user_hash: int, after: int, count: int) -> list[tuple[int, int]]:
        """``(number, place)`` of at most ``count`` entries with a number above ``after``, in order."""
        found: list[tuple[int, int]] = []
        rows = self._database.execute(
            "SELECT * FROM inbox WHERE user_hash = ? AND first + length(places) / 8 > ? ORDER BY first",
            (user_hash, after + 1),
        )
        for row in rows:
            if len(found) >= count:
                return found[:count]
            _, first, blob = verified(self._path, "inbox", row)
            places = array("q")
            places.frombytes(blob)
            found += [(first + at, place) for at, place in enumerate(places) if first + at > after]
        first = self._stored(user_hash) + 1
        tail = self._tail_index().get(user_hash, array("q"))
        found += [(first + at, place) for at, place in enumerate(tail) if first + at > after]
        return found[:count]

    def unread(self, user_hash: int, oldest_seq: int) -> int:
        """Entries that are not marked read or archived, of the frames that are still kept."""
        oldest = oldest_seq << PLACE_SHIFT
        total = sum(place >= oldest for _, place in self.places(user_hash, 0, 2**62))
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
