"""The journal's file: its tables and its format.

Every row ends with ``crc``, a checksum of its other columns in their order, since SQLite by itself finds almost no
damage: a flipped bit in a blob passes even its own integrity check. The rows of ``meta`` have one together, in a row
named ``crc``.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import sqlite3
from pathlib import Path
from typing import Any

import xxhash

from shards.wire.encoding import pack

FORMAT = 4
PAGE_BYTES = 4_096  # every page that a small commit touches is written whole: this decides the tail of the latency
CHECKPOINT_PAGES = 500  # 2 MB: a checkpoint holds up its turn, so it is to be short
CACHE_KIB = 32_768

# table -> its columns before ``crc``, and what follows them
TABLES: dict[str, tuple[str, str]] = {
    "state": ("id INTEGER PRIMARY KEY CHECK (id = 1), value BLOB NOT NULL", ""),
    "frames": (
        (
            "seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, source INTEGER NOT NULL, fanned INTEGER NOT NULL, "
            "inbox INTEGER NOT NULL, widths BLOB NOT NULL, verdict BLOB, digests BLOB, body BLOB NOT NULL, "
            "config INTEGER NOT NULL, rules BLOB"  # the configuration's version; by position, the rule's number
        ),
        "",
    ),
    "ledger": (
        (
            "seq INTEGER PRIMARY KEY, open INTEGER NOT NULL, mask INTEGER NOT NULL, updated_ms INTEGER NOT NULL, "
            "log INTEGER NOT NULL, slots BLOB NOT NULL, notes BLOB"
        ),
        "",
    ),
    "results": ("id INTEGER PRIMARY KEY, entries BLOB NOT NULL, at_ms INTEGER NOT NULL", ""),
    "users": ("user_id TEXT PRIMARY KEY, document BLOB NOT NULL", ""),
    # contacts that do not work
    "health": (
        (
            "user_id TEXT, channel TEXT, contact TEXT, state TEXT NOT NULL, since_ms INTEGER NOT NULL, "
            "detail TEXT NOT NULL"
        ),
        "PRIMARY KEY (user_id, channel, contact)",
    ),
    "dead": (
        (
            "seq INTEGER, slot INTEGER, id TEXT NOT NULL, user_id TEXT, channel TEXT, category TEXT, "
            "reason TEXT NOT NULL, error_class TEXT NOT NULL, died_at_ms INTEGER NOT NULL, letter BLOB NOT NULL"
        ),
        "PRIMARY KEY (seq, slot)",
    ),
    "outbox": ("n INTEGER PRIMARY KEY, item BLOB NOT NULL", ""),
    "inbox_tail": ("id INTEGER PRIMARY KEY, entries BLOB NOT NULL", ""),
    "inbox": ("user_hash INTEGER, first INTEGER, places BLOB NOT NULL", "PRIMARY KEY (user_hash, first)"),
    "inbox_marks": ("user_hash INTEGER, place INTEGER, state TEXT NOT NULL", "PRIMARY KEY (user_hash, place)"),
    # frames that came from another journal, in runs: `count` of them from `seq` on were `old`, `old + 1`, ... there
    "origins": ("seq INTEGER PRIMARY KEY, count INTEGER NOT NULL, generation TEXT NOT NULL, old INTEGER NOT NULL", ""),
    # deliveries that were under way when the shard died
    "suspects": ("seq INTEGER, slot INTEGER, crashes INTEGER NOT NULL", "PRIMARY KEY (seq, slot)"),
    # deferred deliveries, by lane: what their frames' notes say, in the order in which they are due
    "timers": ("lane INTEGER, due_ms INTEGER, seq INTEGER, slot INTEGER", "PRIMARY KEY (lane, due_ms, seq, slot)"),
    # what was charged to a limit: at `at_ms` once each of `keys`, or, with `times`, all that counted then
    "limits": (
        "id INTEGER PRIMARY KEY, name TEXT NOT NULL, at_ms INTEGER NOT NULL, keys BLOB NOT NULL, times BLOB",
        "",
    ),
    # digests: an open window is due at `due_ms`; one that is closed is sent by way of the delivery at `carrier`
    "digests": (
        (
            "id TEXT PRIMARY KEY, window TEXT NOT NULL, lane INTEGER NOT NULL, due_ms INTEGER, carrier INTEGER, "
            "value BLOB NOT NULL"
        ),
        "",
    ),
    # an index of the users' documents, and how many users each topic has
    "subscriptions": ("topic TEXT, user_id TEXT", "PRIMARY KEY (topic, user_id)"),
    "topics": ("topic TEXT PRIMARY KEY, users INTEGER NOT NULL", ""),
    # notifications to topics that are being expanded, or were (``finished_ms``), and the frames that came of them
    "broadcasts": ("id TEXT PRIMARY KEY, finished_ms INTEGER, value BLOB NOT NULL", ""),
    "pages": ("id TEXT, seq INTEGER", "PRIMARY KEY (id, seq)"),
    # the rules of each version of the configuration that frames were judged by
    "configs": ("version INTEGER PRIMARY KEY, rules BLOB NOT NULL", ""),
}
WITHOUT_ROWID = frozenset(
    {
        "users",
        "health",
        "dead",
        "inbox",
        "inbox_marks",
        "suspects",
        "timers",
        "digests",
        "subscriptions",
        "topics",
        "broadcasts",
        "pages",
    }
)
INDEXES = {
    "open_frames": "ledger(seq, mask) WHERE open > 0",
    "origin": "origins(generation, old)",
    "windows": "digests(window)",
    "failing": "health(user_id) WHERE state = 'failing'",
    "due_windows": "digests(lane, due_ms) WHERE due_ms IS NOT NULL",
    "carriers": "digests(carrier) WHERE carrier IS NOT NULL",
    "open_broadcasts": "broadcasts(id) WHERE finished_ms IS NULL",
    "finished_broadcasts": "broadcasts(finished_ms) WHERE finished_ms IS NOT NULL",
}
NO_CHECKSUM = -1


class JournalError(Exception):
    """The journal cannot be used: the message names the file, what is wrong, and what to do."""


class DamagedError(JournalError):
    """The file is not what was written: it is to be put aside, and what is readable kept."""


def checksum(*values: bytes | str | int | float | None) -> int:
    """63 bits of XXH3, as SQLite's integers are signed. No booleans: SQLite gives them back as integers."""
    try:
        return xxhash.xxh3_64_intdigest(pack(values)) >> 1
    except UnicodeEncodeError:  # a text that is none any more
        return NO_CHECKSUM


