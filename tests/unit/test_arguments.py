"""What callers give by mistake is told at once, by the name of the argument, and nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dispatcher import (
    AsyncNotificationService,
    DispatcherError,
    Notification,
    NotificationService,
    RejectedError,
    ShutdownError,
)
from dispatcher.api.receiving import flattened
from dispatcher.api.results import BatchReceipt

NOBODY = "tcp://127.0.0.1:1"
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - that is what it is about
Call = Callable[[Any], Any]


class Pager:
    name = "pager"

    def supports_recipient(self, _recipient: Any) -> bool:
        return True

    async def send(self, _delivery: Any) -> None: ...


class Silent(Pager):
    async def send(self) -> None: ...  # type: ignore[override]  # that is what it is about


async def show(_item: Any) -> None: ...


@pytest.fixture(scope="module")
def service() -> Iterator[NotificationService]:
    """Of a dispatcher that is not there: what is sent all the same fails as ``UnavailableError``."""
    one = NotificationService(submit=NOBODY, stream=NOBODY, timeout=0.2)
    yield one
    one.shutdown(0.0)


RECEIPT = flattened(BatchReceipt(1, 0, ["a-1"]), [1])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda it: it.notify_all(title="a", recipients="ada"), "recipients must be a list of user ids, .*not str"),
        (lambda it: it.notify_all(title="a", recipients=3), "recipients must be a list .* and not int"),
        (lambda it: it.mark("ada", "a-1", "read"), "ids must be a list of ids, even for one, and not str"),
        (lambda it: it.batch_notify({"user_id": "ada"}), "notifications must be a list .*, even for one, and not dict"),
        (lambda it: it.batch_notify(Notification(user_id="ada")), "notifications must be a list .* not Notification"),
        (lambda it: it.batch_notify("ada"), "notifications must be a list"),
        (lambda it: it.batch_notify(None), "and not None"),
        (lambda it: it.batch_notify([], timeout="5"), "timeout must be a number of seconds, and not str"),
        (lambda it: it.batch_notify([], timeout=0), "timeout must be more than 0"),
        (lambda it: it.notify("ada"), "a notification is a Notification or a mapping"),
        (lambda it: it.explain("ada"), "a notification is a Notification or a mapping"),
        (lambda it: it.wait(RECEIPT), "id must be a text, and not Receipt; give its id"),
        (lambda it: it.wait(None), "id must be a text, and not None"),
        (lambda it: it.wait("a-1", "5"), "timeout must be a number of seconds"),
        (lambda it: it.wait("a-1", -1), "timeout must be 0 or more"),
        (lambda it: it.status(RECEIPT), "give its id"),
        (lambda it: it.cancel(user_id=RECEIPT, idempotency_key="a"), "user_id must be a text, and not Receipt$"),
        (lambda it: it.put_user("ada", None), "user must be a mapping like .*contacts.* and not None"),
        (lambda it: it.put_user("ada", {"locale": object()}), "user.locale: a value of type object cannot be sent"),
        (lambda it: it.register_template("a", "x"), "parts must be a mapping like .*title.* and not str"),
        (lambda it: list(it.inbox("ada", limit="5")), "limit must be an integer, and not str"),
        (lambda it: list(it.inbox("ada", limit=-5)), "limit must be 0 or more, and not -5"),
        (lambda it: it.replay(limit="5"), "limit must be an integer"),
        (lambda it: it.purge(since=NAIVE), "since has no time zone"),
        (lambda it: list(it.dead_letters(since=NAIVE)), "since has no time zone"),
        (lambda it: it.on_inapp(None), "callback must be a function of an item, and not NoneType"),
        (lambda it: it.on_inapp("ada", print), "callback must be a function"),
        (lambda it: it.on_inapp(print, print), "user_id must be a text"),
        (lambda it: it.on_inapp(print, "ada", after="3"), "after must be an integer"),
        (lambda it: it.on_inapp(show), "callback is a coroutine function, which AsyncNotificationService awaits"),
        (lambda it: it.inapp(3), "user_id must be a text"),
        (lambda it: it.register_channel("pager", Pager), r"Pager is a class; give an object of it, Pager\(\)"),
        (lambda it: it.register_channel("pager", object()), "it has no send"),
        (lambda it: it.register_channel("pager", Silent()), "Silent.send must take one argument, the delivery"),
        (lambda it: it.register_channel(3, Pager()), "name must be a text"),
        (lambda it: it.register_channel("pager", Pager(), concurrency="8"), "concurrency must be an integer"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_meant_is_named(service: NotificationService, call: Call, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        call(service)


@pytest.mark.parametrize(
    ("call", "field", "told"),
    [
        (lambda it: it.notify_all(title="a", topic="t", recipients=["a"]), "topic", "both topic and recipients"),
        (lambda it: it.notify_all({"title": "a", "topic": "t"}), "topic", "topic is given in the notification"),
        (lambda it: it.notify_all(Notification(title="a", user_id="ada")), "user_id", "user_id is given"),
        (lambda it: it.notify(user_id="a", send_at=NAIVE), "send_at", "no time zone"),
        (lambda it: it.notify(user_id="a", payload={"x": [1, {"y": 1j}]}), "payload.x[1].y", "complex cannot be sent"),
        (lambda it: it.notify(Notification(user_id="a", payload={"x": object()})), "payload.x", "type object"),
        (lambda it: it.notify(user_id="a", payload={"x": 2**80}), "payload.x", "more than 64 bits; send it as text"),
        (lambda it: it.notify(user_id="a", title="\ud800"), "title", "a text has a lone surrogate"),
        (lambda it: it.notify(user_id="a", payload={object(): 1}), "payload", "a key that cannot be sent"),
        (lambda it: it.notify(user_id="a", payload=in_itself()), "payload", "nested too deeply, or in itself"),
        (lambda it: it.notify_all(title="a", payload={"x": object()}), "payload.x", "type object"),
        (lambda it: it.explain(user_id="a", payload={"x": object()}), "payload.x", "type object"),
    ],
)  # fmt: skip
def test_what_a_notification_says_is_rejected_by_its_field(
    service: NotificationService, call: Call, field: str, told: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        call(service)
    assert caught.value.field == field
    assert told in caught.value.message


def in_itself() -> dict[str, Any]:
    document: dict[str, Any] = {}
    document["it"] = document
    return document


def test_a_batch_rejects_each_by_its_place(service: NotificationService) -> None:
    wrong: list[Any] = [
        "ada",
        {"user_id": "a", "payload": {"x": {1j}}},
        {"user_id": "a", "send_at": NAIVE},
    ]
    receipt = service.batch_notify(wrong)
    assert [(one.index, one.error.field) for one in receipt.rejected] == [
        (0, None),
        (1, "payload.x[0]"),
        (2, "send_at"),
    ]


def test_times_go_where_the_dispatcher_takes_them(service: NotificationService) -> None:
    now = datetime.now(UTC)
    for call in (
        lambda: service.explain(user_id="ada", send_at=now),
        lambda: list(service.dead_letters(since=now)),
        lambda: service.replay(since=now),
    ):
        with pytest.raises(DispatcherError, match="no answer"):
            call()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"data_dir": 5}, "data_dir must be a path, and not int"),
        ({"config": 5}, "config must be a path or a mapping, and not int"),
        ({"shards": 0}, "shards must be 1 to 256, and not 0"),
        ({"shards": "2"}, "shards must be an integer, and not str"),
        ({"durability": True}, 'durability must be "power" or "process", and not True'),
        ({"timeout": "5"}, "timeout must be a number of seconds"),
        ({"timeout": -1}, "timeout must be more than 0 seconds, and not -1"),
        ({"max_pending": 0}, "max_pending must be 1 or more, and not 0"),
        ({"submit": 7712}, "submit must be a text, and not int"),
        ({"submit": "tcp://127.0.0.1:99999"}, "submit='tcp://127.0.0.1:99999' is no endpoint; one is like tcp://"),
        ({"submit": NOBODY, "stream": "localhost"}, "stream='localhost' is no endpoint"),
    ],
)
def test_the_constructor_names_what_is_wrong(
    options: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=told):
        NotificationService(**options)
    assert not list(tmp_path.iterdir())


def test_after_shutdown_nothing_begins() -> None:
    service = NotificationService(submit=NOBODY, stream=NOBODY)
    service.shutdown(0.0)
    for call in (
        lambda: service.on_inapp(print),
        lambda: service.inapp("ada"),
        lambda: service.register_channel("pager", Pager()),
    ):
        with pytest.raises(ShutdownError):
            call()


def test_the_twin_tells_the_same() -> None:
    async def whole() -> None:
        async with AsyncNotificationService(submit=NOBODY, stream=NOBODY, timeout=0.2) as service:
            with pytest.raises(TypeError, match="callback must be a function"):
                await service.on_inapp("ada")  # type: ignore[arg-type]  # that is what it is about
            with pytest.raises(TypeError, match="recipients must be a list"):
                await service.notify_all(title="a", recipients="ada")
            with pytest.raises(TypeError, match="user must be a mapping"):
                await service.put_user("ada", None)  # type: ignore[arg-type]  # as above
            with pytest.raises(TypeError, match="ids must be a list"):
                await service.mark("ada", "a-1", "read")
            with pytest.raises(TypeError, match="parts must be a mapping"):
                await service.register_template("a", "x")  # type: ignore[arg-type]  # as above

    asyncio.run(whole())
