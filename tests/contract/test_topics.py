"""Topics: who is subscribed to what, and what reaches them."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from shards.wire.ids import hash_user
from tests.support.service import RunningDispatcher, wait_until

NewUser = Callable[[], str]

_topics = itertools.count(1)


@pytest.fixture
def topic() -> str:
    """A topic that no other test has; its name is like no other's."""
    return f"{chr(0x4E00 + 97 * next(_topics))}-topic"


def subscribe(service: RunningDispatcher, topic: str, *users: str) -> None:
    for user in users:
        assert service.request("topic.subscribe", topic=topic, user_id=user)["subscribed"] is True


def one_in_each_shard(new_user: NewUser) -> list[str]:
    """Users of both shards."""
    found: dict[int, str] = {}
    while len(found) < 2:
        user = new_user()
        found.setdefault(hash_user(user) % 2, user)
    return list(found.values())


def titles(service: RunningDispatcher, user: str) -> list[str]:
    return [item["title"] for item in service.request("inbox.list", user_id=user)["items"]]


def ended(service: RunningDispatcher, id_: str, state: str = "done") -> dict[str, Any]:
    """The broadcast, once all of it has come to an end."""

    def found() -> dict[str, Any] | None:
        whole: dict[str, Any] = service.request("status", id=id_)["broadcast"]
        return whole if whole["finished_at"] is not None else None

    whole = wait_until(found, what="the end of the broadcast")
    assert whole["state"] == state
    return whole


# --- subscriptions --------------------------------------------------------------------------------------------------


def test_a_subscription_is_in_the_users_document(service: RunningDispatcher, topic: str, user: str) -> None:
    for _ in range(2):
        subscribe(service, topic, user)
    assert service.request("user.get", user_id=user)["user"]["preferences"]["topics"] == [topic]
    for _ in range(2):
        assert service.request("topic.unsubscribe", topic=topic, user_id=user)["subscribed"] is False
    assert service.request("user.get", user_id=user)["user"]["preferences"] == {}


def test_unsubscribing_makes_no_document(service: RunningDispatcher, topic: str, user: str) -> None:
    assert service.request("topic.unsubscribe", topic=topic, user_id=user)["subscribed"] is False
    assert service.client.refused("user.get", user_id=user)["code"] == "not_found"


def test_what_a_document_says_is_what_is_sent(service: RunningDispatcher, topic: str, new_user: NewUser) -> None:
    users = [*one_in_each_shard(new_user), new_user(), new_user()]
    for user in users:
        service.request("user.put", user_id=user, user={"preferences": {"topics": [topic]}})
    service.request("user.put", user_id=users[2], user={})
    service.request("user.delete", user_id=users[3])
    id_ = service.client.submit({"topic": topic, "title": "news"})["ids"][0]
    assert ended(service, id_)["users_done"] == 2
    assert [titles(service, user) for user in users] == [["news"], ["news"], [], []]


@pytest.mark.parametrize("topic", ["", "*", "a\0b", "x" * 257, "é" * 129])
@pytest.mark.parametrize("op", ["topic.subscribe", "topic.unsubscribe"])
def test_a_topic_is_a_name(service: RunningDispatcher, op: str, topic: str, user: str) -> None:
    error = service.client.refused(op, topic=topic, user_id=user)
    assert (error["code"], error["field"]) == ("bad_value", "topic")


def test_a_document_has_room_for_so_many_topics(service: RunningDispatcher, topic: str, user: str) -> None:
    many = [f"{number:0250}" for number in range(255)]
    service.request("user.put", user_id=user, user={"preferences": {"topics": many}})
    more = [{"op": "topic.subscribe", "topic": f"{topic}{number:0240}", "user_id": user} for number in range(10)]
    assert service.client.pipelined(*more)[-1]["error"]["code"] == "too_large"


