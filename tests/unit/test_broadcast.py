"""Whom a broadcast has reached, however its users are distributed."""

from __future__ import annotations

import random

import msgspec
import pytest

from dispatcher.router.broadcasts import merge
from shards.broadcast import EVERYBODY, Broadcast, merged
from shards.wire.encoding import pack
from shards.wire.ids import hash_user
from shards.wire.notification import Notification

USERS = sorted(f"user-{number}" for number in range(300))
PAGE = 7


def broadcast() -> Broadcast:
    return Broadcast("b-1", "news", "system", pack(Notification(topic="news", title="x")), 1, 1, None, 0)


def expand(broadcast: Broadcast, users: list[str], pages: int) -> list[str]:
    """Who is in the next pages."""
    reached = []
    for _ in range(pages):
        if broadcast.finished_ms is not None:
            break
        page = [user for user in users if user > broadcast.cursor()][:PAGE]
        reached += broadcast.still_to_reach(page)
        broadcast.advance(page[-1] if len(page) == PAGE else EVERYBODY)
        if len(page) < PAGE:
            broadcast.end("done", 1)
    return reached


@pytest.mark.parametrize("seed", range(30))
def test_each_user_once_over_any_changes_of_the_number_of_shards(seed: int) -> None:
    chance = random.Random(seed)
    parts = [broadcast() for _ in range(chance.randint(1, 4))]
    reached: list[str] = []
    for last in (False, False, False, True):
        count = len(parts)
        for shard, part in enumerate(parts):
            mine = [user for user in USERS if hash_user(user) % count == shard]
            reached += expand(part, mine, 1_000 if last else chance.randint(0, 6))
        if not last:
            whole = pack(merged(list(enumerate(parts)), count))
            parts = [msgspec.msgpack.decode(whole, type=Broadcast) for _ in range(chance.randint(1, 4))]
    assert sorted(reached) == USERS
    assert all(part.state == "done" for part in parts)


def test_users_are_counted_once_after_a_change_of_the_number_of_shards() -> None:
    first, second = broadcast(), broadcast()
    first.users, first.done = 300, 100  # all that was counted before
    second.done = 50  # since then
    whole = merge([first.document(), second.document()])
    assert (whole["users_done"], whole["users"]) == (150, 300)
    first.done = 290
    assert merge([first.document(), second.document()])["users"] == 340, "some came meanwhile"


def test_where_one_shard_has_cancelled_all_are_swept() -> None:
    one, other = broadcast(), broadcast()
    one.cancel(77)
    other.state = "expanding"
    whole = merged([(0, one), (1, other)], 2)
    assert (whole.state, whole.finished_ms) == ("cancelled", None)
    assert whole.swept > 77


def test_what_has_ended_everywhere_has_ended() -> None:
    one, other = broadcast(), broadcast()
    one.done, other.done = 3, 4
    one.end("done", 5)
    other.end("done", 6)
    whole = merged([(0, one), (1, other)], 2)
    assert (whole.state, whole.finished_ms, whole.done) == ("done", 6, 7)
