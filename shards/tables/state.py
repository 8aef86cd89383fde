"""What changes with every transaction: the link's position, the totals, the outbox's last number."""

from __future__ import annotations

import msgspec

from shards.counters import Counters
from shards.schema import checksum
from shards.tables.rows import Rows
from shards.wire.encoding import pack


class State(msgspec.Struct, array_like=True):
    last: int = 0
    epoch: int = 0
    gen: int = 0
    base: int = 0
    outbox: int = 0
    log: int = 0  # of the last transaction
    counters: Counters = msgspec.field(default_factory=Counters)
    counted: list[int] | None = None  # of ``counters.finals``, as the collector was last told; None if it never was
    paused: dict[str, int] = {}  # channels that an operator has paused, and since when (milliseconds since 1970)


def load_state(rows: Rows) -> State:
    row = rows.get("state", 1)
    return msgspec.msgpack.decode(row[1], type=State) if row else State()


def save_state(rows: Rows, state: State) -> None:
    row = (1, pack(state))
    rows.run("INSERT OR REPLACE INTO state VALUES (?, ?, ?)", (*row, checksum(*row)))
