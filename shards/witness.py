"""A witness beside the journal: how far it had been committed when that was last acknowledged.

SQLite takes a log with a damaged or missing tail for a shorter one, and says nothing. A journal that ends below its
witness is damaged. The page is written after each commit and before anything is acknowledged; it survives the death of
any process. It is not synchronised to the disk: in a power cut it may fall behind the journal, which is harmless, or,
where the journal was not synchronised either (durability "process"), be ahead of it, which ``boot`` tells apart.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import NamedTuple

import xxhash

from shards.wire.encoding import pack

_COPY = struct.Struct("<8sQQQ?7xQ")  # the last is a checksum of the others
_COPIES = 2  # written in turns: one that was cut short leaves the other


class Statement(NamedTuple):
    """``commits`` counts the transactions of a journal, ``last`` is its last frame."""

    generation: str
    commits: int
    last: int
    boot: int  # which start of the machine; see ``boot_now``
    synced: bool  # whether the journal's commits were on the disk before they were acknowledged


class Witness:
    """The mapped page. Raises ``OSError`` where it cannot be made."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)  # a full disk is to fail here, not as a signal later
            self._page = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)

    def read(self) -> Statement | None:
        """The latest that is whole; None of a new page."""
        return latest(self._page[: _COPIES * _COPY.size])

    def write(self, statement: Statement) -> None:
        fields = (statement.generation.encode(), *statement[1:])
        at = statement.commits % _COPIES * _COPY.size
        _COPY.pack_into(self._page, at, *fields, _checksum(fields))

    def close(self) -> None:
        self._page.close()


def latest(page: bytes) -> Statement | None:
    """What a witness says, from its bytes."""
    found = []
    for copy in range(min(_COPIES, len(page) // _COPY.size)):
        fields = _COPY.unpack_from(page, copy * _COPY.size)
        if fields[-1] and fields[-1] == _checksum(fields[:-1]):
            generation, commits, last, boot, synced, _ = fields
            found.append(Statement(generation.decode(), commits, last, boot, synced))
    return max(found, key=lambda statement: statement.commits, default=None)


def boot_now() -> int:
    """A number that every start of the machine has of its own."""
    return xxhash.xxh3_64_intdigest(Path("/proc/sys/kernel/random/boot_id").read_bytes())


def _checksum(fields: tuple[object, ...]) -> int:
    return xxhash.xxh3_64_intdigest(pack(fields)) | 1
