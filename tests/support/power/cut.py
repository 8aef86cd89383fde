"""What a power cut leaves of files: all that was synced, and of the rest any sectors, none or all of them."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

SOURCE = Path(__file__).with_name("record.c")
SECTOR_BYTES = 512
WRITE, TRUNCATE, SYNC, UNLINK = 1, 2, 3, 4
HEADER = struct.Struct("=IIQQ")


def build(directory: Path) -> Path:
    """The recorder as a library for LD_PRELOAD."""
    library = directory / "record.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Record(NamedTuple):
    end: int  # in the log, in bytes
    op: int
    path: Path
    offset: int
    data: bytes


def records(log: bytes) -> Iterator[Record]:
    """The last one may be cut short by a kill."""
    at = 0
    while at + HEADER.size <= len(log):
        op, path_length, offset, length = HEADER.unpack_from(log, at)
        start = at + HEADER.size + path_length
        at = start + (length if op == WRITE else 0)
        if at > len(log):
            return
        path = Path(log[start - path_length : start].decode())
        yield Record(at, op, path, offset, log[start:at])


class Drive:
    """Files whose last writes are in a cache that forgets."""

    def __init__(self) -> None:
        self._safe: dict[Path, bytearray] = {}
        self._cached: dict[Path, list[Record]] = {}

    def play(self, record: Record) -> None:
        self._safe.setdefault(record.path, bytearray())
        cached = self._cached.setdefault(record.path, [])
        if record.op == SYNC:
            for one in cached:
                _write(self._safe[record.path], one.op, one.offset, one.data)
            cached.clear()
        elif record.op == UNLINK:
            del self._safe[record.path], self._cached[record.path]
        else:
            cached.append(record)

    def cut(self, random: Random, into: Path) -> None:
        """Write the files as they may be found after a power cut right now."""
        share = random.choice((0.0, 0.5, 0.9, 1.0))  # of the cached sectors, what reached the disk
        for path, safe in self._safe.items():
            content = bytearray(safe)
            for one in self._cached[path]:
                for start in range(0, max(1, len(one.data)), SECTOR_BYTES):
                    if random.random() < share:
                        _write(content, one.op, one.offset + start, one.data[start : start + SECTOR_BYTES])
            (into / path.name).write_bytes(content)


def _write(content: bytearray, op: int, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if op == TRUNCATE:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data
