"""Following in-app notifications from Python: each once and in order, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest

from dispatcher import ClientKeys, InboxItem, NotificationService, RequestError
from dispatcher.api import inapp
from dispatcher.curve import read_pair, read_public
from tests.support.keys import SERVER, KeyRing
from tests.support.service import RunningDispatcher, free_endpoints, wait_until

PATIENCE_S = 60.0
NEVER_S = 1_000.0


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[RunningDispatcher]:
    with RunningDispatcher() as running:
        yield running


@pytest.fixture(scope="module")
def service(dispatcher: RunningDispatcher) -> Iterator[NotificationService]:
    with NotificationService(submit=dispatcher.submit, stream=dispatcher.stream, timeout=PATIENCE_S) as one:
        yield one


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def say(service: NotificationService, user: str, *titles: str) -> None:
    service.batch_notify({"user_id": user, "title": title} for title in titles)


class Seen(list[str]):
    """A callback that keeps the titles, of users whose name begins as given."""

    def __init__(self, prefix: str = "") -> None:
        super().__init__()
        self._prefix = prefix

    def __call__(self, item: InboxItem) -> None:
        if item.user_id.startswith(self._prefix):
            self.append(item.title or "")

    def until(self, *titles: str) -> None:
        wait_until(lambda: len(self) >= len(titles), PATIENCE_S, f"{titles}")
        assert tuple(self) == titles


def test_each_item_once_and_in_order_from_a_cursor_on(service: NotificationService, user: str) -> None:
    say(service, user, "0", "1", "2")
    items = service.inapp(user, after=1)
    assert [item.title for item in islice(items, 2)] == ["1", "2"]
    for at in range(3, 30):
        say(service, user, str(at))
        item = next(items)
        assert (item.title, item.cursor, item.user_id) == (str(at), at + 1, user)
    items.close()


def test_many_pages_come_before_what_is_new(
    service: NotificationService, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inapp, "PAGE", 3)
    titles = [str(at) for at in range(20)]
    say(service, user, *titles)
    seen = Seen()
    with service.on_inapp(seen, user) as subscription:
        seen.until(*titles)
        say(service, user, "new")
        seen.until(*titles, "new")
        wait_until(lambda: subscription.cursor == 21, PATIENCE_S, "the cursor")


@pytest.mark.parametrize("check_s", [NEVER_S, 0.3], ids=["by the gap", "by asking"])
def test_nothing_is_missed_where_the_router_is_killed(
    dispatcher: RunningDispatcher,
    service: NotificationService,
    user: str,
    check_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inapp, "CHECK_S", check_s)
    seen = Seen()
    said: list[str] = []
    numbers = count()

    def more(times: int) -> None:
        for _ in range(times):
            said.append(str(next(numbers)))
            say(service, user, said[-1])

    with service.on_inapp(seen, user):
        more(5)
        for _ in range(2):
            os.kill(dispatcher.child_pids()["router"], signal.SIGKILL)
            more(5)  # some of them before the new router knows who is subscribed

        def all_seen() -> bool:
            if check_s == NEVER_S and len(seen) < len(said):
                more(1)  # only the next one tells that some are missing
            return len(seen) >= len(said)

        wait_until(all_seen, PATIENCE_S, "all items")
    assert seen == said


def test_everybody_is_followed_through_the_kill_of_the_router(
    dispatcher: RunningDispatcher, service: NotificationService, user: str
) -> None:
    seen = Seen(user)
    users = [f"{user}-{at}" for at in range(5)]
    said: list[str] = []
    with service.on_inapp(seen):

        def is_heard() -> bool:
            for one in users:
                said.append(f"{one} {len(said)}")
                say(service, one, said[-1])
            return set(said[-5:]) <= set(seen)

        wait_until(is_heard, PATIENCE_S, "that all users are known")
        del said[: -len(seen)]
        os.kill(dispatcher.child_pids()["router"], signal.SIGKILL)
        for one in users:
            for at in range(5):
                said.append(f"{one} after {at}")
                say(service, one, said[-1])
        wait_until(lambda: set(said[-25:]) <= set(seen), PATIENCE_S, "all that was said, without another word")
    assert len(seen) == len(set(seen))
    for one in users:
        mine = [title for title in seen if title.startswith(one)]
        assert mine == [title for title in said if title in mine]


def test_without_a_stream_the_inbox_is_asked(
    dispatcher: RunningDispatcher, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inapp, "CHECK_S", 0.1)
    (nowhere,) = free_endpoints(1)
    seen = Seen()
    with NotificationService(submit=dispatcher.submit, stream=nowhere) as service, service.on_inapp(seen, user):
        say(service, user, "a")
        seen.until("a")
        say(service, user, "b", "c")
        seen.until("a", "b", "c")


def test_a_dispatcher_that_is_away_is_waited_for(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inapp, "ANSWER_S", 0.1)
    late = RunningDispatcher(shards=1)
    seen = Seen()
    with NotificationService(submit=late.submit, stream=late.stream) as service, service.on_inapp(seen, user), late:
        say(service, user, "late")
        seen.until("late")


def test_an_exception_of_the_callback_is_logged_ends_it_and_is_told(
    service: NotificationService, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    say(service, user, "a", "b")
    seen = Seen()

    def careless(item: InboxItem) -> None:
        seen(item)
        raise KeyError("order")

    subscription = service.on_inapp(careless, user)
    wait_until(subscription.ended.done, PATIENCE_S, "its end")
    assert "KeyError: 'order'" in caplog.text
    with pytest.raises(KeyError, match="order"):
        subscription.stop()
    subscription.stop()
    assert (seen, subscription.cursor) == (["a"], 0)


def test_a_callback_may_stop_its_subscription(service: NotificationService, user: str) -> None:
    say(service, user, "a", "b")
    seen = Seen()
    made = threading.Event()

    def once(item: InboxItem) -> None:
        seen(item)
        assert made.wait(PATIENCE_S)
        subscription.stop()

    subscription = service.on_inapp(once, user)
    made.set()
    wait_until(subscription.ended.done, PATIENCE_S, "its end")
    assert seen == ["a"]


def test_a_service_that_is_shut_down_ends_its_subscriptions(dispatcher: RunningDispatcher, user: str) -> None:
    service = NotificationService(submit=dispatcher.submit, stream=dispatcher.stream)
    one, everybody = service.on_inapp(Seen(), user), service.on_inapp(Seen())
    items = service.inapp(user)
    service.shutdown()
    assert one.ended.done()
    assert everybody.ended.done()
    assert list(items) == []
    one.stop()


def test_what_is_refused_is_raised(service: NotificationService) -> None:
    with pytest.raises(RequestError, match="user_id"):
        next(service.inapp(""))
    with pytest.raises(ValueError, match="a cursor is of one user"):
        service.on_inapp(print, after=3)


def test_with_keys(tmp_path: Path, user: str) -> None:
    ring = KeyRing(tmp_path)
    theirs = ring.new("ada")
    ring.admit("ada")
    keys = ClientKeys(read_pair(ring.secret("ada")), read_public(ring.public(SERVER)))
    seen = Seen()
    with (
        RunningDispatcher(ring.config, shards=1, keys=theirs) as dispatcher,
        NotificationService(submit=dispatcher.submit, stream=dispatcher.stream, keys=keys) as service,
        service.on_inapp(seen, user),
    ):
        say(service, user, "a")
        seen.until("a")


def test_a_callback_that_hangs_does_not_hold_up_the_shutdown(dispatcher: RunningDispatcher, user: str) -> None:
    called, end = threading.Event(), threading.Event()

    def hang(_: InboxItem) -> None:
        called.set()
        end.wait(PATIENCE_S)

    service = NotificationService(submit=dispatcher.submit, stream=dispatcher.stream)
    subscription = service.on_inapp(hang, user)
    service.notify(user_id=user, title="a")
    assert called.wait(PATIENCE_S)
    service.shutdown(0.1)
    assert not subscription.ended.done()
    end.set()
    subscription.stop()
