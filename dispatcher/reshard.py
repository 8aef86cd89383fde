"""Another number of shards than the data directory has: its journals are made anew, beside the old ones.

The new ones are complete and on the disk before ``identity.json`` names their directory; only then the old ones go. So
whoever is killed on the way, the next start finds one complete set, and removes what is left of the other.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from dispatcher import terminal
from dispatcher.errors import BrokenError
from shards import logs
from shards.progress import Progress

log = logs.logger()

HERE = "."  # the directory of a set that was never re-sharded


class ReshardError(BrokenError):
    """The number of shards stays as it was: the message says why, and what to do."""


class InterruptedReshardError(ReshardError):
    """The service was told to stop; the next start does it again."""


def journal_path(directory: str, shard: int) -> str:
    """Where a shard's journal is, from the data directory."""
    return str(Path(directory) / f"shard-{shard}.db")


def remove_leftovers(root: Path, directory: str) -> None:
    """Delete every set of journals but the one in ``directory``: unfinished, or replaced."""
    for path in root.glob("shards-*"):
        if path.name != directory and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    if directory != HERE:
        for path in root.glob("shard-*.*"):
            path.unlink()


def make_anew(root: Path, directory: str, old: int, new: int, is_stopping: Callable[[], bool]) -> str:
    """Make ``new`` journals from the ``old`` ones in ``directory``; the name of theirs. The old ones stay."""
    from shards.resharding import reshard, sync_directory
    from shards.schema import DamagedError, JournalError

    name = f"shards-{new}"
    sources = [root / journal_path(directory, shard) for shard in range(old)]
    size = sum(path.stat().st_size for path in sources if path.exists())
    free = shutil.disk_usage(root).free
    if free < size:
        raise ReshardError(
            f"re-sharding from {old} to {new} needs at least {size >> 20} MiB beside the old journals, and {root} has "
            f"{free >> 20} MiB left; nothing was changed: make room, or start with --shards {old}"
        )
    target = root / name
    progress = _Progress(old, new, is_stopping)
    try:
        target.mkdir(mode=0o700)
        reshard(
            sources, [root / journal_path(name, shard) for shard in range(new)], told(root / "collector.db"), progress
        )
        sync_directory(root)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        progress.end(complete=False)
        if isinstance(error, DamagedError):
            raise ReshardError(
                f"{error}; a damaged journal is not re-sharded, and nothing was changed: start with --shards {old}, "
                "which puts it aside and keeps what is readable; `check` says what is damaged"
            ) from None
        if isinstance(error, JournalError | sqlite3.Error | OSError):
            raise ReshardError(f"re-sharding from {old} to {new}: {error}; nothing was changed") from None
        raise
    progress.end(complete=True)
    return name


def told(path: Path) -> dict[tuple[int, str], int]:
    """What the collector has of each shard's outbox: by shard and generation, the last number."""
    if not path.exists():
        return {}
    database = sqlite3.connect(path, isolation_level=None)
    try:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'progress'").fetchone():
            return {}
        return {(shard, of): n for shard, of, n in database.execute("SELECT shard, generation, n FROM progress")}
    finally:
        database.close()


class _Progress:
    """A line that changes on a terminal, elsewhere lines of the log now and then, and one of the log at the end."""

    def __init__(self, old: int, new: int, is_stopping: Callable[[], bool]) -> None:
        self._what = f"re-sharding from {old} to {new} shards"
        self._log = log.bind(shards=old, wanted=new)
        self._is_stopping = is_stopping
        self._line = terminal.Progress()
        self._logged: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._is_stopping():
            raise InterruptedReshardError(f"{self._what}: interrupted; nothing was changed")
        if self._logged is None:
            self._logged = Progress(self._log, "re-sharding", total)
        if self._line.changes:
            self._logged.done = done
            self._line.show(f"{self._what}: {done * 100 // max(total, 1)} % of {total:,} frames")
        else:
            self._logged.advance(done - self._logged.done)

    def end(self, complete: bool) -> None:
        self._line.clear()
        if complete and self._logged:
            self._logged.end()
