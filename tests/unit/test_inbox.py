"""The inbox: numbered places per user."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

import shards.inbox
from shards.inbox import PLACE_SHIFT, Inbox
from shards.schema import DamagedError, create
from tests.support.world import World

EVERYTHING = 2**62
ANN, BOB = 7, -(2**63)  # hashes are signed


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create(connection, 0, 1)
    yield connection
    connection.close()


def place(seq: int, index: int = 0) -> int:
    return seq << PLACE_SHIFT | index


def append(inbox: Inbox, *entries: tuple[int, int]) -> None:
    inbox.append(array("q", [value for entry in entries for value in entry]))


def test_numbers_are_per_user_and_start_at_one(database: sqlite3.Connection) -> None:
    inbox = Inbox(Path(), database)
    append(inbox, (ANN, place(1)), (BOB, place(1, 1)), (ANN, place(2)))
    assert inbox.places(ANN, 0, EVERYTHING) == [(1, place(1)), (2, place(2))]
    assert inbox.places(BOB, 0, EVERYTHING) == [(1, place(1, 1))]
    assert inbox.last_number(ANN) == 2
    assert inbox.last_number(12345) == 0


def test_numbers_have_no_gap_over_the_sorting_in(database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.inbox, "TAIL_MAX", 4)
    inbox = Inbox(Path(), database)
    for seq in range(1, 12):
        append(inbox, (ANN, place(seq)), (BOB, place(seq, 1)))
        assert inbox.last_number(ANN) == seq
    assert inbox.places(ANN, 0, EVERYTHING) == [(seq, place(seq)) for seq in range(1, 12)]
    assert database.execute("SELECT count(*) FROM inbox WHERE user_hash = ?", (ANN,)).fetchone()[0] > 1


def test_a_restart_goes_on_sorting_in(database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards.inbox, "TAIL_MAX", 20)
    monkeypatch.setattr(shards.inbox, "SORTED_USERS", 3)
    inbox = Inbox(Path(), database)
    users = [*range(-5, 5)]
    for seq in range(1, 60):
        append(inbox, (users[seq % 7 - 3], place(seq)), (users[seq % 10], place(seq, 1)))
        inbox = Inbox(Path(), database)
        expected = {
            user: [
                here
                for one in range(1, seq + 1)
                for name, here in ((users[one % 7 - 3], place(one)), (users[one % 10], place(one, 1)))
                if name == user
            ]
            for user in users
        }
        assert {user: inbox.places(user, 0, EVERYTHING) for user in users} == {
            user: list(enumerate(places, 1)) for user, places in expected.items()
        }
        assert all(inbox.last_number(user) == len(places) for user, places in expected.items())
    assert database.execute("SELECT count(*) FROM inbox").fetchone()[0] > len(users)


@pytest.mark.parametrize("after", range(7))
@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_page_begins_after_the_cursor(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, after: int, count: int
) -> None:
    monkeypatch.setattr(shards.inbox, "TAIL_MAX", 2)
    inbox = Inbox(Path(), database)
    for seq in range(1, 6):
        append(inbox, (ANN, place(seq)))
    expected = [(seq, place(seq)) for seq in range(1, 6) if seq > after][:count]
    assert inbox.places(ANN, after, count) == expected


def test_a_restart_changes_nothing(database: sqlite3.Connection) -> None:
    inbox = Inbox(Path(), database)
    append(inbox, (ANN, place(1)))
    append(inbox, (ANN, place(2)))
    assert Inbox(Path(), database).places(ANN, 0, EVERYTHING) == inbox.places(ANN, 0, EVERYTHING)


def test_marks_and_unread(database: sqlite3.Connection) -> None:
    inbox = Inbox(Path(), database)
    append(inbox, (ANN, place(1)), (ANN, place(2)), (ANN, place(3)))
    assert (inbox.unread(ANN, 1), inbox.state(ANN, place(1))) == (3, "new")
    inbox.mark(ANN, place(1), "seen")
    inbox.mark(ANN, place(2), "read")
    inbox.mark(ANN, place(3), "archived")
    assert (inbox.unread(ANN, 1), inbox.state(ANN, place(2))) == (1, "read")


def test_what_is_no_longer_kept_is_not_unread(database: sqlite3.Connection) -> None:
    inbox = Inbox(Path(), database)
    append(inbox, (ANN, place(1)), (ANN, place(5)))
    inbox.mark(ANN, place(1), "read")
    assert inbox.unread(ANN, 5) == 1


def test_damage_is_not_sorted_in(database: sqlite3.Connection) -> None:
    append(Inbox(Path(), database), (ANN, place(1)))
    database.execute("UPDATE inbox_tail SET entries = ?", (array("q", [BOB, place(1)]).tobytes(),))
    with pytest.raises(DamagedError, match="inbox_tail"):
        Inbox(Path(), database)


def test_what_is_pruned_leaves_pages_that_go_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    for title in ("1", "2", "3"):
        world.submit({"channels": ["inapp"], "title": title})

    def prune(*frames: int) -> None:
        world.shard.journal.begin()
        world.shard.journal.prune([*frames])
        world.shard.journal.commit()

    prune(1, 2)
    page = world.ask("inbox.list", user_id="ann", limit=2)
    assert (page["items"], page["next"], page["unread"]) == ([], 2, 1)
    page = world.ask("inbox.list", user_id="ann", limit=2, cursor=page["next"])
    assert ([item["cursor"] for item in page["items"]], page["next"]) == ([3], None)
    prune(3)
    page = world.ask("inbox.list", user_id="ann")
    assert (page["items"], page["next"], page["unread"]) == ([], None, 0)
    world.submit({"channels": ["inapp"]})
    assert [item["cursor"] for item in world.inbox()] == [4]
    world.close()
