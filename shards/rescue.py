"""What happens to a damaged journal: it is put aside, and what is readable goes into a new one.

The damaged files keep their names until the new journal is on the disk, so that a rescue that is cut short is found to
be needed again. The new journal has a generation of its own: what follows is never taken for what was lost.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

from shards import logs, quarantine, schema
from shards.journal import forget_replaced, witness_path
from shards.migration import migrate
from shards.reader import Loss
from shards.rebuild import Rebuild
from shards.resharding import sync_directory
from shards.schema import DamagedError, JournalError
from shards.settings import ShardSettings
from shards.source import Source
from shards.target import Target
from shards.witness import Statement, latest

log = logs.logger()

LOSSES_LOGGED = 20
LOSSES_KEPT = 10_000
COLLECTOR = Path("collector.db")
# of SQLite's file header (sqlite.org/fileformat.html): change counter, pages, first free page, free pages
_HEADER, _HEADER_AT = struct.Struct(">IIII"), 24


def rescue(settings: ShardSettings, damage: str) -> None:
    """Raises ``sqlite3.Error`` and ``OSError`` where the disk does not do its part: nothing is changed then."""
    path = Path(settings.path)
    log.error("damaged: putting it aside, and keeping what is readable", damage=damage)
    case = quarantine.Case(path)
    new = path.with_name(path.name + ".new")
    files = [path, schema.log_path(path), witness_path(path)]
    try:
        case.keep(files)
        report = _rebuild(settings, case, new, _stated(path), damage)
        case.close(report)
    except BaseException:
        shutil.rmtree(case.unfinished, ignore_errors=True)
        new.unlink(missing_ok=True)
        raise
    new.replace(path)
    forget_replaced(path)
    sync_directory(path.parent)
    _tell(case, report)


def _stated(path: Path) -> Statement | None:
    return latest(witness_path(path).read_bytes()) if witness_path(path).exists() else None


def _rebuild(
    settings: ShardSettings, case: quarantine.Case, new: Path, statement: Statement | None, damage: str
) -> quarantine.Report:
    losses: list[Loss] = []
    notes: list[str] = []
    gone: dict[str, int] = {}
    new.unlink(missing_ok=True)
    target = Target(new, settings.shard, settings.shards)
    try:
        with _source(settings, case, losses, statement) as source:
            notes += _missing(source, statement)
            if source is None:
                target.finish(settings.channel_names(), 0)
            else:
                gone = Rebuild([source], [target], _told(settings, source)).run([settings.shard], keep_link=True)
    finally:
        target.close()
    return quarantine.Report(
        journal=settings.path,
        at=case.at,
        damage=damage,
        lost=[f"{loss.table}: {loss.what}" for loss in losses[:LOSSES_KEPT]],
        gone=gone,
        frames=target.frames,
        pending=sum(target.pending.values()),
        notes=notes,
    )


@contextlib.contextmanager
def _source(
    settings: ShardSettings, case: quarantine.Case, losses: list[Loss], statement: Statement | None
) -> Iterator[Source | None]:
    """A copy of what there is, as SQLite gives it; None where it cannot be opened at all."""
    copy = case.unfinished / "copy"
    kept = case.unfinished / Path(settings.path).name
    source = None
    if kept.exists():
        shutil.copyfile(kept, copy)
        if schema.log_path(kept).exists():
            shutil.copyfile(schema.log_path(kept), schema.log_path(copy))
        generation = statement.generation if statement else schema.new_generation()
        _upgrade(copy)
        _mend_first_page(copy)
        try:
            source = Source(copy, (), losses, (generation, settings.channel_names()))
        except (sqlite3.Error, OSError, DamagedError) as error:
            losses.append(Loss("all", str(error)))
    try:
        yield source
    finally:
        if source is not None:
            source.close()
        for path in case.unfinished.glob("copy*"):
            path.unlink()


def _upgrade(copy: Path) -> None:
    """A copy in an older format is brought to this one, if it can be."""
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as database:
        try:
            schema.check_meta(copy, database)
            database.execute("BEGIN")
            migrate(copy, database)
            database.execute("COMMIT")
        except (sqlite3.Error, JournalError, UnicodeDecodeError) as error:
            log.warning("not readable as an older format", journal=str(copy), error=str(error))


def _mend_first_page(copy: Path) -> None:
    """Without its first page nothing of a file can be found; a new journal has the same, but for the file's size."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.execute(f"PRAGMA page_size = {schema.PAGE_BYTES}")
        schema.create(database, 0, 0)
        page = bytearray(database.serialize()[: schema.PAGE_BYTES])
        roots = _roots(database)
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as database:
        try:
            schema.check_header(copy)
            schema.check_tables(copy, database)
            whole = database.execute("PRAGMA page_count").fetchone()[0] * schema.PAGE_BYTES >= copy.stat().st_size
            if whole and len(_roots(database) - roots) != 1:  # of a journal that was converted, all are elsewhere
                return
            log.warning(
                "read as if its tables stood where a new journal has them", error="its first page names other places"
            )
        except (sqlite3.Error, DamagedError, UnicodeDecodeError) as error:
            log.warning("read as if its tables stood where a new journal has them", error=str(error))
    pages = copy.stat().st_size // schema.PAGE_BYTES
    _HEADER.pack_into(page, _HEADER_AT, int.from_bytes(page[92:96], "big"), pages, 0, 0)
    with copy.open("r+b") as file:
        file.write(page)


