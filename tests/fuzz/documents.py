"""Documents that are nearly right: valid ones with some of their values, keys or bytes spoiled.

Encoded by hand, so that they can say what no encoder would: duplicate keys, lone surrogates, any header width.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

USERS = ("ann", "bob", "é" * 100, "日本語", "x" * 256)


class Map(list[tuple[Any, Any]]):
    """A map as a list of its pairs, so that a key can be there twice."""


@dataclass(frozen=True)
class Verbatim:
    """A value as the bytes of either encoding."""

    as_json: bytes
    as_msgpack: bytes


def nested(levels: int) -> Verbatim:
    return Verbatim(b'{"a":' * levels + b"1" + b"}" * levels, b"\x81\xa1a" * levels + b"\x01")


def msgpack_only(as_msgpack: bytes) -> Verbatim:
    return Verbatim(b"null", as_msgpack)


NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 4, 1.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *(2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, -(10**40), 10**40),
    *("", "a", "\0", "a\0b", "\ud800", "\udc00\ud800", "\U0001f600", "x" * 255, "x" * 256, "x" * 257, "é" * 128),
    *("ann", "low", "inapp", "email", "transaction", "secruity", "2030-01-31T08:00:00Z", "0001-01-01T00:00:00+23:59"),
    *("NaN", '"', "\\", "x" * 5_000, "0-0-0-0", "ffffffff-ffffffffffffffff-1-0", "1e999", "\uff11\uff12", "-0"),
    *([], [[]], [None], ["ann", "bob"], ["ann", 5], ["inapp", "inapp"], ["a"] * 300, Map(), Map([("a", 1)])),
    *(Map([(1, 2)]), Map([("", Map([("", None)]))]), Map([("a", 1), ("a", 2)]), Map([("message", "m")])),
    *(nested(31), nested(32), nested(33), nested(250), nested(260), nested(500), nested(2_000)),
    Verbatim(b"1e999", b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00"),
    Verbatim(b"-", b"\xc1"),
    Verbatim(b'"\xff"', b"\xa1\xff"),
    Verbatim(b'"\xed\xa0\x80"', b"\xa3\xed\xa0\x80"),
    Verbatim(b"NaN", b"\xca\x7f\xc0\x00\x00"),
    *map(
        msgpack_only,
        (
            *(b"\xc4\x01\x00", b"\xc4\x03ann", b"\xd4\x05\x01", b"\xc7\x00\x05", b"\xd6\xff\x00\x00\x00\x01"),
            *(b"\xd9\x03ann", b"\xdb\x00\x00\x00\x03ann", b"\xcf" + bytes(8), b"\xdf" + bytes(4)),
            *(b"\x81\x90\x01", b"\x81\x80\x01", b"\x81\xc0\x01", b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"),
        ),
    ),
)  # fmt: skip

KEYS: tuple[Any, ...] = (
    *("user_id", "recipients", "topic", "category", "type", "priority", "title", "body", "template", "payload"),
    *("channels", "idempotency_key", "id", "send_at", "expires_at", "metadata", "op", "seq", "notifications"),
    *("user", "limit", "cursor", "ids", "state", "channel", "reason", "since", "preferences", "contacts", "categories"),
    *("quiet_hours", "start", "end", "days", "timezone", "topics", "phone", "push", "token", "secret"),
    *("", "titel", "\0", "\ud800", "x" * 300, 5, None, 1.5),
)

DOCUMENT = {
    "contacts": {
        "email": "a@b.org",
        "phone": "+33612345678",
        "push": [{"provider": "fcm", "token": "t"}],
        "webhook": {"url": "https://b.org"},
    },
    "timezone": "Europe/Paris",
    "locale": "fr",
    "preferences": {
        "channels": {"sms": False},
        "categories": {"marketing": {"email": False}, "system": True},
        "quiet_hours": {"start": "22:00", "end": "08:00", "days": ["mon"]},
        "topics": ["news"],
    },
}
FILTERS = {"channel": "email", "category": "system", "reason": "rejected", "error_class": "bad_value", "since": 0}
OPERATIONS: tuple[dict[str, Any], ...] = (
    {"op": "ping", "seq": 1},
    {"op": "stats", "seq": "a"},
    {"op": "status", "id": "00000000-0000000000000000-1-0"},
    {"op": "status", "user_id": "ann", "idempotency_key": "k"},
    {"op": "user.put", "user_id": "doc", "user": DOCUMENT},
    {"op": "user.get", "user_id": "doc"},
    {"op": "user.delete", "user_id": "doc"},
    {"op": "inbox.list", "user_id": "ann", "limit": 2, "cursor": 1},
    {"op": "inbox.mark", "user_id": "ann", "ids": ["00000000-0000000000000000-1-0"], "state": "read"},
    {"op": "dead.list", **FILTERS, "limit": 2, "cursor": 0},
    {"op": "dead.replay", **FILTERS, "user_id": "nobody", "id": "x", "limit": 2},
    {"op": "dead.purge", **FILTERS, "user_id": "nobody", "limit": 1},
    {"op": "cancel", "id": "x"},
    {"op": "explain", "notification": {"user_id": "ann", "title": "t"}},
    {"op": "submit", "seq": 3, "notifications": [{"user_id": "ann", "title": "t"}, {"user_id": "bob", "body": "b"}]},
)


def notification(random: Random) -> Map:
    """A valid one."""
    if random.random() < 0.2:
        pairs = Map([("recipients", [random.choice(USERS) for _ in range(random.randint(1, 5))])])
    else:
        pairs = Map([("user_id", random.choice(USERS))])
    pairs.append(("title", random.choice(("t", "", "é"))))
    if random.random() < 0.6:
        pairs.append(("idempotency_key", f"k{random.randint(0, 9)}"))
    for key, values in (
        ("category", ("system", "transaction", "security")),
        ("type", ("info", "error")),
        ("priority", ("low", "critical", 0, 3)),
        ("body", ("b", None)),
        ("payload", (Map(), Map([("n", 1), ("m", Map([("l", [1, -2.5, None, True])]))]))),
        ("channels", (["inapp"], ["inapp", "webhook"], ["email"])),
        ("id", ("i1", "i2")),
        ("send_at", (0, "2020-01-31T08:00:00Z")),
        ("expires_at", ("2999-01-31T08:00:00+02:00", 1)),
        ("metadata", (Map(), Map([("a", "b")]))),
    ):
        if random.random() < 0.15:
            pairs.append((key, random.choice(values)))
    return pairs


def nasty(random: Random) -> Any:
    if random.random() < 0.02:  # between these the depth of the message around it decides whether all of it is refused
        return nested(random.choice((random.randint(1, 600), random.randint(800, 1_100))))
    return random.choice(NASTY)


def mapped(value: Any) -> Any:
    """Any document with ``Map`` for its maps."""
    if isinstance(value, dict):
        return Map((key, mapped(inner)) for key, inner in value.items())
    return [mapped(inner) for inner in value] if isinstance(value, list) else value


def spoiled(random: Random, value: Any) -> Any:
    """A copy with one thing changed somewhere in it."""
    if isinstance(value, Map) and value and random.random() < 0.8:
        pairs = Map(value)
        at = random.randrange(len(pairs))
        key, inner = pairs[at]
        match random.randrange(8):
            case 0:
                del pairs[at]
            case 1:
                pairs.insert(random.randint(0, len(pairs)), (key, nasty(random)))
            case 2:
                pairs[at] = (random.choice(KEYS), inner)
            case 3:
                pairs.append((random.choice(KEYS), nasty(random)))
            case 4:
                pairs[at] = (key, spoiled(random, inner))
            case _:
                pairs[at] = (key, nasty(random))
        return pairs
    if isinstance(value, list) and not isinstance(value, Map) and value and random.random() < 0.8:
        entries = list(value)
        at = random.randrange(len(entries))
        if random.random() < 0.1:
            del entries[at]
        else:
            entries[at] = spoiled(random, entries[at])
        return entries
    return nasty(random)


def mutilated(random: Random, message: bytes) -> bytes:
    """Some bytes cut, changed, repeated, or taken from elsewhere."""
    for _ in range(random.randint(1, 3)):
        start = random.randint(0, len(message))
        end = min(len(message), start + random.choice((0, 1, 1, 2, 8, 64)))
        match random.randrange(6):
            case 0:
                message = message[:start]
            case 1:
                message = message[:start] + message[end:]
            case 2:
                message = message[:start] + random.randbytes(end - start) + message[end:]
            case 3:
                message = message[:end] + message[start:]
            case 4:
                message = message[:start] + encoded(nasty(random), random.random() < 0.5) + message[end:]
            case _:
                message += random.choice((b" ", b"\n", b"\0", b"}", b"\xc0", b"{}", message[:16]))
    return message


# --- encoding --------------------------------------------------------------------------------------------------------


def encoded(value: Any, as_json: bool, random: Random | None = None) -> bytes:
    """``random`` chooses between equal spellings: white space, header widths."""
    return _json(value, random) if as_json else _msgpack(value, random)


def _json(value: Any, random: Random | None) -> bytes:
    space = random.choice((b"", b"", b" ", b"\r\n\t")) if random else b""
    if isinstance(value, Verbatim):
        return value.as_json
    if isinstance(value, Map):
        pairs = (
            _json(key if isinstance(key, str) else str(key), random) + b":" + space + _json(inner, random)
            for key, inner in value
        )
        return b"{" + space + (b"," + space).join(pairs) + b"}"
    if isinstance(value, list):
        return b"[" + (space + b",").join(_json(inner, random) for inner in value) + space + b"]"
    return json.dumps(value, ensure_ascii=bool(random) or _has_surrogate(value)).encode()


def _has_surrogate(value: Any) -> bool:
    return isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value)


def _msgpack(value: Any, random: Random | None) -> bytes:
    wide = random is not None and random.random() < 0.1
    if isinstance(value, Verbatim):
        return value.as_msgpack
    if isinstance(value, Map):
        body = b"".join(_msgpack(part, random) for pair in value for part in pair)
        return _header(len(value), 0x80, 15, b"\xde", b"\xdf", wide) + body
    if isinstance(value, list):
        return _header(len(value), 0x90, 15, b"\xdc", b"\xdd", wide) + b"".join(_msgpack(one, random) for one in value)
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return _header(len(text), 0xA0, 31, b"\xda", b"\xdb", wide) + text
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return b"\xcf" + value.to_bytes(8, "big") if value >= 0 else b"\xd3" + struct.pack(">q", value)
    return b"\xcb" + struct.pack(">d", float(value))


def _header(count: int, fixed: int, fixed_max: int, two: bytes, four: bytes, wide: bool) -> bytes:
    if count <= fixed_max and not wide:
        return bytes([fixed | count])
    return two + struct.pack(">H", count) if count < 2**16 else four + struct.pack(">I", count)
