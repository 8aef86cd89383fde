"""``stream``: what is delivered in-app, as it happens; the inbox is the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.client import Subscriber
from tests.support.service import RunningDispatcher, wait_until

SILENCE_S = 0.2


def inapp(user: str) -> bytes:
    return b"inapp." + user.encode() + b"\0"


def subscribed(service: RunningDispatcher, stream: Subscriber, user: str) -> int:
    """Returns when the subscription has arrived, and nothing is left to read: the last cursor that was read."""

    def arrives() -> int | None:
        id_ = service.client.submit({"user_id": user, "title": "is anybody there?"})["ids"][0]
        document = stream.read(SILENCE_S)
        while document is not None and document[1]["id"] != id_:
            document = stream.read(10.0)
        return document[1]["cursor"] if document else None

    return wait_until(arrives, what="the subscription")


def read(stream: Subscriber, count: int) -> list[tuple[bytes, dict[str, Any]]]:
    documents: list[tuple[bytes, dict[str, Any]]] = []
    for _ in range(count):
        document = stream.read(10.0)
        assert document is not None, f"{len(documents)} documents instead of {count}"
        documents.append(document)
    return documents


def read_until(stream: Subscriber, titles: set[str]) -> list[tuple[bytes, dict[str, Any]]]:
    """What comes until each of the titles has come."""
    documents = read(stream, 1)
    while not titles <= {document["title"] for _, document in documents}:
        documents += read(stream, 1)
    return documents


def test_a_user_follows_their_inbox_without_gaps(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    user = new_user()
    with service.subscribed(inapp(user)) as stream:
        last = subscribed(service, stream, user)
        ids = service.client.submit(*({"user_id": user, "title": str(at)} for at in range(25)))["ids"]
        for at in range(25):
            ids += service.client.submit({"user_id": user, "title": str(25 + at)})["ids"]
        documents = read(stream, 50)
        assert stream.read(SILENCE_S) is None
    assert {topic for topic, _ in documents} == {inapp(user)}
    assert [document["cursor"] for _, document in documents] == list(range(last + 1, last + 51))
    assert [document["id"] for _, document in documents] == ids
    assert [document["title"] for _, document in documents] == [str(at) for at in range(50)]


def test_a_document_is_the_inbox_item(service: RunningDispatcher, user: str) -> None:
    with service.subscribed(inapp(user)) as stream:
        subscribed(service, stream, user)
        id_ = service.client.submit({"user_id": user, "title": "é", "payload": {"order": 17}})["ids"][0]
        _, document = read(stream, 1)[0]
    items = service.request("inbox.list", user_id=user, cursor=document["cursor"] - 1)["items"]
    assert items == [document]
    assert document["id"] == id_


def test_a_cursor_continues_in_the_inbox(service: RunningDispatcher, user: str) -> None:
    with service.subscribed(inapp(user)) as stream:
        last = subscribed(service, stream, user)
    missed = service.client.submit(*({"user_id": user, "title": str(at)} for at in range(3)))["ids"]

    def caught_up() -> list[dict[str, Any]] | None:
        items: list[dict[str, Any]] = service.request("inbox.list", user_id=user, cursor=last)["items"]
        return items if len(items) == 3 else None

    items = wait_until(caught_up)
    assert [item["id"] for item in items] == missed
    assert [item["cursor"] for item in items] == [last + 1, last + 2, last + 3]


def test_the_nul_byte_keeps_users_apart(service: RunningDispatcher, user: str) -> None:
    longer = user + "7"
    with service.subscribed(inapp(user)) as stream, service.subscribed(b"inapp." + user.encode()) as prefix:
        subscribed(service, stream, user)
        subscribed(service, prefix, user)
        service.client.submit({"user_id": longer, "title": "theirs"}, {"user_id": user, "title": "mine"})
        assert {topic for topic, _ in read_until(stream, {"mine"})} == {inapp(user)}
        assert {topic for topic, _ in read_until(prefix, {"mine", "theirs"})} == {inapp(user), inapp(longer)}


def test_only_what_is_delivered_inapp_is_streamed(service: RunningDispatcher, user: str) -> None:
    with service.subscribed(inapp(user)) as stream:
        subscribed(service, stream, user)
        service.client.submit(
            {"user_id": user, "title": "by mail", "channels": ["email"]},
            {"user_id": user, "title": "too late", "expires_at": 1},
            {"user_id": user, "title": "bad", "nope": 1},
            {"user_id": user, "title": "inapp"},
        )
        assert [document["title"] for _, document in read(stream, 1)] == ["inapp"]
        assert stream.read(SILENCE_S) is None


def test_outcomes_are_not_streamed_by_default(service: RunningDispatcher, user: str) -> None:
    with service.subscribed(b"") as stream:
        subscribed(service, stream, user)
        service.client.submit({"user_id": user, "title": "t", "category": "transaction"})
        topics = {topic for topic, _ in read(stream, 1)}
        while (document := stream.read(SILENCE_S)) is not None:
            topics.add(document[0])
    assert inapp(user) in topics
    assert all(topic.startswith(b"inapp.") for topic in topics)
