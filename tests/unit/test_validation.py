"""What a shard refuses: the code, the field, and a hint."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
import pytest

from shards import validation
from shards.validation import RejectedItem
from shards.wire.errors import Error, RequestError
from shards.wire.notification import Notification


def refused(entry: Any, as_json: bool = False) -> Error:
    """The error of an entry between two good ones, which it does not spoil."""
    good = {"user_id": "ann", "title": "t"}
    body = (msgspec.json.encode if as_json else msgspec.msgpack.encode)([good, entry, good])
    first, bad, last = validation.decode_items(body, False)
    assert isinstance(first, tuple)
    assert isinstance(last, tuple)
    assert isinstance(bad, RejectedItem)
    return bad.error


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    ("entry", "code", "field"),
    [
        (7, "bad_value", None),
        ({"titel": "t"}, "unknown_key", "titel"),
        ({"title": 7}, "bad_value", "title"),
        ({"type": "loud"}, "bad_value", "type"),
        ({"channels": []}, "bad_value", "channels"),
        ({"metadata": {"a": 1}}, "bad_value", "metadata[...]"),
    ],
)
def test_what_does_not_decode(entry: Any, code: str, field: str | None, as_json: bool) -> None:
    error = refused(entry, as_json)
    assert (error.code, error.field) == (code, field)


def test_an_unknown_key_names_the_nearest() -> None:
    assert "did you mean title" in refused({"titel": "t"}).message
    assert "did you mean payload" in refused({"variables": {}}).message


def test_an_unknown_value_names_the_known_ones() -> None:
    assert refused({"type": "warn"}).message == "type is 'warn'; it must be info, success, warning or error"


def test_a_lone_surrogate_is_a_bad_value_and_other_bytes_a_bad_encoding() -> None:
    def code(text: bytes) -> str:
        body = b"\x91\x81\xa5title" + bytes([0xA0 | len(text)]) + text
        (item,) = validation.decode_items(body, False)
        assert isinstance(item, RejectedItem)
        return item.error.code

    assert code(b"\xed\xa0\x80") == "bad_value"
    assert code(b"\xff") == "bad_encoding"


def test_an_undecodable_fanned_entry_takes_all_its_positions() -> None:
    body = msgspec.msgpack.encode([(["ann", "bob"], {"title": 7}), {"user_id": "cid"}])
    items = validation.decode_items(body, True)
    assert [isinstance(item, RejectedItem) for item in items] == [True, True, False]


@pytest.mark.parametrize("user_id", ["", "x" * 257, "é" * 129, "a\0b"])
def test_user_ids_have_1_to_256_bytes(user_id: str) -> None:
    with pytest.raises(RequestError) as caught:
        validation.check_user_id(user_id)
    assert (caught.value.error.code, caught.value.error.field) == ("bad_value", "user_id")
    validation.check_user_id("é" * 128)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\0"])
def test_keys_have_1_to_255_bytes(key: str) -> None:
    with pytest.raises(RequestError) as caught:
        validation.check_key("id", key)
    assert caught.value.error.field == "id"
    validation.check_key("id", "x" * 255)


def nested(depth: int) -> dict[str, Any]:
    payload: dict[str, Any] = {}
    for _ in range(depth - 1):
        payload = {"a": payload}
    return payload


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (nested(validation.PAYLOAD_DEPTH_MAX + 1), "too_deep"),
        ({"a": float("nan")}, "bad_value"),
        ({"a": [float("inf")]}, "bad_value"),
        ({"a": 2**63}, "bad_value"),
        ({"a": b"bytes"}, "bad_value"),
        ({"a": {1: 2}}, "bad_value"),
    ],
)
def test_a_payload_that_json_cannot_say(payload: dict[str, Any], code: str) -> None:
    with pytest.raises(RequestError) as caught:
        validation.check_document("payload", payload)
    assert (caught.value.error.code, caught.value.error.field) == (code, "payload")


def test_a_payload_that_it_can() -> None:
    validation.check_document("payload", {"a": [1, 1.5, None, True, "x", {"b": -(2**63)}], "c": nested(30)})


def test_instants_are_rfc_3339_or_milliseconds() -> None:
    assert validation.instant_ms("expires_at", "1970-01-01T00:00:01Z") == 1_000
    assert validation.instant_ms("expires_at", "1970-01-01T01:00:01+01:00") == 1_000
    assert validation.instant_ms("expires_at", 5) == 5


@pytest.mark.parametrize("value", ["tomorrow", "2026-01-31T08:00:00", -1, 2**53])
def test_what_is_no_instant(value: str | int) -> None:
    with pytest.raises(RequestError) as caught:
        validation.instant_ms("expires_at", value)
    assert caught.value.error.field == "expires_at"


@pytest.mark.parametrize(
    ("notification", "code"),
    [(Notification(template="t"), "unknown_template"), (Notification(send_at=6_001), "bad_value")],
)
def test_what_cannot_be_accepted(notification: Notification, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        validation.check_rare(notification, 1_000, 5_000)
    assert caught.value.error.code == code


@pytest.mark.parametrize(
    ("notification", "says"),
    [
        (Notification(), False),
        (Notification(title=""), True),
        (Notification(body="b"), True),
        (Notification(payload={"message": "m"}), True),
        (Notification(payload={"message": 5}), False),
    ],
)
def test_a_notification_says_something(notification: Notification, says: bool) -> None:
    assert validation.has_content(notification) is says


@pytest.mark.parametrize(
    "raw", [b"[1, 2]", b"{broken", b"\x93\x01\x02\x03", b"\xc1", b"\x81\x01\xc4\x01\xff", b"", b"\xa1\xff"]
)
def test_any_bytes_become_a_readable_document(raw: bytes) -> None:
    orjson.loads(validation.readable(raw))
