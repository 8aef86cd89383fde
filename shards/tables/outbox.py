"""What the collector is yet to confirm, numbered without a gap."""

from __future__ import annotations

import math
from collections.abc import Iterable

from shards.schema import checksum
from shards.tables.rows import Rows
from shards.tables.state import State
from shards.wire.encoding import pack
from shards.wire.outbox import OutboxItem


class OutboxTable:
    """``state.outbox`` is the number of the last item that there ever was."""

    def __init__(self, rows: Rows, state: State) -> None:
        self._rows = rows
        self._state = state

    def post(self, items: Iterable[OutboxItem]) -> None:
        """Number items for the collector, within the transaction."""
        self._post(map(pack, items))

    def _post(self, items: Iterable[bytes]) -> None:
        for item in items:
            self._state.outbox += 1
            row = (self._state.outbox, item)
            self._rows.run("INSERT INTO outbox VALUES (?, ?, ?)", (*row, checksum(*row)))

    def items(self, after: int, count: int, bytes_max: float = math.inf) -> list[tuple[int, bytes]]:
        """Items after ``after``; of more than ``bytes_max`` the first ones, and at least one."""
        found: list[tuple[int, bytes]] = []
        for row in self._rows.run("SELECT * FROM outbox WHERE n > ? ORDER BY n LIMIT ?", (after, count)):
            n, item = self._rows.verified("outbox", row)
            bytes_max -= len(item)
            if found and bytes_max < 0:
                break
            found.append((n, item))
        return found

    def trim(self, upto: int) -> None:
        self._rows.run("DELETE FROM outbox WHERE n <= ?", (upto,))

    def renumber(self, told: int) -> None:
        """From 1 on, without what the collector has, which is up to ``told``; within the transaction."""
        items = self.items(told, -1)
        self._rows.run("DELETE FROM outbox")
        self._state.outbox = 0
        self._post(item for _, item in items)
