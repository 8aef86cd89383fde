"""Every operation with a key missing, unknown, or of a wrong type: a named error with the field, in both encodings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from shards.wire.requests import OPERATIONS
from tests.fuzz.documents import encoded, mapped, msgpack_only, nested
from tests.support.service import RunningDispatcher

VALID: dict[str, dict[str, Any]] = {
    "submit": {"notifications": []},
    "status": {"id": "x"},
    "cancel": {"id": "x"},
    "explain": {"notification": {}},
    "user.put": {"user_id": "u", "user": {}},
    "user.get": {"user_id": "u"},
    "user.delete": {"user_id": "u"},
    "topic.subscribe": {"topic": "t", "user_id": "u"},
    "topic.unsubscribe": {"topic": "t", "user_id": "u"},
    "inbox.list": {"user_id": "u"},
    "inbox.mark": {"user_id": "u", "ids": [], "state": "read"},
    "dead.list": {},
    "dead.replay": {"id": "x"},
    "dead.purge": {"id": "x"},
    "template.list": {},
    "template.put": {"name": "t", "parts": {"text": "x"}},
    "channel.pause": {"channel": "email"},
    "channel.resume": {"channel": "email"},
    "channel.attach": {"channel": "pager", "worker": "w"},
    "channel.detach": {"channel": "pager", "worker": "w"},
    "config.reload": {},
    "backup.begin": {"id": "x"},
    "backup.end": {"id": "x"},
    "stats": {},
    "ping": {},
}
NO_TEXT: tuple[Any, ...] = (5, 1.5, True, [], {}, msgpack_only(b"\xc4\x01x"), msgpack_only(b"\xd4\x05\x01"))
WRONG: dict[str, tuple[Any, ...]] = {
    "seq": (1.5, True, [], {}, 2**64, "x" * 256, "\ud800", float("nan")),
    "limit": (-1, 1_001, 1.5, "5", True, [], 2**63),
    "wait_ms": (-1, 30_001, 1.5, "5", True, [], 2**63),
    "results": ("x", 5, {}, True),
    "cursor": (-1, 1.5, "", "x", True, [], 2**62, "9" * 5_000),
    "since": (-1, 1.5, "", "soon", True, [], 2**53),
    "ids": ("x", 5, {}, [5], [None]),
    "state": (5, "", "new", "READ", "x" * 100_000),
    "user": (5, "x", [], True),
    "notification": (5, "x", [], True),
    "parts": (5, "x", [], True, {"text": 5}, {"text": None}, {"text": {}}),
    "notifications": (),
    **dict.fromkeys(
        ("id", "user_id", "idempotency_key", "channel", "category", "reason", "error_class", "name", "topic", "worker"),
        NO_TEXT,
    ),
}


def test_the_table_is_complete() -> None:
    assert VALID.keys() == {"submit", *OPERATIONS}


def wrong_requests() -> Iterator[tuple[dict[str, Any], str, str]]:
    """``(request, code, field)``"""
    for op, fields in VALID.items():
        needs, takes = OPERATIONS.get(op, (("notifications",), ()))
        for key in needs:
            without = {name: value for name, value in fields.items() if name != key}
            yield {"op": op, **without}, "bad_request", key
            yield {"op": op, **without, key: None}, "bad_request", key
        for key in ("nope", "", "x" * 100_000, "\0"):
            yield {"op": op, **fields, key: 1}, "unknown_key", key[:80]
        for key in ("seq", *needs, *takes):
            for value in WRONG[key]:
                yield {"op": op, **fields, key: value}, "bad_value", key
    for no_op in NO_TEXT:
        yield {"op": no_op}, "bad_request", "op"
    for op in ("", "PING", "x" * 100_000, "\0", "cancel "):
        yield {"op": op}, "unknown_op", "op"
    yield {"notifications": []}, "bad_request", "op"
    for no_list in (*NO_TEXT[:3], "x", {}):
        yield {"op": "submit", "notifications": no_list}, "bad_request", "notifications"
    yield {"op": "inbox.mark", "user_id": "u", "ids": ["x"] * 1_001, "state": "read"}, "too_many", "ids"
    yield {"op": "user.put", "user_id": "u", "user": {"locale": "x" * 70_000}}, "too_large", "user"
    yield {"op": "inbox.list", "user_id": "u", "limit": 0}, "bad_value", "limit"
    for op in ("channel.attach", "channel.detach"):
        for name in ("", "x" * 65):
            yield {"op": op, "channel": "pager", "worker": name}, "bad_value", "worker"
        yield {"op": op, "channel": "pagr", "worker": "w"}, "unknown_channel", "channel"
        yield {"op": op, "channel": "email", "worker": "w"}, "bad_request", "channel"
    yield {"op": "channel.attach", "channel": "pager", "worker": "w", "results": [{}] * 1_001}, "too_many", "results"
    for name in ("", "x" * 100_000, "\0"):
        yield {"op": "template.put", "name": name, "parts": {"text": "x"}}, "bad_value", "name"
        yield {"op": "template.put", "name": "t", "parts": {name: "x"}}, "bad_value", f"parts.{name}"[:200]
    for levels in (33, 500):
        yield {"op": "user.put", "user_id": "u", "user": {"a": nested(levels)}}, "too_deep", "user"
    for user, code, field in (
        ({"nope": 1}, "unknown_key", "user.nope"),
        ({"locale": 5}, "bad_value", "user.locale"),
        ({"contacts": {"push": [{"provider": "fcm"}]}}, "bad_value", "user.contacts.push[0]"),
        ({"contacts": {"nope": 1}}, "unknown_key", "user.contacts.nope"),
        ({"preferences": {"channels": {"email": "no"}}}, "bad_value", "user.preferences.channels[...]"),
        ({"preferences": {"channels": {"smss": False}}}, "unknown_channel", "user.preferences.channels.smss"),
        (
            {"preferences": {"categories": {"later": {"smss": False}}}},
            "unknown_channel",
            "user.preferences.categories.later.smss",
        ),
        ({"preferences": {"quiet_hours": {}}}, "bad_value", "user.preferences.quiet_hours"),
        ({"preferences": []}, "bad_value", "user.preferences"),
    ):
        yield {"op": "user.put", "user_id": "u", "user": user}, code, field


@pytest.mark.parametrize("as_json", [True, False])
def test_a_wrong_request_is_refused_by_name(service: RunningDispatcher, as_json: bool) -> None:
    for request, code, field in wrong_requests():
        if as_json and any(value in NO_TEXT[-2:] for value in request.values()):
            continue  # only MessagePack has it
        if not as_json and 2**64 in request.values():
            continue
        answer = service.client.exchange_bytes(encoded(mapped(request), as_json))
        document = json.loads(answer) if as_json else msgspec.msgpack.decode(answer)
        shown = str(request)[:200]
        assert document["ok"] is False, shown
        error = document["error"]
        assert (error["code"], error.get("field")) == (code, field), f"{shown}: {error}"
        assert 0 < len(error["message"]) <= 400, shown
    assert service.request("ping")["ok"]
