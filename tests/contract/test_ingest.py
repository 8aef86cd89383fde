"""``ingest``: nobody answers, so what happened is looked up afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.support.service import RunningDispatcher, wait_until

MESSAGE_BYTES_MAX = 1_048_576


def encode(document: object, as_json: bool) -> bytes:
    return json.dumps(document).encode() if as_json else msgspec.msgpack.encode(document)


def titles(service: RunningDispatcher, user: str, count: int) -> list[str]:
    """What is in the user's inbox, once it has so many items."""

    def listed() -> list[str] | None:
        items = service.request("inbox.list", user_id=user, limit=1000)["items"]
        return [item["title"] for item in items] if len(items) >= count else None

    return wait_until(listed, what=f"{count} items in the inbox of {user}")


def rejected(service: RunningDispatcher, marker: str) -> dict[str, Any]:
    """The dead letter of a rejection whose notification has ``marker`` in it."""

    def found() -> dict[str, Any] | None:
        cursor: dict[str, Any] = {}
        while True:
            page = service.request("dead.list", reason="rejected", limit=1000, **cursor)
            for letter in page["items"]:
                if marker in json.dumps(letter["notification"]):
                    return dict(letter)
            if page["next"] is None:
                return None
            cursor = {"cursor": page["next"]}

    return wait_until(found, what=f"the dead letter of {marker}")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_single_notification(service: RunningDispatcher, user: str, as_json: bool) -> None:
    service.ingested(encode({"user_id": user, "title": "alone"}, as_json))
    assert titles(service, user, 1) == ["alone"]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("count", [1, 3, 20, 1000])
def test_a_list(service: RunningDispatcher, user: str, count: int, as_json: bool) -> None:
    expected = [str(at) for at in range(count)]
    service.ingested(encode([{"user_id": user, "title": title} for title in expected], as_json))
    assert titles(service, user, count) == expected


def test_order_of_one_producer_is_kept(service: RunningDispatcher, user: str) -> None:
    messages = [encode({"user_id": user, "title": str(at)}, as_json=False) for at in range(200)]
    service.ingested(*messages)
    assert titles(service, user, 200) == [str(at) for at in range(200)]


def test_recipients(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    users = [new_user() for _ in range(6)]
    service.ingested(encode({"recipients": users, "title": "to all"}, as_json=True))
    for user in users:
        assert titles(service, user, 1) == ["to all"]


def test_keys_hold_across_ingest_and_submit(service: RunningDispatcher, user: str) -> None:
    notification = {"user_id": user, "title": "once", "idempotency_key": "k"}
    original = service.client.submit(notification)["ids"][0]
    before = service.request("stats")["duplicates"]
    service.ingested(encode([notification, {"user_id": user, "title": "marker"}], as_json=False))
    assert titles(service, user, 2) == ["once", "marker"]
    assert service.request("stats")["duplicates"] == before + 1
    assert service.request("status", user_id=user, idempotency_key="k")["id"] == original


@pytest.mark.parametrize("as_json", [True, False])
def test_a_bad_notification_is_a_dead_letter_and_spoils_only_itself(
    service: RunningDispatcher, user: str, as_json: bool
) -> None:
    good = {"user_id": user, "title": "good"}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"user_id": user, "title": f"{user}-key", "titel": "x"}, "unknown_key"),
        ({"user_id": user, "title": f"{user}-category", "category": "secruity"}, "unknown_category"),
        ({"title": f"{user}-nobody"}, "bad_value"),
        ({"user_id": "", "title": f"{user}-empty"}, "bad_value"),
        ({"user_id": 5, "title": f"{user}-number"}, "bad_value"),
        ({"topic": "nonesuch", "title": f"{user}-topic"}, "unknown_topic"),
        ({"recipients": [user, ""], "title": f"{user}-recipient"}, "bad_value"),  # one of its two is fine
    ]
    before = service.settled_stats()
    service.ingested(encode([good, *(notification for notification, _ in bad), good], as_json))
    assert titles(service, user, 3) == ["good", f"{user}-recipient", "good"]
    for notification, code in bad:
        letter = rejected(service, str(notification["title"]))
        assert letter["reason"] == "rejected"
        assert letter["channel"] is None
        assert letter["error_class"] == code
        assert letter["last_error"]
        assert letter["attempts"] == 0
    after = service.settled_stats()
    assert after["dead_letters"]["rejected"] == before["dead_letters"].get("rejected", 0) + len(bad)
    assert after["planned"] == before["planned"] + 3
    assert after["outcomes"]["dead"] == before["outcomes"]["dead"]
    assert after["conserved"]