@functools.cache
def columns(table: str) -> list[str]:
    """The names of a table's columns, without the checksum."""
    return [column.split()[0] for column in TABLES[table][0].split(", ")]


@functools.cache
def key_columns(table: str) -> list[str]:
    """The names of a table's primary key."""
    named, rest = TABLES[table]
    return rest.removeprefix("PRIMARY KEY (").rstrip(")").split(", ") if rest else [named.split()[0]]


@functools.cache
def has_text_key(table: str) -> bool:
    return f"{key_columns(table)[0]} TEXT" in TABLES[table][0]


def verified(path: Path, table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A whole row without its checksum; raises ``DamagedError`` where that does not match."""
    if checksum(*row[:-1]) != row[-1]:
        raise DamagedError(f"{path}: {row[0]!r} in table {table} is damaged: its checksum does not match")
    return row[:-1]


def connect(path: Path, durability: str) -> sqlite3.Connection:
    """The file, locked for this process alone; a new one is empty."""
    database = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    database.text_factory = text_of
    try:
        path.chmod(0o600)
        for pragma in (
            f"page_size = {PAGE_BYTES}",
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            f"synchronous = {'FULL' if durability == 'power' else 'NORMAL'}",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            f"cache_size = -{CACHE_KIB}",
            "cache_spill = OFF",
            "temp_store = MEMORY",
        ):
            database.execute(f"PRAGMA {pragma}")
    except BaseException as error:
        database.close()  # or the lock would be held for as long as anybody looks at the error
        if isinstance(error, UnicodeDecodeError):  # the module fails at quoting what it cannot parse
            raise DamagedError(f"{path}: the list of its tables is damaged") from None
        raise
    return database


def text_of(value: bytes) -> str:
    """What is no UTF-8 is damage: its checksum is to say so, not the decoder."""
    return value.decode("utf-8", "surrogateescape")


def is_new(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_master").fetchone() is None


def meta(database: sqlite3.Connection, key: str) -> Any:
    row = database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise DamagedError(f"table meta has no {key}")
    return row[0]


def set_meta(database: sqlite3.Connection, key: str, value: object) -> None:
    """Within the open transaction."""
    for row in ((key, value), ("crc", None)):
        database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)
    database.execute("UPDATE meta SET value = ? WHERE key = 'crc'", (_meta_checksum(database),))


def _meta_checksum(database: sqlite3.Connection) -> int:
    rows = database.execute("SELECT key, value FROM meta WHERE key <> 'crc' ORDER BY key").fetchall()
    return checksum(*(part for row in rows for part in row))


def check_meta(path: Path, database: sqlite3.Connection) -> None:
    """Raises ``DamagedError`` where the table is missing or not what was written. Format 1 had no checksum."""
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    try:
        stored = dict(database.execute("SELECT key, value FROM meta").fetchall()) if "meta" in names else {}
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        raise DamagedError(f"{path}: the columns of table meta are damaged: {error}") from None
    if stored.get("format") == 1 and "crc" not in stored:
        return
    if not stored or stored.get("crc") != _meta_checksum(database):
        raise DamagedError(f"{path}: table meta is damaged")


def check_header(path: Path) -> None:
    """Raises ``DamagedError`` where the file's first bytes are not a journal's: some errors there look like others."""
    with path.open("rb") as file:
        header = file.read(100)
    if (
        header
        and (
            len(header) < 100
            or header[:16] != b"SQLite format 3\0"
            or int.from_bytes(header[16:18], "big") != PAGE_BYTES
            or header[18:20] not in (b"\1\1", b"\2\2")  # as a new one, or one in WAL mode
            or header[44:48] not in (b"\0\0\0\0", b"\0\0\0\4")
            or header[56:60] not in (b"\0\0\0\0", b"\0\0\0\1")
        )
    ):
        raise DamagedError(f"{path}: the header of the file is damaged")


def log_path(path: Path) -> Path:
    """SQLite's own, beside the journal."""
    return path.with_name(path.name + "-wal")


def is_unopened(path: Path) -> bool:
    """Whether the file was made for a shard, and none has opened it: it has no log yet."""
    with path.open("rb") as file:
        return file.read(100)[18:20] == b"\1\1"


def check_tables(path: Path, database: sqlite3.Connection) -> None:
    """Raises ``DamagedError`` where the tables are not those of this format."""
    with contextlib.closing(sqlite3.connect(":memory:")) as expected:
        create(expected, 0, 0)
        found, wanted = (
            set(one.execute("SELECT type, name, sql FROM sqlite_master").fetchall()) for one in (database, expected)
        )
    if found != wanted:
        raise DamagedError(f"{path}: the list of its tables is damaged")


def create(database: sqlite3.Connection, shard: int, shards: int) -> None:
    """All tables, in the open transaction, with a generation that no other journal has."""
    database.execute("CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID")
    for table in TABLES:
        create_table(database, table)
    create_indexes(database)
    values = {"format": FORMAT, "generation": new_generation(), "shard": shard, "shards": shards, "channels": pack([])}
    for key, value in values.items():
        set_meta(database, key, value)


def new_generation() -> str:
    return secrets.token_hex(4)


def begin_generation(database: sqlite3.Connection, last: int) -> str:
    """Name what follows frame ``last`` anew, in the open transaction.

    Needed wherever numbers that were given out may be given again: in a generation of their own they mislead nobody.
    """
    known = database.execute("SELECT coalesce(max(seq + count - 1), 0) FROM origins").fetchone()[0]
    if last > known:
        add_origin(database, known + 1, last - known, str(meta(database, "generation")), known + 1)
    generation = new_generation()
    set_meta(database, "generation", generation)
    return generation


def add_origin(database: sqlite3.Connection, seq: int, count: int, generation: str, old: int) -> None:
    """``count`` frames from ``seq`` on were numbered ``old``, ``old + 1``, ... in another generation."""
    row = (seq, count, generation, old)
    database.execute("INSERT INTO origins VALUES (?, ?, ?, ?, ?)", (*row, checksum(*row)))


def create_table(database: sqlite3.Connection, table: str) -> None:
    named, rest = TABLES[table]
    parts = ", ".join(filter(None, (named, "crc INTEGER NOT NULL", rest)))
    database.execute(f"CREATE TABLE {table}({parts}){' WITHOUT ROWID' if table in WITHOUT_ROWID else ''}")


def create_indexes(database: sqlite3.Connection) -> None:
    for name, on in INDEXES.items():
        database.execute(f"CREATE INDEX {name} ON {on}")
