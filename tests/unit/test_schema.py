"""The journal's format: every row is checked whole, an older format is brought along, a newer one refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards import schema
from shards.migration import migrate
from shards.schema import DamagedError, JournalError, checksum


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.create(connection, 0, 1)
    yield connection
    connection.close()


def test_the_names_of_columns_are_those_of_the_tables(database: sqlite3.Connection) -> None:
    for table in schema.TABLES:
        found = database.execute(f"PRAGMA table_info({table})").fetchall()
        assert [row[1] for row in found] == [*schema.columns(table), "crc"]
        keys = sorted((row[5], row[1]) for row in found if row[5])
        assert [name for _, name in keys] == schema.key_columns(table)


@pytest.mark.parametrize(
    ("one", "other"),
    [((1, 23), (12, 3)), ((b"a", None), (b"a",)), ((None, b"a"), (b"a", None)), (("1",), (1,)), ((0,), (None,))],
)
def test_rows_that_differ_have_checksums_that_differ(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert checksum(*one) != checksum(*other)  # type: ignore[arg-type]  # rows of all kinds


def test_a_row_that_does_not_match_is_named() -> None:
    row = (5, b"blob")
    assert schema.verified(Path("j.db"), "outbox", (*row, checksum(*row))) == row
    with pytest.raises(DamagedError, match=r"j\.db: 5 in table outbox is damaged"):
        schema.verified(Path("j.db"), "outbox", (*row, checksum(*row) ^ 1))


def test_a_newer_format_is_refused_with_the_remedy(database: sqlite3.Connection) -> None:
    database.execute("UPDATE meta SET value = ? WHERE key = 'format'", (schema.FORMAT + 1,))
    with pytest.raises(JournalError, match=r"has format 5.*reads formats 1 to 4.*newer"):
        migrate(Path("j.db"), database)


def test_generations_follow_each_other_without_overlap(database: sqlite3.Connection) -> None:
    first = schema.meta(database, "generation")
    schema.begin_generation(database, 10)
    second = schema.meta(database, "generation")
    schema.begin_generation(database, 10)
    third = schema.meta(database, "generation")
    schema.begin_generation(database, 15)
    found = database.execute("SELECT seq, count, generation, old FROM origins ORDER BY seq").fetchall()
    assert found == [(1, 10, first, 1), (11, 5, third, 11)]
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("column", ["key", "value"])
def test_a_damaged_name_of_a_column_is_damage(database: sqlite3.Connection, column: str) -> None:
    database.execute(f"ALTER TABLE meta RENAME COLUMN {column} TO keyy")
    with pytest.raises(DamagedError, match="meta"):
        schema.check_meta(Path("j.db"), database)
