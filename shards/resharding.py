"""All journals of an installation made anew for another number of shards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from shards.journal import SqliteJournal
from shards.marks import Mark, Marks
from shards.rebuild import Progress, Rebuild
from shards.schema import JournalError, log_path
from shards.source import Source
from shards.target import Target


def reshard(
    sources: Sequence[Path],
    targets: Sequence[Path],
    told: Mapping[tuple[int, str], int],
    progress: Progress,
) -> None:
    """Read the journals of shards 0, 1, ... and write those of as many as ``targets`` names; these are on disk then.

    ``told`` is what the collector has of each (shard, generation). The sources are opened once as shards open them:
    checked, and brought to the current format. Nobody else may hold them. Raises ``JournalError`` where one cannot be
    used, ``sqlite3.Error`` and ``OSError`` where the disk does not do its part.
    """
    for shard, path in enumerate(sources):
        SqliteJournal(path, shard, len(sources), "power", []).close()
        log = log_path(path)
        if log.exists() and log.stat().st_size:
            raise JournalError(f"{log} cannot be written back into its journal: see that the disk has space")
    read: list[Source] = []
    made: list[Target] = []
    try:
        read += (Source(path, _marks(path.with_suffix(".marks"))) for path in sources)
        made += (Target(path, shard, len(targets), len(targets)) for shard, path in enumerate(targets))
        Rebuild(read, made, told, progress).run(range(len(read)))
    finally:
        for source in read:
            source.close()
        for target in made:
            target.close()
    sync_directory(targets[0].parent)


def _marks(path: Path) -> list[Mark]:
    """Deliveries that were under way when their shard died."""
    if not path.exists():
        return []
    marks = Marks(path, 0)
    try:
        return marks.found()
    finally:
        marks.close()


def sync_directory(path: Path) -> None:
    """See the names in it onto the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
