"""Whether a data directory that is not in use is what was written. It changes nothing.

A journal that a crash left with a log is read through second names in a directory that is removed again, as SQLite
needs a file beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec

from dispatcher.data_directory import Identity
from dispatcher.reshard import HERE, journal_path
from dispatcher.terminal import Progress
from shards.inspection import Inspection, Letter, inspect
from shards.journal import witness_path
from shards.schema import JournalError

SHOWN = 20
RESCUED = "start the dispatcher: the shard puts it aside and keeps what is readable; or restore a backup"


class Finding(msgspec.Struct):
    """Of one file: what was found, in plain words, and what to do. Without problems it is as it was written."""

    file: str
    detail: str
    problems: list[str] = []
    remedy: str = ""


class InUseError(Exception):
    """The directory cannot be checked."""


def examine(root: Path) -> Iterator[Finding]:
    """Everything in a data directory, file by file. Raises ``InUseError`` if it is no such directory, or in use."""
    if not (root / "identity.json").exists():
        raise InUseError(f"{root} is no data directory: it has no identity.json")
    with _locked(root):
        yield from _access(root)
        path = root / "identity.json"
        try:
            identity = msgspec.json.decode(path.read_bytes(), type=Identity)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            yield Finding(path.name, "", [f"it cannot be read: {error}"], "restore it from a backup")
            return
        yield Finding(path.name, f"{identity.shards} shards in {identity.directory!r}")
        yield _epoch(root)
        found: list[Inspection] = []
        line = Progress()
        for shard in range(identity.shards):
            name = journal_path(identity.directory, shard)
            finding, inspection = _journal(root, name, shard, identity.shards, line)
            yield finding
            found.append(inspection)
        yield _collector(root, found)
        cases = sorted(path.name for path in root.glob("quarantine/*"))
        if cases:
            yield Finding("quarantine", f"{len(cases)} damaged journals to be dealt with: {', '.join(cases)}")


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Nobody starts while this looks, and nobody runs."""
    lock = root / "lock"
    if not lock.exists():
        yield
        return
    descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{root} is in use: stop the dispatcher first, or check a backup") from None
        yield
    finally:
        os.close(descriptor)


def _access(root: Path) -> Iterator[Finding]:
    """Whether others can read or write what is here."""
    open_to_others = [
        str(path.relative_to(root))
        for path in (root, *root.rglob("*"))
        if path.lstat().st_mode & 0o077 and not path.is_symlink() and not path.is_socket()
    ]
    if open_to_others:
        problem = f"others have access to {', '.join(open_to_others[:SHOWN])}"
        yield Finding(HERE, "", [problem], "chmod -R go= on the data directory")


def _epoch(root: Path) -> Finding:
    path = root / "epoch"
    try:
        return Finding(path.name, str(int(path.read_bytes()))) if path.exists() else Finding(path.name, "none yet")
    except (OSError, ValueError) as error:
        return Finding(path.name, "", [f"it cannot be read: {error}"], "see that the clock is right, and delete it")


def _journal(root: Path, name: str, shard: int, shards: int, line: Progress) -> tuple[Finding, Inspection]:
    nothing = Inspection([], "", 0, set(), [])
    path = root / name
    if not path.exists():
        if witness_path(path).exists():
            return Finding(name, "", ["it is missing, and its witness says that there was one"], RESCUED), nothing
        return Finding(name, "none yet"), nothing

    def progress(done: int, total: int) -> None:
        line.show(f"{name}: {done * 100 // max(total, 1)} % of {total:,} frames")

    try:
        with _readable(path) as readable:
            found = inspect(readable, shard, shards, progress)
    except JournalError as error:
        return Finding(name, "", [str(error)], "see the message"), nothing
    finally:
        line.clear()
    return Finding(name, f"{found.frames} frames", found.problems, RESCUED if found.problems else ""), found


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """The journal itself, or second names of it and a copy of its log where there is one."""
    log = path.with_name(path.name + "-wal")
    if not log.exists():
        yield path
        return
    directory = Path(tempfile.mkdtemp(prefix=".check-", dir=path.parent))
    try:
        second = directory / path.name
        os.link(path, second)
        shutil.copyfile(log, directory / log.name)
        if witness_path(path).exists():
            os.link(witness_path(path), witness_path(second))
        yield second
    finally:
        shutil.rmtree(directory)


def _collector(root: Path, shards: list[Inspection]) -> Finding:
    path = root / "collector.db"
    if not path.exists():
        return Finding(path.name, "none yet")
    try:
        with _readable(path) as readable:
            problems, detail = _letters(readable, shards)
    except sqlite3.Error as error:
        problems, detail = [f"it cannot be read: {error}"], ""
    remedy = "restore it from a backup; or delete it, which loses metrics, and dead.list then shows new letters only"
    return Finding(path.name, detail, problems, remedy if problems else "")


def _letters(path: Path, shards: list[Inspection]) -> tuple[list[str], str]:
    """Its dead letters beside those of the shards: what is on the way is in an outbox."""
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True)) as database:
        problems = [
            f"SQLite says: {text}" for (text,) in database.execute("PRAGMA integrity_check(100)") if text != "ok"
        ]
        if problems:
            return problems, ""
        letters: set[Letter] = set(database.execute("SELECT id, channel FROM dead_letters"))
        told = {(shard, of): n for shard, of, n in database.execute("SELECT shard, generation, n FROM progress")}
    count = len(letters)
    wanted: set[Letter] = set()
    for shard, found in enumerate(shards):
        wanted |= found.letters
        for n, letter, is_there in found.changes:
            if n > told.get((shard, found.generation), 0):
                (letters.add if is_there else letters.discard)(letter)
    if not any(found.problems for found in shards) and letters != wanted:
        problems.append(
            f"of the shards' dead letters it has {len(wanted - letters)} not, and {len(letters - wanted)} are no more"
        )
    return problems, f"{count} dead letters"