def _roots(database: sqlite3.Connection) -> set[tuple[str, int]]:
    """Where every table and index begins."""
    return set(database.execute("SELECT name, rootpage FROM sqlite_master").fetchall())


def _missing(source: Source | None, statement: Statement | None) -> list[str]:
    """What the witness has seen, and the journal does not have."""
    notes = []
    if source is None:
        notes.append("nothing of it can be read")
    elif source.state is None:
        notes.append("its counters are lost: they are what the deliveries that are kept say")
    state = source.state if source else None
    if statement is None or (source and statement.generation != source.generation):
        return notes
    commits, last = (state.log, state.last) if state else (0, 0)
    if statement.commits > commits:
        notes.append(
            f"it ends at transaction {commits} (frame {last}), and had {statement.commits} (frame {statement.last}): "
            f"{statement.commits - commits} transactions, with {statement.last - last} frames, are gone"
        )
    return notes


def _told(settings: ShardSettings, source: Source) -> dict[tuple[int, str], int]:
    """What the collector has of this journal's outbox. Where it cannot say, its metrics may count something twice."""
    if not COLLECTOR.exists():
        return {}
    try:
        with contextlib.closing(sqlite3.connect(COLLECTOR)) as database:
            row = database.execute(
                "SELECT n FROM progress WHERE shard = ? AND generation = ?", (settings.shard, source.generation)
            ).fetchone()
    except sqlite3.Error as error:
        log.warning("not readable, metrics may count something twice", file=str(COLLECTOR), error=str(error))
        return {}
    return {(settings.shard, source.generation): int(row[0])} if row else {}


def _tell(case: quarantine.Case, report: quarantine.Report) -> None:
    for text in [*report.notes, *report.lost[:LOSSES_LOGGED]]:
        log.error("lost", journal=report.journal, what=text)
    if len(report.lost) > LOSSES_LOGGED:
        log.error("more is lost, see the report", journal=report.journal, count=len(report.lost) - LOSSES_LOGGED)
    for channel, count in report.gone.items():
        log.error("planned deliveries are gone", journal=report.journal, channel=channel, count=count)
    log.error(
        "rescued; what was damaged is kept with a report: delete that directory when it is dealt with",
        journal=report.journal,
        frames=report.frames,
        pending=report.pending,
        directory=str(case.directory),
    )