@pytest.mark.parametrize(
    ("garbage", "code"),
    [
        (b"garbage %s", "bad_encoding"),
        (b'{"user_id": "%s", "title": ', "bad_encoding"),
        (b'[{"user_id": "%s", "title": "t"}, {]', "bad_encoding"),
        (b'"%s"', "bad_encoding"),  # neither { nor [: not announced as JSON
        (b'{"title": "%s", "a": ' + b"[" * 50_000, "too_deep"),
        (b'["%s"]', "bad_request"),
        (b"\xff\xfe %s", "bad_encoding"),
    ],
)
def test_what_cannot_be_routed_is_a_dead_letter(
    service: RunningDispatcher, user: str, garbage: bytes, code: str
) -> None:
    before = service.settled_stats()
    service.ingested(garbage.replace(b"%s", user.encode() + b"!"))
    letter = rejected(service, f"{user}!")
    assert (letter["reason"], letter["channel"], letter["error_class"]) == ("rejected", None, code)
    after = service.settled_stats()
    assert after["dead_letters"]["rejected"] == before["dead_letters"].get("rejected", 0) + 1
    assert after["planned"] == before["planned"]
    purged = service.request("dead.purge", id=letter["id"])["count"]
    assert purged == 1
    wait_until(
        lambda: (
            service.request("stats")["dead_letters"].get("rejected", 0) == before["dead_letters"].get("rejected", 0)
        ),
        what="the purge in stats",
    )


def test_an_empty_message_is_a_dead_letter(service: RunningDispatcher) -> None:
    before = service.settled_stats()["dead_letters"].get("rejected", 0)
    service.ingested(b"")
    wait_until(
        lambda: service.request("stats")["dead_letters"].get("rejected", 0) == before + 1, what="its dead letter"
    )


def test_an_empty_list_is_nothing(service: RunningDispatcher, user: str) -> None:
    before = service.settled_stats()
    service.ingested(b"[]", b"\x90", encode({"user_id": user, "title": "after"}, as_json=True))
    assert titles(service, user, 1) == ["after"]
    assert service.settled_stats()["dead_letters"] == before["dead_letters"]


def test_a_message_over_the_limit_is_a_dead_letter(service: RunningDispatcher, user: str) -> None:
    before = service.settled_stats()["dead_letters"].get("rejected", 0)
    service.ingested(
        encode({"user_id": user, "title": "long", "body": "x" * MESSAGE_BYTES_MAX}, as_json=True),
        encode({"user_id": user, "title": "after"}, as_json=True),
    )
    assert titles(service, user, 1) == ["after"]
    wait_until(
        lambda: service.request("stats")["dead_letters"].get("rejected", 0) == before + 1, what="its dead letter"
    )


def test_a_number_that_json_cannot_say_spoils_only_its_notification(service: RunningDispatcher, user: str) -> None:
    good = {"user_id": user, "title": "good"}
    service.ingested(
        encode([good, {"user_id": user, "title": f"{user}!", "payload": {"n": float("nan")}}, good], as_json=True)
    )
    assert titles(service, user, 2) == ["good", "good"]
    assert rejected(service, f"{user}!")["error_class"] == "bad_value"


def test_a_rejected_letter_cannot_be_replayed(service: RunningDispatcher, user: str) -> None:
    service.ingested(encode({"user_id": user, "title": f"{user}!", "nope": 1}, as_json=True))
    letter = rejected(service, f"{user}!")
    assert service.request("dead.replay", id=letter["id"])["count"] == 0
    assert rejected(service, f"{user}!")["id"] == letter["id"]


@pytest.mark.parametrize(
    "message", [b"garbage %s", b'{"user_id": "%s", "title": "t", "nope": 1}', b'{"user_id": 5, "title": "%s"}']
)
def test_the_id_of_a_rejected_letter_is_no_notifications(service: RunningDispatcher, user: str, message: bytes) -> None:
    service.ingested(message.replace(b"%s", user.encode() + b"!"))
    letter = rejected(service, f"{user}!")
    assert service.client.refused("status", id=letter["id"])["code"] == "not_found"
    assert service.request("dead.purge", id=letter["id"])["count"] == 1


def test_rejected_letters_stand_in_no_replays_way(service: RunningDispatcher, user: str) -> None:
    bad = {"user_id": user, "title": "t", "category": "secruity"}
    service.ingested(encode([bad] * 3, as_json=False))
    wait_until(
        lambda: len(service.request("dead.list", user_id=user, reason="rejected")["items"]) == 3, what="3 rejections"
    )
    service.client.submit({"user_id": user, "title": "t", "channels": ["webhook"]})
    wait_until(
        lambda: len(service.request("dead.list", user_id=user, channel="webhook")["items"]) == 1, what="a dead webhook"
    )
    assert service.request("dead.replay", user_id=user, limit=1)["count"] == 1
