"""Every way in which one notification of a batch can be wrong: a named error for it, and the others are served.

A row is what is wrong, the code, and the field. All rows of an encoding go as one batch, with good ones between them.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.fuzz.documents import Map, Verbatim, encoded, msgpack_only, nested
from tests.support.service import RunningDispatcher, wait_until

Row = tuple[Any, str, str | None]

BINARY = msgpack_only(b"\xc4\x01x")
EXTENSION = msgpack_only(b"\xd4\x05\x01")
TIMESTAMP = msgpack_only(b"\xd6\xff\x00\x00\x00\x01")
NUMBER_KEY = msgpack_only(b"\x81\x01\x02")
LIST_KEY = msgpack_only(b"\x81\x91\x01\x02")
NOT_UTF8 = Verbatim(b'"\xff"', b"\xa1\xff")
SURROGATE = Verbatim(b'"\\ud800"', b"\xa3\xed\xa0\x80")
RAW_SURROGATE = Verbatim(b'"\xed\xa0\x80"', b"\xa3\xed\xa0\x80")
OUT_OF_RANGE = Verbatim(b"1e999", b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00")
NAN = Verbatim(b"NaN", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00")
HUGE = Verbatim(b"1" + b"0" * 40, b"\x00")  # an integer beyond 64 bits, which MessagePack has not
OF_MSGPACK = (BINARY, EXTENSION, TIMESTAMP, NUMBER_KEY, LIST_KEY)


def with_(**fields: Any) -> Map:
    return Map({"user_id": "wrong", "title": "t", **fields}.items())


def wrong(field: str, *values: Any, code: str = "bad_value") -> list[Row]:
    return [(with_(**{field: value}), code, field) for value in values]


NO_TEXT: tuple[Any, ...] = (5, 1.5, True, [], Map(), BINARY, EXTENSION, TIMESTAMP, HUGE)
ROWS: list[Row] = [
    # the entry itself
    *((entry, "bad_request", None) for entry in (None, *NO_TEXT[:4], "text", [[]], BINARY, EXTENSION, TIMESTAMP)),
    (Map(), "bad_value", "user_id"),
    (nested(100), "bad_value", "user_id"),
    # who it is for
    *wrong("user_id", *NO_TEXT, "", "\0", "a\0b", "x" * 257, "é" * 129),
    *wrong("user_id", SURROGATE, RAW_SURROGATE),
    *wrong("user_id", NOT_UTF8, code="bad_encoding"),
    (Map([("title", "t")]), "bad_value", "user_id"),
    (Map([("user_id", None), ("title", "t")]), "bad_value", "user_id"),
    (with_(recipients=["v"]), "bad_value", "user_id"),
    (with_(recipients=[]), "bad_value", "user_id"),
    (with_(topic="news"), "bad_value", "user_id"),
    *(
        (Map([("recipients", value), ("title", "t")]), "bad_value", "recipients")
        for value in ([], 5, "u", Map(), [5], [None], [["u"]], True)
    ),
    (Map([("recipients", [BINARY]), ("title", "t")]), "bad_value", "recipients"),
    (Map([("recipients", [""]), ("title", "t")]), "bad_value", "user_id"),
    (Map([("recipients", ["u"]), ("topic", "news"), ("title", "t")]), "bad_value", "user_id"),
    (Map([("topic", "news"), ("title", "t")]), "unknown_topic", "topic"),
    (Map([("topic", 5), ("title", "t")]), "bad_value", "topic"),
    # what is said
    (Map([("user_id", "wrong")]), "bad_value", "title"),
    (Map([("user_id", "wrong"), ("title", None), ("body", None)]), "bad_value", "title"),
    (Map([("user_id", "wrong"), ("payload", Map([("message", 5)]))]), "bad_value", "title"),
    *wrong("title", *NO_TEXT),
    *wrong("body", *NO_TEXT),
    *wrong("template", *NO_TEXT),
    *wrong("template", "", "welcome", code="unknown_template"),
    # how
    *wrong("category", *NO_TEXT, None),
    *wrong("category", "", "secruity", "x" * 100_000, "\0", code="unknown_category"),
    *wrong("type", *NO_TEXT, None, "", "notice", "INFO"),
    *wrong("priority", 1.5, True, [], Map(), BINARY, HUGE, -1, 4, 2**63, "", "urgent", "LOW", "2"),
    *wrong("channels", [], 5, "email", Map(), [5], [None], ["inapp", "inapp"], [[]], BINARY),
    *wrong("channels", [""], ["inapp", "emial"], ["x" * 100_000], code="unknown_channel"),
    # keys and times
    *wrong("idempotency_key", *NO_TEXT, "", "\0", "k" * 256, "é" * 128),
    *wrong("id", *NO_TEXT, "", "\0", "k" * 256),
    *wrong("send_at", 1.5, True, [], BINARY, TIMESTAMP, HUGE, -1, 2**53, "", "soon", "2020-01-31T08:00:00", "24:00"),
    *wrong("send_at", 2**53 - 1, "9999-12-31T23:59:59Z"),
    *wrong("expires_at", 1.5, True, [], BINARY, HUGE, -1, 2**53, "", "soon", "2030-01-31", "2030-13-31T08:00:00Z"),
    # what is carried
    *wrong("payload", 5, "x", [], True, BINARY, EXTENSION),
    *wrong("payload", NUMBER_KEY, LIST_KEY, *(Map([("n", n)]) for n in (BINARY, EXTENSION, TIMESTAMP, HUGE))),
    *wrong("payload", *(Map([("n", n)]) for n in (2**63, 2**64 - 1, NAN, [Map([("m", NAN)])]))),
    *(row for text in (SURROGATE, RAW_SURROGATE, OUT_OF_RANGE) for row in wrong("payload", Map([("n", text)]))),
    *(row for name in ("title", "body", "category", "id") for row in wrong(name, SURROGATE, RAW_SURROGATE)),
    *wrong("title", NOT_UTF8, code="bad_encoding"),
    *wrong("payload", Map([("n", [NOT_UTF8])]), code="bad_encoding"),
    *wrong("payload", Map([("\ud800", 1)])),
    *wrong("payload", nested(33), nested(100), nested(500), Map([("l", [nested(32)])]), code="too_deep"),
    *wrong("metadata", 5, "x", [], Map([("a", 1)]), Map([("a", None)]), NUMBER_KEY, Map([("a", BINARY)])),
    # keys that do not exist
    *((with_(**{key: 1}), "unknown_key", key[:80]) for key in ("titel", "", "\0", "x" * 100_000, "op")),
]  # fmt: skip
ACCEPTED: list[Any] = [
    with_(user_id="x" * 256),
    with_(user_id="é" * 128),
    with_(
        title="", body=None, payload=None, channels=None, metadata=None, send_at=None, template=None, recipients=None
    ),
    with_(title="\0"),
    with_(idempotency_key="k" * 255, id="\U0001f600" * 63),
    with_(payload=nested(32)),
    with_(payload=Map([("", -(2**63)), ("n", 2**63 - 1), ("m", 1e308), ("l", [Map()])])),
    with_(payload=Map([("n", 5), ("n", 1)])),
    with_(metadata=Map([("", "")])),
    with_(expires_at=2**53 - 1, send_at=0, priority=0),
    with_(body="x" * 100_000),
    Map([("user_id", "loser"), ("user_id", "wrong"), ("title", "loser"), ("title", "t")]),
]


def says(row: Any, value: Verbatim | tuple[Verbatim, ...]) -> bool:
    """Whether a value is somewhere in a document."""
    wanted = value if isinstance(value, tuple) else (value,)
    return any(one is row for one in wanted) or (isinstance(row, list | tuple) and any(says(one, value) for one in row))


def rows_of(as_json: bool) -> list[Row]:
    """Those that the encoding can say."""
    return [row for row in ROWS if not says(row[0], OF_MSGPACK if as_json else HUGE)]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_wrong_notification_is_named_and_spoils_only_itself(
    service: RunningDispatcher, user: str, as_json: bool
) -> None:
    rows = rows_of(as_json)
    good = Map([("user_id", user), ("title", "good")])
    batch = encoded([part for wrong_one, _, _ in rows for part in (good, wrong_one)], as_json)
    answer = submitted(service, batch, as_json)
    assert (answer["ok"], answer["seq"], answer["accepted"]) == (True, 7, len(rows))
    found = [(one["index"], one["error"]["code"], base(one["error"].get("field"))) for one in answer["rejected"]]
    for at, (row, error) in enumerate(zip(rows, found, strict=True)):
        assert error == (2 * at + 1, row[1], row[2]), f"{str(row[0])[:300]}: {error}"
    assert all(0 < len(one["error"]["message"]) <= 400 for one in answer["rejected"])
    assert len(inbox(service, user, len(rows))) == len(rows)


@pytest.mark.parametrize("as_json", [True, False])
def test_on_ingest_each_is_a_dead_letter_and_the_rest_is_delivered(
    service: RunningDispatcher, user: str, as_json: bool
) -> None:
    rows = rows_of(as_json)
    good = Map([("user_id", user), ("title", "good")])
    before = service.settled_stats()
    since = int(time.time() * 1_000)
    service.ingested(encoded([part for wrong_one, _, _ in rows for part in (good, wrong_one)], as_json))
    assert len(inbox(service, user, len(rows))) == len(rows)

    def letters() -> list[dict[str, Any]] | None:
        found = service.request("dead.list", reason="rejected", since=since, limit=1_000)["items"]
        return found if len(found) >= len(rows) else None

    found = wait_until(letters, what=f"{len(rows)} dead letters")
    assert Counter(one["error_class"] for one in found) == Counter(code for _, code, _ in rows)
    after = service.settled_stats()
    assert after["conserved"]
    assert after["accepted"] == before["accepted"] + len(rows)
    assert after["dead_letters"]["rejected"] == before["dead_letters"].get("rejected", 0) + len(rows)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_wrong_content_is_rejected_for_each_recipient(
    service: RunningDispatcher, new_user: Callable[[], str], as_json: bool
) -> None:
    """Fanned out, an entry takes another way through the shard."""
    recipients = [new_user() for _ in range(4)]  # of both shards
    rows = [
        (Map(entry), code, field)
        for entry, code, field in rows_of(as_json)
        if isinstance(entry, Map) and entry[:2] == with_() and field not in ("user_id", "recipients", "topic")
    ]
    for pairs, _, _ in rows:
        pairs[0] = ("recipients", recipients)
    assert len(rows) > 100
    answer = submitted(service, encoded([pairs for pairs, _, _ in rows], as_json), as_json)
    expected = [(at, code, field) for at, (_, code, field) in enumerate(rows) for _ in recipients]
    found = [(one["index"], one["error"]["code"], base(one["error"].get("field"))) for one in answer["rejected"]]
    assert found == expected
    assert answer["accepted"] == 0


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_just_right_is_accepted(service: RunningDispatcher, as_json: bool) -> None:
    answer = submitted(service, encoded(ACCEPTED, as_json), as_json)
    assert answer["rejected"] == []
    assert answer["accepted"] + answer["duplicates"] == len(ACCEPTED)


def submitted(service: RunningDispatcher, batch: bytes, as_json: bool) -> dict[str, Any]:
    around = b'{"op":"submit","seq":7,"notifications":BATCH}'
    if not as_json:
        around = b"\x83\xa2op\xa6submit\xa3seq\x07\xadnotificationsBATCH"
    answer = service.client.exchange_bytes(around.replace(b"BATCH", batch))
    return dict(json.loads(answer) if as_json else msgspec.msgpack.decode(answer))


def base(field: str | None) -> str | None:
    """The key of a notification: ``channels`` of ``channels[1]``."""
    return field and field.partition("[")[0].partition(".")[0]


def inbox(service: RunningDispatcher, user: str, count: int) -> list[dict[str, Any]]:
    def listed() -> list[dict[str, Any]] | None:
        items = service.request("inbox.list", user_id=user, limit=1_000)["items"]
        return items if len(items) >= count else None

    return wait_until(listed, what=f"{count} items in the inbox of {user}")