# --- publishing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
def test_everybody_who_is_subscribed_gets_it_once(
    service: RunningDispatcher, topic: str, new_user: NewUser, as_json: bool
) -> None:
    users, stranger = one_in_each_shard(new_user), new_user()
    subscribe(service, topic, *users)
    before = service.settled_stats()
    notification = {"topic": topic, "title": "news", "channels": ["inapp", "email"], "idempotency_key": "k"}
    answer = service.client.exchange({"op": "submit", "notifications": [notification]}, as_json=as_json)
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (1, 0, [])
    (id_,) = answer["ids"]
    whole = ended(service, id_)
    assert (whole["topic"], whole["users_done"], whole["users"], whole["planned"]) == (topic, 2, 2, 4)
    assert service.settled_stats()["planned"] == before["planned"] + 4
    assert [titles(service, user) for user in (*users, stranger)] == [["news"], ["news"], []]
    answer = service.request("status", id=id_)
    assert (answer["id"], answer["deliveries"]) == (id_, [])
    wait_until(
        lambda: service.request("status", id=id_)["broadcast"]["outcomes"] == {"delivered": 4}, what="all deliveries"
    )
    assert id_ in [one["id"] for one in service.request("stats")["broadcasts"]]


def test_one_shard_that_knows_the_topic_is_enough(service: RunningDispatcher, topic: str, user: str) -> None:
    subscribe(service, topic, user)
    answer = service.client.submit({"topic": topic, "title": "news"})
    assert (answer["accepted"], answer["rejected"]) == (1, [])
    assert ended(service, answer["ids"][0])["users_done"] == 1


def test_a_star_is_every_user_with_a_document(service: RunningDispatcher, new_user: NewUser) -> None:
    users, stranger = one_in_each_shard(new_user), new_user()
    for user in users:
        service.request("user.put", user_id=user, user={})
    id_ = service.client.submit({"topic": "*", "title": "to all"})["ids"][0]
    assert ended(service, id_)["users_done"] >= 2
    assert [titles(service, user) for user in (*users, stranger)] == [["to all"], ["to all"], []]


def test_preferences_hold(service: RunningDispatcher, topic: str, user: str) -> None:
    document = {"preferences": {"topics": [topic], "channels": {"email": False}}}
    service.request("user.put", user_id=user, user=document)
    id_ = service.client.submit({"topic": topic, "title": "news", "channels": ["email", "inapp"]})["ids"][0]
    ended(service, id_)
    wait_until(
        lambda: service.request("status", id=id_)["broadcast"]["outcomes"] == {"delivered": 1, "suppressed": 1},
        what="both outcomes",
    )


def test_an_unknown_topic_names_the_nearest_of_all(service: RunningDispatcher, topic: str, new_user: NewUser) -> None:
    for name, user in zip((f"{topic}-eins", f"{topic}-zwei"), one_in_each_shard(new_user), strict=True):
        subscribe(service, name, user)
    answer = service.client.submit({"topic": f"{topic}-", "title": "news"})
    ((rejection),) = answer["rejected"]
    assert (answer["accepted"], answer["ids"]) == (0, [None])
    assert (rejection["index"], rejection["error"]["code"], rejection["error"]["field"]) == (
        0,
        "unknown_topic",
        "topic",
    )
    assert f"{topic}-eins" in rejection["error"]["message"]
    assert f"{topic}-zwei" in rejection["error"]["message"]


def test_a_topic_that_everybody_left_is_unknown(service: RunningDispatcher, topic: str, user: str) -> None:
    subscribe(service, topic, user)
    service.request("topic.unsubscribe", topic=topic, user_id=user)
    answer = service.client.submit({"topic": topic, "title": "news"})
    assert answer["rejected"][0]["error"]["code"] == "unknown_topic"


@pytest.mark.parametrize(
    ("more", "code", "field"),
    [
        ({"title": None}, "bad_value", "title"),
        ({"category": "nonesuch"}, "unknown_category", "category"),
        ({"channels": ["nonesuch"]}, "unknown_channel", "channels"),
        ({"priority": "urgent"}, "bad_value", "priority"),
        ({"expires_at": "soon"}, "bad_value", "expires_at"),
        ({"idempotency_key": ""}, "bad_value", "idempotency_key"),
        ({"idempotency_key": 5}, "bad_value", "idempotency_key"),
        ({"id": "x" * 256}, "bad_value", "id"),
        ({"titel": "x"}, "unknown_key", "titel"),
        ({"payload": {"x": 2**64 - 1}}, "bad_value", "payload"),
        ({"topic": ""}, "bad_value", "topic"),
        ({"topic": "a\0b"}, "bad_value", "topic"),
        ({"topic": 5}, "bad_value", "topic"),
        ({"user_id": "u"}, "bad_value", "user_id"),
        ({"recipients": ["u"]}, "bad_value", "user_id"),
    ],
)
def test_what_is_wrong_is_said_once(
    service: RunningDispatcher, topic: str, user: str, more: dict[str, Any], code: str, field: str
) -> None:
    subscribe(service, topic, user)
    good = {"user_id": user, "title": "good"}
    answer = service.client.submit(good, {"topic": topic, "title": "news", **more}, good)
    assert [(one["index"], one["error"]["code"], one["error"]["field"]) for one in answer["rejected"]] == [
        (1, code, field)
    ]
    assert answer["accepted"] == 2


