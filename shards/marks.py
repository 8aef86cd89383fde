"""Which deliveries are under way, on a page of memory that outlives the process.

What is found there at the next start was under way when the shard died: a channel's code may have brought it down, or
the machine ran out of memory, or somebody killed it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from shards.changes import Place

_MARK = struct.Struct("<QII")  # frame (0 is a free mark), slot, whether it was alone


class Mark(NamedTuple):
    seq: int
    slot: int
    alone: bool


class Marks:
    """Room for ``count`` deliveries at once. Raises ``OSError`` where the file cannot be made."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._page = self._map(count)
        self._free = list(range(0, len(self._whole()), _MARK.size))
        self._at: dict[Place, int] = {}

    def _map(self, count: int) -> mmap.mmap:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = max(count * _MARK.size, mmap.PAGESIZE, os.fstat(descriptor).st_size)
            os.posix_fallocate(descriptor, 0, size)
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def __len__(self) -> int:
        return len(self._at)

    def grow(self, count: int) -> None:
        """Room for so many; what is marked stays so."""
        before, old = self._page, len(self._whole())
        self._page = self._map(count)
        before.close()
        self._free += range(old, len(self._whole()), _MARK.size)

    def found(self) -> list[Mark]:
        """What the process before this one left."""
        return [Mark(seq, slot, bool(alone)) for seq, slot, alone in _MARK.iter_unpack(self._whole()) if seq]

    def _whole(self) -> bytes:
        return self._page[: len(self._page) - len(self._page) % _MARK.size]

    def clear(self) -> None:
        """Nothing is under way, or what is may be repeated without suspicion."""
        self._page[:] = bytes(len(self._page))
        self._free += self._at.values()
        self._at.clear()

    def start(self, seq: int, slots: Iterable[int], alone: bool) -> None:
        for slot in slots:
            at = self._at[seq, slot] = self._free.pop()
            _MARK.pack_into(self._page, at, seq, slot, alone)

    def end(self, seq: int, slots: Iterable[int]) -> None:
        for slot in slots:
            at = self._at.pop((seq, slot), None)
            if at is not None:
                _MARK.pack_into(self._page, at, 0, 0, 0)
                self._free.append(at)

    def close(self) -> None:
        self._page.close()
