"""Which rule routed a notification: what the numbers of rules mean, by the version of the configuration."""

from __future__ import annotations

from array import array

import msgspec

from shards.schema import checksum
from shards.tables.rows import Rows
from shards.wire.encoding import pack


class ConfigTable:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def has(self, version: int) -> bool:
        return self._rows.get("configs", version) is not None

    def put(self, version: int, rules: list[tuple[str, int | None, str | None]]) -> None:
        """What the numbers of rules mean in frames that are judged by this version of the configuration."""
        row = (version, pack(rules))
        self._rows.run("INSERT INTO configs VALUES (?, ?, ?)", (*row, checksum(*row)))

    def routed_by(self, seq: int, index: int) -> tuple[int, int, str | None, int | None]:
        """What routed a notification: the version of the configuration (0 if unknown) and the number of the rule (0
        if none) with its name and its line there."""
        *_, version, numbers = self._rows.get("frames", seq) or (0, None)
        number = array("H", numbers)[index] if numbers else 0
        config = self._rows.get("configs", version) if number else None
        name, line, _ = msgspec.msgpack.decode(config[1])[number - 1] if config else (None, None, None)
        return version, number, name, line
