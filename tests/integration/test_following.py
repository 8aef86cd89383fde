"""Following a user's in-app notifications from Python: each once and in order, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from dispatcher import following
from dispatcher.client import Client, ClientError
from dispatcher.curve import ClientKeys, read_pair, read_public
from dispatcher.following import Following, follow
from tests.support.keys import SERVER, KeyRing
from tests.support.service import RunningDispatcher, free_endpoints, wait_until

PATIENCE_S = 60.0
NEVER_S = 1_000.0


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher() as running:
        yield running


@pytest.fixture
def new_user(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def say(service: RunningDispatcher, user: str, *titles: str, keys: ClientKeys | None = None) -> None:
    """Submit, again until there is a receipt."""
    batch = [{"user_id": user, "title": title, "idempotency_key": title} for title in titles]

    def has_receipt() -> bool:
        try:
            return bool(client.request("submit", notifications=batch))
        except ClientError:
            return False

    with Client(service.submit, 2.0, keys) as client:
        wait_until(has_receipt, PATIENCE_S, "a receipt")


class Seen(list[str]):
    """A callback that keeps the titles."""

    def __call__(self, item: dict[str, Any]) -> None:
        self.append(item["title"])

    def until(self, *titles: str) -> None:
        wait_until(lambda: len(self) >= len(titles), PATIENCE_S, f"{titles}")
        assert tuple(self) == titles


def test_each_item_once_and_in_order_from_a_cursor_on(service: RunningDispatcher, new_user: str) -> None:
    say(service, new_user, "0", "1", "2")
    items = follow(new_user, 1, submit=service.submit, stream=service.stream)
    assert [item["title"] for item in islice(items, 2)] == ["1", "2"]
    for at in range(3, 30):
        say(service, new_user, str(at))
        item = next(items)
        assert (item["title"], item["cursor"], item["user_id"]) == (str(at), at + 1, new_user)
    items.close()


def test_many_pages_come_before_what_is_new(
    service: RunningDispatcher, new_user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PAGE", 3)
    titles = [str(at) for at in range(20)]
    say(service, new_user, *titles)
    seen = Seen()
    with Following(new_user, seen, submit=service.submit, stream=service.stream) as one:
        seen.until(*titles)
        say(service, new_user, "new")
        seen.until(*titles, "new")
        wait_until(lambda: one.cursor == 21, PATIENCE_S, "the cursor")


@pytest.mark.parametrize("check_s", [NEVER_S, 0.3], ids=["by the gap", "by asking"])
def test_nothing_is_missed_where_the_router_is_killed(
    service: RunningDispatcher, new_user: str, check_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "CHECK_S", check_s)
    seen = Seen()
    said: list[str] = []
    numbers = count()

    def more(times: int) -> None:
        for _ in range(times):
            said.append(str(next(numbers)))
            say(service, new_user, said[-1])

    with Following(new_user, seen, submit=service.submit, stream=service.stream):
        more(5)
        for _ in range(2):
            os.kill(service.child_pids()["router"], signal.SIGKILL)
            more(5)  # some of them before the new router knows who is subscribed

        def all_seen() -> bool:
            if check_s == NEVER_S and len(seen) < len(said):
                more(1)  # only the next one tells that some are missing
            return len(seen) >= len(said)

        wait_until(all_seen, PATIENCE_S, "all items")
    assert seen == said


def test_without_a_stream_the_inbox_is_asked(
    service: RunningDispatcher, new_user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "CHECK_S", 0.1)
    (nowhere,) = free_endpoints(1)
    seen = Seen()
    with Following(new_user, seen, submit=service.submit, stream=nowhere):
        say(service, new_user, "a")
        seen.until("a")
        say(service, new_user, "b", "c")
        seen.until("a", "b", "c")


def test_a_dispatcher_that_is_away_is_waited_for(new_user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ANSWER_S", 0.1)
    late = RunningDispatcher(shards=1)
    seen = Seen()
    with Following(new_user, seen, submit=late.submit, stream=late.stream), late:
        say(late, new_user, "late")
        seen.until("late")


def test_an_exception_of_the_callback_ends_it_and_is_told(service: RunningDispatcher, new_user: str) -> None:
    say(service, new_user, "a", "b")
    seen = Seen()

    def careless(item: dict[str, Any]) -> None:
        seen(item)
        raise KeyError("order")

    one = Following(new_user, careless, submit=service.submit, stream=service.stream)
    wait_until(lambda: seen, PATIENCE_S, "the first item")
    with pytest.raises(KeyError, match="order"):
        one.stop()
    one.stop()
    assert (seen, one.cursor) == (["a"], 0)


def test_what_is_refused_is_raised(service: RunningDispatcher) -> None:
    with pytest.raises(ClientError, match="user_id"):
        next(follow("", submit=service.submit, stream=service.stream))


def test_with_keys(tmp_path: Path, new_user: str) -> None:
    ring = KeyRing(tmp_path)
    theirs = ring.new("ada")
    ring.admit("ada")
    keys = ClientKeys(read_pair(ring.secret("ada")), read_public(ring.public(SERVER)))
    seen = Seen()
    with (
        RunningDispatcher(ring.config, shards=1, keys=theirs) as service,
        Following(new_user, seen, submit=service.submit, stream=service.stream, keys=keys),
    ):
        say(service, new_user, "a", keys=keys)
        seen.until("a")
