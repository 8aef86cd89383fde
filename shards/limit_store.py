"""What was spent of the limits, in the shard's journal: exact across stops and kills alike.

A row of the table ``limits`` says what was charged in one turn, and is committed with the deliveries that this was
for. Rows are replayed in their order. So that they stay few, the state of all keys is written now and then, some keys a
turn, each with all that was charged to it by then; when it is complete, what is older than its first row goes as
slowly.

Times are the caller's monotonic clock in memory. On disk each row has the wall clock, rounded up to a millisecond, and
states have seconds from there: a clock that was set back between makes nobody wait longer.
"""

from __future__ import annotations

import sqlite3
from array import array
from pathlib import Path
from typing import Any

from shards.changes import Now
from shards.keyed import Keyed
from shards.limits import Limits
from shards.schema import checksum, verified

CHARGES_MAX = 100_000  # to be replayed, or twice the last state: then a new one is written
ROW_COST = 10  # charges that a row takes as long as, by itself
PART_TIMES = 20_000  # of the state, written in one turn
OLD_ROWS = 8  # deleted in one turn

Row = tuple[str, int, bytes, bytes | None]  # of the table, without its id: name and terms, at_ms, keys, times


class _Stored:
    """What the journal has of one limit."""

    __slots__ = ("cost", "first", "names", "size", "waiting")

    def __init__(self) -> None:
        self.names: set[str] = set()  # with the terms under which rows were written
        self.cost = 0  # of the replay of what was charged since the last state, in charges
        self.size = 0  # of the last state, in times
        self.first = 0  # the first row of the state that is being written
        self.waiting: list[int] | None = None  # keys that it does not have yet; None: no state is being written


class LimitStore:
    """Keeps ``limits`` in the table; ``save`` works within the open transaction."""

    def __init__(self, path: Path, database: sqlite3.Connection, limits: Limits) -> None:
        self.limits = limits
        self._path = path
        self._database = database
        self._stored: dict[str, _Stored] = {name: _Stored() for name in limits.named}
        self._obsolete: dict[str, int] = {}  # by name with terms: rows below this number are to go
        self._next_id = 1

    def load(self, moment: Now) -> None:
        """Bring back what was spent; a limit whose terms have changed keeps of it what they allow.

        Raises ``DamagedError``.
        """
        for row in self._database.execute("SELECT * FROM limits ORDER BY id"):
            self._replay(verified(self._path, "limits", row), moment)
        for name, limit in self.limits.named.items():
            stored = self._stored[name]
            if stored.names - {_full_name(name, limit)}:
                limit.fit(moment.mono)
                self._begin_state(limit, stored)
            limit.drop_idle(moment.mono)

    def _replay(self, row: tuple[Any, ...], moment: Now) -> None:
        number, full_name, at_ms, keys_blob, times_blob = row
        self._next_id = number + 1
        name = full_name.rpartition(" ")[0]
        limit = self.limits.named.get(name)
        if limit is None:
            self._obsolete[full_name] = self._next_id
            return
        stored = self._stored[name]
        stored.names.add(full_name)
        at = moment.mono + min(0, at_ms * 1000 - moment.wall_us) / 1e6
        keys = array("q", keys_blob)
        if times_blob is None:
            stored.cost += ROW_COST + len(keys)
            limit.replay(keys, at)
        else:
            stored.size += len(keys)
            limit.restore(keys, [at + time for time in array("d", times_blob)])

    def save(self, moment: Now) -> None:
        """Write what was charged since the last time, and a part of the state where one is due."""
        at_ms = -(-moment.wall_us // 1000)
        for name, limit in self.limits.named.items():
            stored = self._stored[name]
            if limit.charges:
                stored.cost += ROW_COST + len(limit.charges)
                self._insert(name, limit, at_ms, array("q", limit.charges), None)
                limit.charges.clear()
                if stored.waiting is None and stored.cost > max(CHARGES_MAX, 2 * stored.size):
                    self._begin_state(limit, stored)
            if stored.waiting is not None:
                self._write_state(name, limit, stored.waiting, at_ms, moment)
        self._delete_obsolete()

    def keep(self, limits: Limits, moment: Now) -> None:
        """Go on with other limits, after a change of the configuration: those of the same name keep what was spent."""
        old, self.limits = self.limits.named, limits
        stored_before, self._stored = self._stored, {}
        for name, limit in limits.named.items():
            stored = self._stored[name] = stored_before.pop(name, _Stored())
            if name in old:
                limit.adopt(old[name], moment.mono)
                if limit.terms != old[name].terms:
                    self._begin_state(limit, stored)
        for stored in stored_before.values():
            self._obsolete |= dict.fromkeys(stored.names, self._next_id)

    def _begin_state(self, limit: Keyed[Any], stored: _Stored) -> None:
        stored.waiting = limit.keys()
        stored.first = self._next_id
        stored.cost = stored.size = 0

    def _write_state(self, name: str, limit: Keyed[Any], waiting: list[int], at_ms: int, moment: Now) -> None:
        stored = self._stored[name]
        at = moment.mono + (at_ms * 1000 - moment.wall_us) / 1e6
        keys, times = limit.state(waiting, PART_TIMES)
        stored.size += len(keys)
        self._insert(name, limit, at_ms, keys, array("d", [time - at for time in times]))
        if not waiting:
            stored.waiting = None
            self._obsolete |= dict.fromkeys(stored.names, stored.first)
            stored.names = {_full_name(name, limit)}

    def _delete_obsolete(self) -> None:
        for full_name, below in list(self._obsolete.items()):
            deleted = self._database.execute(
                "DELETE FROM limits WHERE id IN (SELECT id FROM limits WHERE name = ? AND id < ? ORDER BY id LIMIT ?)",
                (full_name, below, OLD_ROWS),
            ).rowcount
            if deleted < OLD_ROWS:
                del self._obsolete[full_name]

    def _insert(self, name: str, limit: Keyed[Any], at_ms: int, keys: array[int], times: array[float] | None) -> None:
        full_name = _full_name(name, limit)
        row = (self._next_id, full_name, at_ms, keys.tobytes(), None if times is None else times.tobytes())
        self._database.execute("INSERT INTO limits VALUES (?, ?, ?, ?, ?, ?)", (*row, checksum(*row)))
        self._next_id += 1
        self._stored[name].names.add(full_name)


def _full_name(name: str, limit: Keyed[Any]) -> str:
    return f"{name} {limit.terms}"


def split(row: Row, shards: int) -> dict[int, Row]:
    """A row's parts, by the shard of their users. Of several journals that become one, all rows of one go before those
    of the next, in their order: no user is in two of them."""
    name, at_ms, keys_blob, times_blob = row
    parts: dict[int, tuple[array[int], array[float]]] = {}
    keys = array("q", keys_blob)
    times = array("d", bytes(8 * len(keys)) if times_blob is None else times_blob)
    for key, time in zip(keys, times, strict=True):
        owners, found = parts.setdefault(key % 2**64 % shards, (array("q"), array("d")))
        owners.append(key)
        found.append(time)
    return {
        shard: (name, at_ms, owners.tobytes(), None if times_blob is None else found.tobytes())
        for shard, (owners, found) in parts.items()
    }