def test_a_key_is_the_topics(service: RunningDispatcher, topic: str, new_user: NewUser) -> None:
    users = one_in_each_shard(new_user)
    subscribe(service, topic, *users)
    subscribe(service, f"{topic}-other", users[0])
    news = {"topic": topic, "title": "news", "idempotency_key": "k"}
    answer = service.client.submit(news, news, {**news, "topic": f"{topic}-other"})
    first, again, other = answer["ids"]
    assert first == again != other
    assert answer["duplicate"] == [{"index": 1, "mismatch": False}]
    ended(service, first)
    late = service.client.submit({**news, "title": "old news"}, {"user_id": users[0], "title": "x", "id": "k"})
    assert (late["ids"][0], late["duplicate"]) == (first, [{"index": 0, "mismatch": True}])
    assert late["accepted"] == 1
    ended(service, other)
    assert titles(service, users[1]) == ["news"]


def test_without_a_key_each_is_one(service: RunningDispatcher, topic: str, user: str) -> None:
    subscribe(service, topic, user)
    ids = service.client.submit(*[{"topic": topic, "title": "news"}] * 3)["ids"]
    assert len(set(ids)) == 3
    for id_ in ids:
        ended(service, id_)
    assert titles(service, user) == ["news"] * 3


def test_users_and_topics_of_one_batch_are_apart(service: RunningDispatcher, topic: str, new_user: NewUser) -> None:
    users = one_in_each_shard(new_user)
    subscribe(service, topic, *users)
    answer = service.client.submit(
        {"recipients": users, "title": "both"},
        {"topic": topic, "title": "news"},
        {"user_id": users[0], "title": "one"},
    )
    assert answer["accepted"] == 4
    assert [isinstance(id_, list) for id_ in answer["ids"]] == [True, False, False]
    ended(service, answer["ids"][1])
    assert sorted(titles(service, users[0])) == ["both", "news", "one"]


# --- ingest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", [json.dumps, msgspec.msgpack.encode])
def test_from_ingest(service: RunningDispatcher, topic: str, new_user: NewUser, encode: Any) -> None:
    users = one_in_each_shard(new_user)
    subscribe(service, topic, *users)
    since = int(time.time() * 1000)
    batch = [
        {"topic": topic, "title": "news"},
        {"topic": f"{topic}-nobody", "title": "unheard"},
        {"topic": topic, "title": "bad", "category": "nonesuch"},
        {"topic": topic, "title": "worse", "titel": "x"},
    ]
    encoded = encode(batch)
    service.ingested(encoded if isinstance(encoded, bytes) else encoded.encode())
    wait_until(lambda: [titles(service, user) for user in users] == [["news"], ["news"]], what="the news")

    def letters() -> list[dict[str, Any]] | None:
        items: list[dict[str, Any]] = service.request("dead.list", reason="rejected", since=since)["items"]
        return items if len(items) >= 3 else None

    found = wait_until(letters, what="the dead letters")
    assert sorted(letter["error_class"] for letter in found) == ["unknown_category", "unknown_key", "unknown_topic"]
    assert sorted(letter["notification"]["title"] for letter in found) == ["bad", "unheard", "worse"]


# --- schedule, expiry, cancel ---------------------------------------------------------------------------------------


