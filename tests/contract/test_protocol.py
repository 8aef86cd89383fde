"""Requests, receipts and errors on ``submit``, as docs/protocol.md states them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import zmq

from shards.wire.notification import Notification
from tests.fuzz.documents import encoded, mapped, nested
from tests.support.service import RunningDispatcher

NotificationDocument = dict[str, Any]

BATCH_MAX = 10_000
MESSAGE_BYTES_MAX = 1_048_576
URL_SAFE = re.compile(r"[A-Za-z0-9._~-]+")


def decode(answer: bytes) -> dict[str, Any]:
    return dict(json.loads(answer) if answer[:1] == b"{" else msgspec.msgpack.decode(answer))


def no_receipt_fields(answer: dict[str, Any]) -> bool:
    return not {"accepted", "ids"} & answer.keys()


# --- encodings and sockets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
def test_ping_tells_version_shards_and_uptime(service: RunningDispatcher, as_json: bool) -> None:
    answer = service.client.exchange({"op": "ping"}, as_json=as_json)
    assert answer["ok"] is True
    assert isinstance(answer["version"], str)
    assert answer["shards"] == 2
    assert answer["uptime_s"] >= 0
    assert "seq" not in answer


@pytest.mark.parametrize("as_json", [True, False])
def test_submit_answers_in_the_encoding_of_the_question(service: RunningDispatcher, user: str, as_json: bool) -> None:
    answer = service.client.exchange(
        {"op": "submit", "notifications": [{"user_id": user, "title": "hello"}]}, as_json=as_json
    )
    assert {"ok", "accepted", "duplicates", "ids", "duplicate", "rejected"} == answer.keys()
    assert (answer["accepted"], answer["duplicates"]) == (1, 0)
    assert answer["duplicate"] == answer["rejected"] == []
    assert URL_SAFE.fullmatch(answer["ids"][0])


def test_white_space_announces_json(service: RunningDispatcher) -> None:
    assert json.loads(service.client.exchange_bytes(b'\r\n\t {"op": "ping"}'))["ok"]


@pytest.mark.parametrize("as_json", [True, False])
def test_req_needs_no_delimiter_of_its_own(service: RunningDispatcher, user: str, as_json: bool) -> None:
    request = {"op": "submit", "notifications": [{"user_id": user, "title": "hello"}]}
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.REQ) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(service.submit)
        socket.send(json.dumps(request).encode() if as_json else msgspec.msgpack.encode(request))
        assert socket.poll(10_000)
        answer = decode(socket.recv())
    context.term()
    assert answer["accepted"] == 1


def test_requests_may_be_pipelined_and_seq_tells_the_answers_apart(service: RunningDispatcher, user: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    answers: dict[int, dict[str, Any]] = {}
    with context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(service.submit)
        for number in range(50):
            notification = {"user_id": f"{user}-{number}", "title": "hello"}
            request = {"op": "submit", "seq": number, "notifications": [notification] * (number % 3 + 1)}
            socket.send_multipart([b"", msgspec.msgpack.encode(request)])
        while len(answers) < 50:
            assert socket.poll(10_000)
            answer = decode(socket.recv_multipart()[1])
            answers[answer["seq"]] = answer
    context.term()
    assert all(answers[number]["accepted"] == number % 3 + 1 for number in range(50))


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("seq", [0, 7, -3, 2**53, "", "a-b", "é"])
def test_seq_is_echoed_in_answers_and_errors(service: RunningDispatcher, seq: int | str, as_json: bool) -> None:
    requests: list[dict[str, Any]] = [
        {"op": "ping", "seq": seq},
        {"op": "submit", "seq": seq, "notifications": []},
        {"op": "stats", "seq": seq},
        {"op": "cancel", "seq": seq, "id": "x"},
        {"op": "no such", "seq": seq},
        {"op": "status", "seq": seq, "id": "no such"},
    ]
    for request in requests:
        assert service.client.exchange(request, as_json=as_json)["seq"] == seq


UNREADABLE = (
    ({"notifications": [{"user_id": "u", "title": "t", "payload": nested(100_000)}]}, 0, "too_deep"),
    ({"notifications": [{"user_id": "u", "title": "t"}]}, 3, "bad_encoding"),
)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("head", [{"seq": 7}, {"op": "submit", "seq": 7}, {"op": "submit", "seq": -(2**40)}])
@pytest.mark.parametrize(("rest", "missing", "code"), UNREADABLE)
def test_a_request_that_begins_with_its_number_is_refused_with_it(
    service: RunningDispatcher, head: dict[str, Any], rest: dict[str, Any], missing: int, code: str, as_json: bool
) -> None:
    message = encoded(mapped({**head, **rest}), as_json)
    answer = decode(service.client.exchange_bytes(message[: len(message) - missing]))
    assert (answer["error"]["code"], answer["seq"]) == (code, head["seq"])


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "request_",
    [
        {"notifications": [], "seq": 7},
        {"op": "submit", "seq": "7"},
        {"op": "submit", "user_id": "u", "seq": 7},
    ],
)
def test_any_other_that_cannot_be_read_is_refused_without_it(
    service: RunningDispatcher, request_: dict[str, Any], as_json: bool
) -> None:
    message = encoded(mapped({**request_, "rest": "cut"}), as_json)
    answer = decode(service.client.exchange_bytes(message[:-3]))
    assert answer["error"]["code"] == "bad_encoding"
    assert "seq" not in answer


# --- requests that are refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "bad_encoding"),
        (b"\xc1", "bad_encoding"),  # MessagePack never uses it
        (b"hello", "bad_encoding"),
        (b"{", "bad_encoding"),
        (b'{"op": "ping"} and more', "bad_encoding"),
        (b'{"op": "ping",}', "bad_encoding"),
        (b"[]", "bad_request"),
        (b"{}", "bad_request"),
        (b"\x05", "bad_request"),
        (b'{"op": 5}', "bad_request"),
        (b'{"op": "submit"}', "bad_request"),
        (b'{"op": "submit", "notifications": {}}', "bad_request"),
        (b'{"op": "ping", "seq": 1.5}', "bad_value"),
        (b'{"op": "ping", "seq": NaN}', "bad_value"),
        (b'{"op": "ping", "seq": "\\ud800"}', "bad_value"),
        (b'{"op": "submit", "notifications": [], "seq": []}', "bad_value"),
        (b"[" * 100_000, "too_deep"),
        (b'{"op": "submit", "notifications": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
        (b"\x91" * 100_000, "too_deep"),
    ],
)
def test_what_is_no_request_is_refused_by_name(service: RunningDispatcher, message: bytes, code: str) -> None:
    answer = decode(service.client.exchange_bytes(message))
    assert answer["ok"] is False
    assert answer["error"]["code"] == code
    assert answer["error"]["message"]
    assert no_receipt_fields(answer)


def test_an_unknown_op_names_the_nearest(service: RunningDispatcher) -> None:
    error = service.client.refused("inbox.lists", user_id="u")
    assert error["code"] == "unknown_op"
    assert "inbox.list" in error["message"]


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        ("ping", {"user_id": "u"}),
        ("submit", {"notifications": [], "user_id": "u"}),
        ("status", {"id": "x", "user": {}}),
        ("inbox.list", {"user_id": "u", "offset": 3}),
        ("stats", {"channel": "email"}),
    ],
)
def test_an_unknown_key_is_named(service: RunningDispatcher, op: str, fields: dict[str, Any]) -> None:
    error = service.client.refused(op, **fields)
    assert error["code"] == "unknown_key"
    assert error["field"] == list(fields)[-1]


@pytest.mark.parametrize(
    ("op", "fields", "field"),
    [
        ("submit", {}, "notifications"),
        ("user.put", {"user_id": "u"}, "user"),
        ("user.get", {}, "user_id"),
        ("inbox.list", {}, "user_id"),
        ("inbox.mark", {"user_id": "u", "ids": []}, "state"),
    ],
)
def test_a_missing_key_is_named(service: RunningDispatcher, op: str, fields: dict[str, Any], field: str) -> None:
    error = service.client.refused(op, **fields)
    assert (error["code"], error["field"]) == ("bad_request", field)


def test_status_needs_an_id_or_a_user_and_a_key(service: RunningDispatcher) -> None:
    assert service.client.refused("status")["code"] == "bad_request"
    assert service.client.refused("status", user_id="u")["code"] == "bad_request"
    assert service.client.refused("status", idempotency_key="k")["code"] == "bad_request"


@pytest.mark.parametrize(
    ("op", "fields", "field"),
    [
        ("status", {"id": 5}, "id"),
        ("user.get", {"user_id": ""}, "user_id"),
        ("user.get", {"user_id": "a\0b"}, "user_id"),
        ("user.get", {"user_id": "x" * 257}, "user_id"),
        ("user.delete", {"user_id": "a\0b"}, "user_id"),
        ("user.put", {"user_id": "", "user": {}}, "user_id"),
        ("user.put", {"user_id": "u", "user": 5}, "user"),
        ("status", {"user_id": "a\0b", "idempotency_key": "k"}, "user_id"),
        ("inbox.list", {"user_id": "a\0b"}, "user_id"),
        ("inbox.list", {"user_id": "u", "limit": 0}, "limit"),
        ("inbox.list", {"user_id": "u", "limit": "5"}, "limit"),
        ("inbox.list", {"user_id": "u", "cursor": "x"}, "cursor"),
        ("inbox.list", {"user_id": "u", "cursor": -1}, "cursor"),
        ("inbox.mark", {"user_id": "u", "ids": [], "state": "unseen"}, "state"),
        ("inbox.mark", {"user_id": "u", "ids": "x", "state": "seen"}, "ids"),
        ("dead.list", {"since": "yesterday"}, "since"),
        ("dead.list", {"cursor": "x"}, "cursor"),
        ("dead.replay", {"since": "yesterday"}, "since"),
        ("dead.purge", {"limit": -1}, "limit"),
    ],
)
def test_a_bad_value_names_its_key(service: RunningDispatcher, op: str, fields: dict[str, Any], field: str) -> None:
    error = service.client.refused(op, **fields)
    assert (error["code"], error["field"]) == ("bad_value", field)


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_message_over_the_limit_is_refused_and_the_connection_stays(service: RunningDispatcher, user: str) -> None:
    fits = {"user_id": user, "title": "hello", "body": "x" * (MESSAGE_BYTES_MAX - 200)}
    assert service.client.submit(fits)["accepted"] == 1
    error = service.client.refused("submit", notifications=[{**fits, "body": "x" * MESSAGE_BYTES_MAX}])
    assert error["code"] == "too_large"
    assert service.request("ping")["ok"]


def test_a_batch_over_the_limit_is_refused_and_nothing_of_it_is_taken(service: RunningDispatcher, user: str) -> None:
    batch = [{"user_id": user, "title": "hello", "idempotency_key": str(number)} for number in range(BATCH_MAX + 1)]
    error = service.client.refused("submit", notifications=batch)
    assert (error["code"], error["field"]) == ("too_many", "notifications")
    answer = service.client.submit(*batch[:BATCH_MAX])
    assert (answer["accepted"], answer["duplicates"]) == (BATCH_MAX, 0)
    assert len(set(answer["ids"])) == BATCH_MAX


def test_recipients_count_towards_the_limit_of_a_batch(service: RunningDispatcher, user: str) -> None:
    many = [f"{user}-{number}" for number in range(BATCH_MAX + 1)]
    answer = service.client.submit(
        {"user_id": user, "title": "hello"}, {"recipients": many, "title": "hello"}, {"user_id": user, "title": "bye"}
    )
    assert answer["accepted"] == 2
    assert [(one["index"], one["error"]["code"]) for one in answer["rejected"]] == [(1, "too_many")]


def test_an_empty_batch_is_accepted(service: RunningDispatcher) -> None:
    answer = service.client.submit()
    assert (answer["accepted"], answer["ids"]) == (0, [])


# --- receipts -------------------------------------------------------------------------------------------------------


def test_recipients_get_a_nested_list_of_ids_in_their_order(
    service: RunningDispatcher, new_user: Callable[[], str]
) -> None:
    recipients = [new_user() for _ in range(20)]  # of both shards, interleaved
    alone = new_user()
    answer = service.client.submit(
        {"user_id": alone, "title": "before"},
        {"recipients": recipients, "title": "to all", "idempotency_key": "k"},
        {"user_id": alone, "title": "after"},
    )
    assert answer["accepted"] == 22
    before, ids, after = answer["ids"]
    assert len({before, after, *ids}) == 22
    for recipient, id_ in zip(recipients, ids, strict=True):
        assert service.request("status", user_id=recipient, idempotency_key="k")["id"] == id_


def test_one_recipient_in_a_list_still_has_a_nested_id(service: RunningDispatcher, user: str) -> None:
    answer = service.client.submit({"recipients": [user], "title": "hello"})
    assert [type(one) for one in answer["ids"]] == [list]
    assert len(answer["ids"][0]) == 1


def test_the_same_recipient_twice_is_a_duplicate_only_with_a_key(service: RunningDispatcher, user: str) -> None:
    answer = service.client.submit(
        {"recipients": [user, user], "title": "hello"},
        {"recipients": [user, user], "title": "hello", "idempotency_key": "k"},
    )
    assert (answer["accepted"], answer["duplicates"]) == (3, 1)
    assert answer["ids"][0][0] != answer["ids"][0][1]
    assert answer["ids"][1][0] == answer["ids"][1][1]
    assert answer["duplicate"] == [{"index": 1, "mismatch": False}]


def test_a_duplicate_in_the_same_batch_has_the_id_of_the_first(service: RunningDispatcher, user: str) -> None:
    first = {"user_id": user, "title": "hello", "idempotency_key": "k"}
    answer = service.client.submit(first, first, {**first, "title": "other"}, {**first, "idempotency_key": "k2"})
    assert (answer["accepted"], answer["duplicates"]) == (2, 2)
    assert answer["duplicate"] == [{"index": 1, "mismatch": False}, {"index": 2, "mismatch": True}]
    ids = answer["ids"]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_a_duplicate_of_an_earlier_batch_has_the_id_of_the_first(service: RunningDispatcher, user: str) -> None:
    first = {"user_id": user, "title": "hello", "payload": {"order": 17}, "idempotency_key": "k"}
    original = service.client.submit(first)["ids"][0]
    answer = service.client.submit(
        {"user_id": user, "title": "new", "idempotency_key": "other"},
        first,
        {**first, "payload": {"order": 18}},
        {"recipients": [user], **{key: value for key, value in first.items() if key != "user_id"}},
    )
    assert (answer["accepted"], answer["duplicates"]) == (1, 3)
    assert answer["duplicate"] == [
        {"index": 1, "mismatch": False},
        {"index": 2, "mismatch": True},
        {"index": 3, "mismatch": False},
    ]
    assert answer["ids"][1:] == [original, original, [original]]


def test_a_duplicate_is_one_in_any_encoding(service: RunningDispatcher, user: str) -> None:
    notification = {"user_id": user, "title": "hé", "payload": {"a": [1, 2.5, None]}, "idempotency_key": "k"}
    request = {"op": "submit", "notifications": [notification]}
    original = service.client.exchange(request, as_json=True)
    again = service.client.exchange(request, as_json=False)
    assert again["ids"] == original["ids"]
    assert again["duplicate"] == [{"index": 0, "mismatch": False}]


def test_the_producers_id_serves_as_key_if_none_is_given(service: RunningDispatcher, user: str) -> None:
    answer = service.client.submit(
        {"user_id": user, "title": "hello", "id": "order-17"},
        {"user_id": user, "title": "hello", "id": "order-17"},
        {"user_id": user, "title": "hello", "id": "order-17", "idempotency_key": "another"},
    )
    assert (answer["accepted"], answer["duplicates"]) == (2, 1)
    assert service.request("status", user_id=user, idempotency_key="order-17")["id"] == answer["ids"][0]


def test_a_key_is_of_its_user(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    answer = service.client.submit(
        *({"user_id": new_user(), "title": "hello", "idempotency_key": "k"} for _ in range(10))
    )
    assert (answer["accepted"], answer["duplicates"]) == (10, 0)


def test_without_a_key_nothing_is_a_duplicate(service: RunningDispatcher, user: str) -> None:
    notification = {"user_id": user, "title": "hello"}
    answer = service.client.submit(notification, notification)
    assert (answer["accepted"], answer["duplicates"]) == (2, 0)
    assert answer["ids"][0] != answer["ids"][1]


def test_a_rejected_key_is_free_for_the_corrected_notification(service: RunningDispatcher, user: str) -> None:
    wrong = {"user_id": user, "title": "hello", "idempotency_key": "k", "priority": "urgent"}
    assert len(service.client.submit(wrong)["rejected"]) == 1
    assert service.client.submit({**wrong, "priority": "critical"})["accepted"] == 1


# --- notifications that are accepted --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        {"title": "only a title"},
        {"body": "only a body"},
        {"payload": {"message": "only a message"}},
        {"title": ""},
        {"title": "t", "user_id": "é" * 128},
        {"title": "t", "user_id": "日本語 😀"},
        {"title": "t", "idempotency_key": "k" * 255, "id": "i" * 255},
        {"title": "t", "payload": {"deep": {"list": [1, -2.5, None, True, {"int": 2**53, "min": -(2**63)}]}}},
        {"title": "t", "metadata": {"trace": "abc"}},
        {"title": "t", "send_at": "2020-01-31T08:00:00Z"},  # past: means now
        {"title": "t", "send_at": 0},
        {"title": "t", "expires_at": "2999-01-31T08:00:00+02:00"},
        {"title": "t", "expires_at": 32_503_680_000_000},
        *({"title": "t", "priority": priority} for priority in ("low", "normal", "high", "critical", 0, 1, 2, 3)),
        *({"title": "t", "type": kind} for kind in ("info", "success", "warning", "error")),
        *({"title": "t", "category": category} for category in ("transaction", "marketing", "security", "system")),
        *({"title": "t", "channels": [channel]} for channel in ("email", "sms", "push", "inapp", "webhook", "system")),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_every_key_is_accepted(
    service: RunningDispatcher, user: str, content: NotificationDocument, as_json: bool
) -> None:
    request = {"op": "submit", "notifications": [{"user_id": user, **content}]}
    answer = service.client.exchange(request, as_json=as_json)
    assert (answer["accepted"] + answer["duplicates"], answer["rejected"]) == (1, [])


def test_null_is_as_no_key(service: RunningDispatcher, user: str) -> None:
    named = [field.name for field in msgspec.structs.fields(Notification)]
    optional = [key for key in named if key not in ("user_id", "title", "category", "type")]
    nothing = dict.fromkeys(optional)
    request = {"op": "submit", "seq": None, "notifications": [{"user_id": user, "title": "t", **nothing}]}
    answer = service.client.exchange(request, as_json=True)
    assert (answer["accepted"], "seq" in answer) == (1, False)
    answer = service.client.submit(*({"user_id": user, "title": "t", key: None} for key in ("category", "type")))
    assert [one["error"]["field"] for one in answer["rejected"]] == ["category", "type"]
    assert service.client.exchange({"op": "inbox.list", "user_id": user, "limit": None, "cursor": None}, as_json=True)[
        "ok"
    ]


def test_of_duplicate_keys_the_last_wins(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    loser, winner = new_user(), new_user()
    request = f'{{"op":"submit","notifications":[{{"user_id":"{loser}","user_id":"{winner}","title":"t","id":"i"}}]}}'
    assert decode(service.client.exchange_bytes(request.encode()))["accepted"] == 1
    assert service.request("status", user_id=winner, idempotency_key="i")["ok"]
    assert service.client.refused("status", user_id=loser, idempotency_key="i")["code"] == "not_found"


# --- notifications that are rejected --------------------------------------------------------------------------------


def deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


REJECTED: list[tuple[NotificationDocument, str, str | None]] = [
    ({"title": "t"}, "bad_value", None),  # nobody is addressed
    ({"user_id": "u", "recipients": ["v"], "title": "t"}, "bad_value", None),
    ({"user_id": "u", "topic": "news", "title": "t"}, "bad_value", None),
    ({"user_id": "u"}, "bad_value", None),  # nothing is said
    ({"user_id": "u", "payload": {"order": 17}}, "bad_value", None),
    ({"user_id": "u", "payload": {"message": 17}}, "bad_value", None),
    ({"user_id": "", "title": "t"}, "bad_value", "user_id"),
    ({"user_id": "x" * 257, "title": "t"}, "bad_value", "user_id"),
    ({"user_id": "é" * 129, "title": "t"}, "bad_value", "user_id"),
    ({"user_id": "a\0b", "title": "t"}, "bad_value", "user_id"),
    ({"user_id": 5, "title": "t"}, "bad_value", "user_id"),
    ({"recipients": [], "title": "t"}, "bad_value", "recipients"),
    ({"recipients": "u", "title": "t"}, "bad_value", "recipients"),
    ({"recipients": [5], "title": "t"}, "bad_value", "recipients"),
    ({"user_id": "u", "title": 5}, "bad_value", "title"),
    ({"user_id": "u", "body": ["b"]}, "bad_value", "body"),
    ({"user_id": "u", "title": "t", "type": "notice"}, "bad_value", "type"),
    ({"user_id": "u", "title": "t", "priority": "urgent"}, "bad_value", "priority"),
    ({"user_id": "u", "title": "t", "priority": 4}, "bad_value", "priority"),
    ({"user_id": "u", "title": "t", "priority": -1}, "bad_value", "priority"),
    ({"user_id": "u", "title": "t", "priority": True}, "bad_value", "priority"),
    ({"user_id": "u", "title": "t", "channels": []}, "bad_value", "channels"),
    ({"user_id": "u", "title": "t", "channels": "email"}, "bad_value", "channels"),
    ({"user_id": "u", "title": "t", "payload": [1]}, "bad_value", "payload"),
    ({"user_id": "u", "title": "t", "payload": deep(40)}, "too_deep", "payload"),
    ({"user_id": "u", "title": "t", "payload": deep(500)}, "too_deep", None),
    ({"user_id": "u", "title": "t", "payload": {"n": 2**64 - 1}}, "bad_value", "payload"),
    ({"user_id": "u", "title": "t", "metadata": {"n": 1}}, "bad_value", "metadata"),
    ({"user_id": "u", "title": "t", "idempotency_key": ""}, "bad_value", "idempotency_key"),
    ({"user_id": "u", "title": "t", "idempotency_key": "k" * 256}, "bad_value", "idempotency_key"),
    ({"user_id": "u", "title": "t", "idempotency_key": "é" * 128}, "bad_value", "idempotency_key"),
    ({"user_id": "u", "title": "t", "idempotency_key": "a\0b"}, "bad_value", "idempotency_key"),
    ({"user_id": "u", "title": "t", "id": ""}, "bad_value", "id"),
    ({"user_id": "u", "title": "t", "id": "a\0b"}, "bad_value", "id"),
    ({"user_id": "u", "title": "t", "expires_at": "soon"}, "bad_value", "expires_at"),
    ({"user_id": "u", "title": "t", "expires_at": "2030-01-31T08:00:00"}, "bad_value", "expires_at"),  # no offset
    ({"user_id": "u", "title": "t", "expires_at": -1}, "bad_value", "expires_at"),
    ({"user_id": "u", "title": "t", "expires_at": 1.5}, "bad_value", "expires_at"),
    ({"user_id": "u", "title": "t", "send_at": "tomorrow"}, "bad_value", "send_at"),
    ({"user_id": "u", "title": "t", "send_at": "2999-01-31T08:00:00Z"}, "bad_value", "send_at"),
    ({"topic": "news", "title": "t"}, "unknown_topic", "topic"),
    ({"user_id": "u", "title": "t", "titel": "t"}, "unknown_key", "titel"),
    ({"recipients": ["u"], "title": "t", "titel": "t"}, "unknown_key", "titel"),
    ({"user_id": "u", "title": "t", "category": "secruity"}, "unknown_category", "category"),
    ({"user_id": "u", "title": "t", "channels": ["inapp", "emial"]}, "unknown_channel", "channels"),
    ({"user_id": "u", "template": "welcome"}, "unknown_template", "template"),
]


@pytest.mark.parametrize(("notification", "code", "field"), REJECTED)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_bad_notification_is_rejected_alone(
    service: RunningDispatcher,
    user: str,
    notification: NotificationDocument,
    code: str,
    field: str | None,
    as_json: bool,
) -> None:
    good = {"user_id": user, "title": "good"}
    request = {"op": "submit", "notifications": [good, notification, good]}
    answer = service.client.exchange(request, as_json=as_json)
    assert answer["accepted"] == 2
    assert len(answer["rejected"]) == 1
    rejected = answer["rejected"][0]
    assert (rejected["index"], rejected["error"]["code"]) == (1, code)
    assert rejected["error"]["message"]
    if field is not None:
        assert rejected["error"]["field"].partition("[")[0].partition(".")[0] == field
    first, none, last = answer["ids"]
    assert first
    assert last
    assert none is None or set(none) == {None}


@pytest.mark.parametrize("entry", ["text", 5, None, [], True])
def test_an_entry_that_is_no_map_is_rejected_alone(service: RunningDispatcher, user: str, entry: object) -> None:
    answer = service.request("submit", notifications=[entry, {"user_id": user, "title": "good"}])
    assert answer["accepted"] == 1
    assert answer["ids"][0] is None
    assert answer["rejected"][0]["index"] == 0
    assert answer["rejected"][0]["error"]["code"] in ("bad_request", "bad_value")


@pytest.mark.parametrize(
    ("content", "known"),
    [({"category": "marketting"}, "marketing"), ({"channels": ["webhok"]}, "webhook"), ({"titel": "t"}, "title")],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    service: RunningDispatcher, user: str, content: NotificationDocument, known: str
) -> None:
    answer = service.client.submit({"user_id": user, "title": "t", **content})
    assert known in answer["rejected"][0]["error"]["message"]


def test_a_bad_recipient_spoils_only_itself(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    answer = service.client.submit({"recipients": [new_user(), "", new_user(), "a\0b"], "title": "hello"})
    assert answer["accepted"] == 2
    assert [id_ is None for id_ in answer["ids"][0]] == [False, True, False, True]
    assert [(one["index"], one["error"]["code"]) for one in answer["rejected"]] == [(0, "bad_value")] * 2


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("as_json", [True, False])
def test_a_number_that_json_cannot_say_is_rejected(
    service: RunningDispatcher, user: str, number: float, as_json: bool
) -> None:
    good = {"user_id": user, "title": 'NaN, "Infinity"'}
    request = {"op": "submit", "seq": 7, "notifications": [good, {**good, "payload": {"n": number}}, good]}
    answer = service.client.exchange(request, as_json=as_json)  # Python's encoder writes NaN and Infinity
    assert (answer["accepted"], answer["seq"]) == (2, 7)
    assert [(one["index"], one["error"]["code"]) for one in answer["rejected"]] == [(1, "bad_value")]


@pytest.mark.parametrize("key", ["user_id", "title", "body", "idempotency_key"])
def test_a_lone_surrogate_is_rejected(service: RunningDispatcher, user: str, key: str) -> None:
    good = {"user_id": user, "title": "pairs are fine: \U0001f600"}
    request = {"op": "submit", "seq": 7, "notifications": [good, {**good, key: "x\ud800"}, good]}
    answer = service.client.exchange(request, as_json=True)  # escaped, as Python's encoder does
    assert (answer["accepted"], answer["seq"]) == (2, 7)
    assert [(one["index"], one["error"]["code"]) for one in answer["rejected"]] == [(1, "bad_value")]
    packed = msgspec.msgpack.encode({**request, "notifications": [good, {**good, key: "SSS"}, good]})
    answer = decode(service.client.exchange_bytes(packed.replace(b"SSS", b"\xed\xa0\x80")))
    assert answer["accepted"] == 2
    assert [(one["index"], one["error"]["code"]) for one in answer["rejected"]] == [(1, "bad_value")]


def test_binary_in_a_payload_is_rejected(service: RunningDispatcher, user: str) -> None:
    answer = service.client.submit({"user_id": user, "title": "t", "payload": {"file": b"\x00"}})
    assert answer["rejected"][0]["error"]["code"] == "bad_value"


def test_rejections_are_in_the_order_of_the_batch(service: RunningDispatcher, user: str) -> None:
    bad_routes: list[NotificationDocument] = [{"title": "t"}, {"topic": "news", "title": "t"}, {"user_id": 5}]
    bad_contents: list[NotificationDocument] = [{"user_id": user}, {"recipients": [user, "", ""], "title": "t"}]
    answer = service.client.submit(*bad_routes, *bad_contents, *bad_routes, *bad_contents)
    assert [one["index"] for one in answer["rejected"]] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 9]


def test_a_mixed_batch_is_accounted_for_entry_by_entry(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    first, second = new_user(), new_user()
    keyed = {"user_id": first, "title": "t", "idempotency_key": "k"}
    original = service.client.submit(keyed)["ids"][0]
    answer = service.client.submit(
        {"user_id": second, "title": "t"},
        {"user_id": first, "title": "t", "nope": 1},
        keyed,
        {"recipients": [first, second], "title": "t", "idempotency_key": "k"},
        {"topic": "news", "title": "t"},
        {"user_id": second, "title": "t", "idempotency_key": "k"},
    )
    assert (answer["accepted"], answer["duplicates"], len(answer["rejected"])) == (2, 3, 2)
    assert answer["ids"][1] is None
    assert answer["ids"][4] is None
    assert answer["ids"][2] == answer["ids"][3][0] == original
    assert answer["ids"][3][1] == answer["ids"][5]
    assert answer["duplicate"] == [
        {"index": 2, "mismatch": False},
        {"index": 3, "mismatch": False},
        {"index": 5, "mismatch": False},
    ]
    assert [(one["index"], one["error"]["code"]) for one in answer["rejected"]] == [
        (1, "unknown_key"),
        (4, "unknown_topic"),
    ]
