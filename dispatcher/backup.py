"""A data directory's copy that a dispatcher can start with, of a running one or a stopped one.

A running shard holds its journal for itself. It is asked to write its log back and to leave the main file alone, which
is then copied from outside; its answer at the end says whether it did. As the original goes on giving ids, the copy's
journals begin a generation of their own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dispatcher.api.errors import DispatcherError
from dispatcher.client import Client
from dispatcher.collector_store import Store
from dispatcher.data_directory import Identity
from dispatcher.reshard import journal_path, told
from dispatcher.templates import PUT_FILE
from dispatcher.terminal import Progress
from shards.journal import SqliteJournal, witness_path
from shards.resharding import sync_directory
from shards.schema import JournalError
from shards.wire.outbox import DeadLetter

CHUNK_BYTES = 64 * 2**20
NOT_SHARED = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}  # another file system, or an old one


class BackupError(Exception):
    """There is no copy: the message says why, and what to do."""


def backup(root: Path, target: Path, client: Client) -> int:
    """Copy the data directory ``root`` to ``target``, which is new or empty; the bytes of the copy.

    ``client`` reaches the dispatcher if it runs. Raises ``BackupError``; what was copied is deleted then.
    """
    try:
        identity = msgspec.json.decode((root / "identity.json").read_bytes(), type=Identity)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupError(f"{root} is no data directory: identity.json: {error}") from None
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise BackupError(f"{target} is not empty; name a new directory")
    except OSError as error:
        raise BackupError(f"{target}: {error.strerror}; name a new directory") from None
    try:
        (target / identity.directory).mkdir(mode=0o700, exist_ok=True)
        journals = [journal_path(identity.directory, shard) for shard in range(identity.shards)]
        with _stopped(root) as is_stopped:
            if is_stopped:
                for name in journals:
                    for path in _files(root / name):
                        _copy(path, target / path.relative_to(root))
                _copy_collector(root, target)
            else:
                _copy_running(root, target, journals, client)
            for name in ("epoch", PUT_FILE):
                if (root / name).exists():
                    _copy(root / name, target / name)
        _begin_anew(target, journals)
        _copy(root / "identity.json", target / "identity.json")  # last: without it, this is no data directory
        sync_directory(target / identity.directory)
        sync_directory(target)
    except BaseException as error:
        for path in target.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if isinstance(error, DispatcherError | JournalError | sqlite3.Error | OSError):
            raise BackupError(f"{error}; what was copied is deleted") from None
        raise
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


@contextlib.contextmanager
def _stopped(root: Path) -> Iterator[bool]:
    """Whether nobody runs there; nobody starts meanwhile."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _files(journal: Path) -> list[Path]:
    found = (journal, journal.with_name(journal.name + "-wal"), witness_path(journal), journal.with_suffix(".marks"))
    return [path for path in found if path.exists()]


def _copy_running(root: Path, target: Path, journals: list[str], client: Client) -> None:
    name = secrets.token_hex(8)
    began = client.request("backup.begin", id=name)["shards"]
    try:
        generations = []
        for journal in journals:
            _copy(root / journal, target / journal)
            generations.append(_generation(target / journal))
        if generations != [one["generation"] for one in began]:
            raise BackupError(
                f"who answers at {client.submit_endpoint} does not use {root}: give --data-dir and --submit of one "
                "and the same dispatcher"
            )
        _copy_collector(root, target)
    finally:
        ended = client.request("backup.end", id=name)["shards"]
    lost = [str(one["shard"]) for one in ended if not one["held"]]
    if lost:
        raise BackupError(
            f"shard {', '.join(lost)} changed while it was copied; begin again, what was copied is deleted"
        )


def _generation(journal: Path) -> str | None:
    """None of one that has never been written back."""
    with contextlib.closing(sqlite3.connect(journal)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return None
        return str(database.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()[0])


def _copy(source: Path, target: Path) -> None:
    """A file and its bytes on the disk, shared with the original where the file system can."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            done, line = 0, Progress()
            while count := _copy_some(file.fileno(), descriptor):
                done += count
                line.show(f"{source.name}: {done * 100 // max(size, 1)} % of {size >> 20:,} MiB")
            line.clear()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_some(source: int, target: int) -> int:
    """The next bytes; how many, 0 at the end."""
    try:
        return os.copy_file_range(source, target, CHUNK_BYTES)
    except OSError as error:
        if error.errno not in NOT_SHARED:
            raise
        return os.sendfile(target, source, None, CHUNK_BYTES)


def _copy_collector(root: Path, target: Path) -> None:
    if not (root / "collector.db").exists():
        return
    copy = target / "collector.db"
    with (
        contextlib.closing(sqlite3.connect(root / "collector.db")) as source,
        contextlib.closing(sqlite3.connect(copy)) as database,
    ):
        source.backup(database)
    copy.chmod(0o600)


def _begin_anew(target: Path, journals: list[str]) -> None:
    """Generations of their own; and the collector, copied a moment later, has what the copied shards have."""
    reached = told(target / "collector.db")
    letters: list[tuple[int, DeadLetter]] = []
    for shard, name in enumerate(journals):
        if not (target / name).exists():
            continue
        journal = SqliteJournal(target / name, shard, len(journals), "power", [])
        try:
            journal.begin()
            journal.begin_generation(reached.get((shard, journal.generation), 0))
            journal.commit()
            letters += ((shard, letter) for _, _, letter in journal.dead.find({}, -1))
        finally:
            journal.close()
        (target / name).with_suffix(".marks").unlink(missing_ok=True)
    if (target / "collector.db").exists():
        store = Store(target / "collector.db")
        store.replace_letters(sorted(letters, key=lambda one: one[1].died_at_ms))
        store.connection.close()