def test_it_is_expanded_when_it_is_due(service: RunningDispatcher, topic: str, new_user: NewUser) -> None:
    users = one_in_each_shard(new_user)
    subscribe(service, topic, users[0])
    due_ms = int(time.time() * 1000) + 1_500
    id_ = service.client.submit({"topic": topic, "title": "later", "send_at": due_ms})["ids"][0]
    whole = service.request("status", id=id_)["broadcast"]
    assert (whole["state"], whole["send_at"], whole["planned"]) == ("scheduled", due_ms, 0)
    subscribe(service, topic, users[0])
    whole = ended(service, id_)
    assert whole["started_at"] >= due_ms
    assert titles(service, users[0]) == ["later"]


def test_it_expires_before_it_is_due(service: RunningDispatcher, topic: str, user: str) -> None:
    subscribe(service, topic, user)
    now_ms = int(time.time() * 1000)
    news = {"topic": topic, "title": "late", "send_at": now_ms + 200, "expires_at": now_ms + 100}
    whole = ended(service, service.client.submit(news)["ids"][0], "expired")
    assert (whole["users_done"], whole["planned"]) == (0, 0)
    assert titles(service, user) == []


def test_cancelled_before_it_is_due_nobody_gets_it(service: RunningDispatcher, topic: str, new_user: NewUser) -> None:
    users = one_in_each_shard(new_user)
    subscribe(service, topic, *users)
    due_ms = int(time.time() * 1000) + 60_000
    id_ = service.client.submit({"topic": topic, "title": "never", "send_at": due_ms})["ids"][0]
    assert service.request("cancel", id=id_)["cancelled"] == 0
    assert ended(service, id_, "cancelled")["planned"] == 0
    assert service.client.refused("cancel", id=id_)["code"] == "already_final"


def test_an_id_that_nobody_gave(service: RunningDispatcher) -> None:
    for op in ("status", "cancel"):
        assert service.client.refused(op, id="b-0-0")["code"] == "not_found"


SLOW = """
[bounds]
broadcasts = 2
[channels.email]
provider = "simulated"
concurrency = 4
latency = "1h"
"""


def test_cancelled_in_the_middle_what_is_pending_ends() -> None:
    users = [f"user-{number}" for number in range(2_000)]
    with RunningDispatcher(SLOW, shards=2) as service:
        asked = [{"op": "topic.subscribe", "topic": "news", "user_id": user} for user in users]
        for first in range(0, len(asked), 500):
            service.client.pipelined(*asked[first : first + 500])
        id_ = service.client.submit({"topic": "news", "title": "a", "channels": ["email"]})["ids"][0]
        # some are under way for an hour; the lane takes one page beside them, and then another one must wait
        wait_until(lambda: service.request("stats")["channels"]["email"]["in_flight"] == 8, what="full channels")
        planned = wait_until(lambda: service.request("status", id=id_)["broadcast"]["planned"], what="a page")
        assert planned < len(users)
        more = service.client.submit({"topic": "news", "title": "b", "send_at": int(time.time() * 1000) + 3_600_000})
        assert more["accepted"] == 1
        refused = service.client.submit({"topic": "news", "title": "c"})["rejected"][0]["error"]
        assert (refused["code"], refused["field"]) == ("overloaded", "topic")
        assert refused["retry_after_ms"] > 0
        service.kill()
        service.start()
        wait_until(lambda: service.request("stats")["channels"]["email"]["in_flight"] == 8, what="full channels")
        cancelled = service.request("cancel", id=id_)["cancelled"]
        service.kill()
        service.start()

        def swept() -> dict[str, Any] | None:
            whole: dict[str, Any] = service.request("status", id=id_)["broadcast"]
            return whole if whole["finished_at"] else None

        whole = wait_until(swept, 20, "the sweep")
        assert whole["state"] == "cancelled"
        assert whole["users_done"] == whole["planned"] < len(users)
        assert whole["outcomes"].get("cancelled", 0) >= cancelled > 0
        assert sum(whole["outcomes"].values()) == whole["planned"]
        stats = service.request("stats")
        assert stats["conserved"]
        assert stats["pending"] == whole["planned"] - whole["outcomes"]["cancelled"] <= 8
        service.kill()
        service.start()
        # what was under way when its shard died, after it was cancelled, is not tried again
        wait_until(
            lambda: service.request("status", id=id_)["broadcast"]["outcomes"] == {"cancelled": whole["planned"]},
            what="the end of all",
        )
