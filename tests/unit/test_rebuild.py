"""What waits goes along to other shards, and is found where something of it is missing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from shards.digests import DigestSettings
from shards.inspection import inspect
from shards.rebuild import Rebuild
from shards.source import Source
from shards.target import Target
from shards.units import Seconds
from shards.wire.ids import hash_user
from tests.support.world import World

HOUR = {"d": DigestSettings(template="digest", window=Seconds(3600.0))}
EMAIL = {"channels": ["email"]}


@pytest.fixture
def old(tmp_path: Path) -> Iterator[World]:
    """A digest that is retried, one that is open, a schedule, and one that waits for the end of quiet hours."""
    (tmp_path / "old").mkdir()
    world = World(tmp_path / "old", digests=HOUR)
    world.submit({"channels": ["inapp"]})
    world.failing = {"email"}
    world.submit(*({**EMAIL, "idempotency_key": f"sent-{n}", "title": f"sent {n}"} for n in range(3)))
    world.advance(3600)
    world.submit(
        {**EMAIL, "idempotency_key": "alone", "priority": "critical", "send_at": world.now_us // 1000 + 60_000}
    )
    world.submit(*({**EMAIL, "idempotency_key": f"open-{n}", "title": f"open {n}"} for n in range(3)))
    world.user("bob", preferences={"quiet_hours": {"start": "00:00", "end": "23:59"}})
    world.submit({**EMAIL, "user_id": "bob", "category": "transaction", "idempotency_key": "quiet"})
    world.submit({**EMAIL, "user_id": "bob", "idempotency_key": "open"})
    world.shard.journal.begin()
    world.shard.journal.prune([1])  # from here on, other journals number differently
    world.shard.journal.commit()
    yield world
    world.close()


def problems(world: World, *statements: str) -> list[str]:
    """What ``check`` says of its journal, after this."""
    world.close()
    path = Path(world.settings.path)
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return inspect(path, world.settings.shard, world.settings.shards, lambda _done, _total: None).problems


def rebuilt(directory: Path, sources: list[World], shards: int, run: bool = True) -> list[World]:
    """Worlds that go on from theirs; without ``run`` they have done nothing yet."""
    with ExitStack() as stack:
        for world in sources:
            world.close()
        opened = [stack.enter_context(closing(Source(Path(world.settings.path), losses=[]))) for world in sources]
        paths = [directory / f"{shards}-{shard}" for shard in range(shards)]
        for path in paths:
            path.mkdir()
        targets = [Target(path / "shard-0.db", shard, shards) for shard, path in enumerate(paths)]
        Rebuild(opened, targets, {}).run([world.settings.shard for world in sources])
    worlds = []
    for shard, path in enumerate(paths):
        world = World(path, digests=HOUR, shard=shard, shards=shards)
        world.now_us = sources[0].now_us
        if run:
            world.restart()
        worlds.append(world)
    return worlds


def owner(worlds: list[World], user_id: str) -> World:
    return worlds[hash_user(user_id) % len(worlds)]


def finish(worlds: list[World]) -> None:
    for world in worlds:
        world.advance(7200)


def digests_of(world: World) -> list[tuple[str, list[str]]]:
    """``(user, titles)`` of what was sent as digests."""
    found = []
    for sent in world.sent:
        payload = sent.said.payload
        if payload is not None and "items" in payload:
            found.append((str(sent.said.user_id), [str(one["title"]) for one in payload["items"]]))
    return found


def test_what_is_whole_has_no_problems(old: World) -> None:
    assert problems(old) == []


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM timers", "is deferred, and has no timer"),
        ("DELETE FROM digests WHERE due_ms IS NOT NULL", "waits for a digest that is not there"),
        ("DELETE FROM digests WHERE carrier IS NOT NULL", "waits for a digest that is not there"),
        ("UPDATE timers SET due_ms = due_ms + 1", "table timers"),
        ("UPDATE digests SET due_ms = due_ms + 1 WHERE due_ms IS NOT NULL", "table digests"),
    ],
)
def test_check_finds_what_nobody_would_wake(old: World, statement: str, says: str) -> None:
    assert any(says in problem for problem in problems(old, statement))


def test_check_finds_a_digest_of_what_is_not_there(old: World) -> None:
    gone = "DELETE FROM {} WHERE seq = (SELECT min(carrier) >> 16 FROM digests)"
    found = problems(old, gone.format("frames"), gone.format("ledger"))
    assert any("is sent with frame" in problem for problem in found)


def test_across_other_numbers_of_shards(old: World, tmp_path: Path) -> None:
    """1, 3, 2, 1: what is due is sent once."""
    worlds = [old]
    for shards in (3, 2, 1):
        worlds = rebuilt(tmp_path, worlds, shards)
        assert [problems(world) for world in worlds] == [[]] * shards
        for world in worlds:
            world.restart()
    finish(worlds)
    (world,) = worlds
    of_ann = [("ann", ["sent 0", "sent 1", "sent 2"]), ("ann", ["open 0", "open 1", "open 2"])]
    assert sorted(digests_of(world)) == sorted(of_ann)
    assert {world.outcome(f"{kind}-{n}") for kind in ("sent", "open") for n in range(3)} == {"delivered"}
    assert world.outcome("alone") == "delivered"
    assert world.outcome("open", "bob") == "deferred:quiet_hours"
    world.until("2026-01-05T23:59:00Z")
    assert digests_of(world)[2:] == [("bob", ["hello"])] * 2, "of two categories"
    assert not world.core.deferrals.dues.items()
    assert world.conserved
    world.close()


def test_the_users_shard_has_the_digest(old: World, tmp_path: Path) -> None:
    worlds = rebuilt(tmp_path, [old], 2)
    finish(worlds)
    for user_id, count in (("ann", 2), ("bob", 0)):
        found = [one for one in digests_of(owner(worlds, user_id)) if one[0] == user_id]
        assert len(found) == count, "bob's waits for the end of quiet hours"
    for world in worlds:
        world.close()


def test_what_was_cancelled_while_a_digest_was_sent_is_known_under_its_new_number(old: World, tmp_path: Path) -> None:
    old.hold = True
    old.advance(60)
    assert old.ask("cancel", user_id="ann", idempotency_key="sent-1") == {"cancelled": 0}
    worlds = rebuilt(tmp_path, rebuilt(tmp_path, [old], 3, run=False), 2)
    world = owner(worlds, "ann")
    assert world.outcome("sent-1") == "cancelled:cancelled"
    assert digests_of(world) == [("ann", ["sent 0", "sent 2"])]
    for one in worlds:
        one.close()


@pytest.mark.parametrize("lost", ["carrier IS NOT NULL", "due_ms IS NOT NULL"])
def test_what_has_lost_its_digest_is_decided_again(old: World, tmp_path: Path, lost: str) -> None:
    problems(old, f"DELETE FROM digests WHERE {lost}")
    (world,) = rebuilt(tmp_path, [old], 1)
    finish([world])
    assert {world.outcome(f"{kind}-{n}") for kind in ("sent", "open") for n in range(3)} == {"delivered"}
    assert world.conserved
    world.close()


def test_lost_timers_are_made_again(old: World, tmp_path: Path) -> None:
    problems(old, "DELETE FROM timers")
    (world,) = rebuilt(tmp_path, [old], 1)
    finish([world])
    assert world.outcome("alone") == "delivered"
    world.close()


def test_what_an_operator_has_paused_stays_so_in_every_shard(old: World, tmp_path: Path) -> None:
    since_ms = old.now_us // 1000
    old.shard.pauses.pause("email", old.now)
    old.advance(60)
    new = rebuilt(tmp_path, [old], 3)
    assert [world.shard.stats(world.now)["channels"]["email"]["state"]["paused"]["since_ms"] for world in new] == [
        since_ms
    ] * 3
    for world in new:
        world.close()
