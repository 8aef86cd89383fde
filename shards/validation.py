"""What a shard accepts as a notification: decoding with an error per entry, and the checks no type can express."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Collection
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import orjson

from shards.nearest import unknown
from shards.wire.encoding import is_json
from shards.wire.errors import Error, RequestError
from shards.wire.notification import KEY_BYTES_MAX, USER_ID_BYTES_MAX, Entry, Fanned, Notification, Route, UserRoute

PAYLOAD_DEPTH_MAX = 32
FANNED_KEPT = 4_096  # bytes of an undecodable entry that each recipient's rejection keeps
INTEGER_MAX = 2**63 - 1
MEANT = {  # what it is called elsewhere
    "context": "payload",
    "data": "payload",
    "message": "body",
    "subject": "title",
    "text": "body",
    "to": "user_id",
    "user": "user_id",
    "variables": "payload",
}
NOTIFICATION_KEYS = tuple(field.name for field in msgspec.structs.fields(Notification))

# A frame holds plain notifications, or, fanned out, entries of both kinds.
_plain_msgpack = msgspec.msgpack.Decoder(list[Notification])
_plain_json = msgspec.json.Decoder(list[Notification])
_fanned_msgpack = msgspec.msgpack.Decoder(list[Entry])
_fanned_json = msgspec.json.Decoder(list[Entry])
_raw_msgpack = msgspec.msgpack.Decoder(list[msgspec.Raw])
_raw_json = msgspec.json.Decoder(list[msgspec.Raw])
_named_msgpack = msgspec.msgpack.Decoder(tuple[list[str], msgspec.Raw])
_named_json = msgspec.json.Decoder(tuple[list[str], msgspec.Raw])
_user_msgpack = msgspec.msgpack.Decoder(UserRoute)
_user_json = msgspec.json.Decoder(UserRoute)
_route_msgpack = msgspec.msgpack.Decoder(Route)
_route_json = msgspec.json.Decoder(Route)
_any_msgpack = msgspec.msgpack.Decoder()

Item = tuple[str, Notification]  # (user id, content), the order of positions after fan-out


def decode_items(body: bytes, fanned: bool) -> list[Item | RejectedItem]:
    """Every entry of a frame on its own, so that a bad one spoils only itself."""
    as_json = is_json(body)
    decoder: Any = (_fanned_json if as_json else _fanned_msgpack) if fanned else None
    if decoder is None:
        decoder = _plain_json if as_json else _plain_msgpack
    items: list[Item | RejectedItem] = []
    for raw in (_raw_json if as_json else _raw_msgpack).decode(body):
        try:
            entry: Notification | Fanned = decoder.decode(_list_of_one(raw, as_json))[0]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            items.extend(_rejected(raw, fanned, error))
            continue
        if isinstance(entry, tuple):
            items.extend((user_id, entry[1]) for user_id in entry[0])
        else:
            items.append((entry.user_id or "", entry))
    return items


def raw_entries(body: bytes) -> list[msgspec.Raw]:
    """The entries of a frame without fan-out, as they came."""
    return (_raw_json if is_json(body) else _raw_msgpack).decode(body)


def decode_entry(raw: msgspec.Raw) -> Item:
    """One entry of a frame without fan-out; ``LookupError`` if it was rejected as undecodable."""
    try:
        decoded = (_plain_json if is_json(raw) else _plain_msgpack).decode(_list_of_one(raw, is_json(raw)))[0]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise LookupError(str(error)) from None
    return decoded.user_id or "", decoded


def _list_of_one(raw: msgspec.Raw, as_json: bool) -> bytes:
    """So that one decoder type serves the frame and the entry."""
    return b"[" + raw + b"]" if as_json else b"\x91" + raw


def positions(body: bytes, fanned: bool) -> int:
    """How many notifications a frame has after fan-out, without a look at what they say."""
    fanned_out = [_fanned_out(raw) if fanned else None for raw in raw_entries(body)]
    return sum(1 if entry is None else len(entry[0]) for entry in fanned_out)


class RejectedItem:
    """An entry that could not be decoded, for one of its recipients, with the error that its producer gets."""

    __slots__ = ("error", "raw", "to_topic", "user_id")

    def __init__(self, raw: bytes, user_id: str, error: Error, to_topic: bool = False) -> None:
        self.raw = raw
        self.user_id = user_id
        self.error = error
        self.to_topic = to_topic


def user_of(raw: msgspec.Raw) -> str:
    """The ``user_id`` of an entry that is refused for another reason; empty if there is none to be read."""
    try:
        return (_user_json if is_json(raw) else _user_msgpack).decode(raw).user_id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""


def _rejected(raw: msgspec.Raw, fanned: bool, error: Exception) -> list[RejectedItem]:
    """One for each position of an undecodable entry: the router wrote the recipients, so these can be read."""
    fanned_out = _fanned_out(raw) if fanned else None
    if fanned_out is None:
        return [RejectedItem(bytes(raw), user_of(raw), decode_error(raw, error))]
    names, entry = fanned_out
    kept = bytes(memoryview(entry)[:FANNED_KEPT])
    found = decode_error(entry, error)
    route = (_route_json if is_json(entry) else _route_msgpack).decode(entry)  # as the router did
    return [RejectedItem(kept, name, found, route.topic is not None) for name in names]


def _fanned_out(raw: msgspec.Raw) -> tuple[list[str], msgspec.Raw] | None:
    """The recipients of an entry, and what it says; None of an entry to one user, among others that are fanned out."""
    try:
        return (_named_json if is_json(raw) else _named_msgpack).decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


_PATH = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?$", re.DOTALL)


def located(error: msgspec.ValidationError, kind: type[msgspec.Struct] = Notification) -> tuple[str, str]:
    """What a decoder of ``kind`` found, and the path to it from the entry of the list on."""
    match = _PATH.match(str(error))
    what, path = (match["what"], match["path"] or "") if match else (str(error), "")
    field = re.sub(r"^(\[[^\]]*\])+", "", path).lstrip(".")
    if what.startswith("Invalid enum value ") and (known := choices(get_type_hints(kind).get(field))):
        *others, last = known
        return f"{field} is {what.removeprefix('Invalid enum value ')}; it must be {', '.join(others)} or {last}", field
    return f"{what[0].lower()}{what[1:]}", field


def choices(kind: Any) -> list[str]:
    """The texts that a ``Literal`` allows, an optional one as well."""
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [choice for part in get_args(kind) for choice in choices(part)]


def decode_error(raw: bytes | msgspec.Raw, error: Exception) -> Error:
    """What the decoder found, in the protocol's terms: the code, the key, and the nearest known key."""
    if isinstance(error, RecursionError):
        return Error("too_deep", f"nested deeper than {PAYLOAD_DEPTH_MAX} levels; flatten it", "payload")
    if isinstance(error, UnicodeDecodeError):
        return bad_text(raw, error)
    if not isinstance(error, msgspec.ValidationError):
        return Error("bad_encoding", f"not a valid document: {error}"[:300])
    what, field = located(error)
    if found := re.search(r"unknown field `(.*)`", what, re.DOTALL):
        return Error("unknown_key", unknown("key", found[1], NOTIFICATION_KEYS, MEANT), found[1][:80])
    return Error("bad_value", what[:300], field[:80] or None)


def spoiled_field(raw: bytes | msgspec.Raw) -> str | None:
    """The key whose value has a text or a number that does not decode."""
    codec: Any = msgspec.json if is_json(raw) else msgspec.msgpack
    try:
        values = codec.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    for key, value in values.items():
        try:
            codec.decode(value)
        except (UnicodeDecodeError, msgspec.ValidationError):
            return str(key)[:80]
        except (msgspec.DecodeError, RecursionError):
            continue
    return None


def bad_text(raw: bytes | msgspec.Raw, error: UnicodeDecodeError) -> Error:
    """A text that is not UTF-8. A lone surrogate, which some encoders let pass, is a value that no text has."""
    field = spoiled_field(raw)
    following = error.object[error.start : error.start + 2]
    if following[:1] == b"\xed" and following[1:] >= b"\xa0":
        return Error("bad_value", "a text has a lone surrogate, which UTF-8 cannot say; remove it", field)
    return Error("bad_encoding", f"a text is not UTF-8: {error.reason} at byte {error.start} of it", field)


def check_address(given: Notification | Route) -> None:
    """A notification says in exactly one way who it is for."""
    names = [name for name in ("user_id", "recipients", "topic") if getattr(given, name) is not None]
    if len(names) != 1:
        problem = f"both {' and '.join(names)} are given" if names else "no recipient is given"
        raise RequestError("bad_value", f"{problem}; give exactly one of user_id, recipients, topic", "user_id")
    if given.recipients is not None and not given.recipients:
        raise RequestError("bad_value", "recipients is empty; name at least one", "recipients")


def check_user_id(user_id: str) -> None:
    size = len(user_id.encode())
    if not 1 <= size <= USER_ID_BYTES_MAX or "\0" in user_id:
        raise RequestError("bad_value", _text_rule("user_id", user_id, size, USER_ID_BYTES_MAX), "user_id")


def check_key(name: str, key: str) -> None:
    """``idempotency_key`` and ``id`` are 1 to 255 bytes without NUL."""
    size = len(key.encode())
    if not 1 <= size <= KEY_BYTES_MAX or "\0" in key:
        raise RequestError("bad_value", _text_rule(name, key, size, KEY_BYTES_MAX), name)


def _text_rule(name: str, value: str, size: int, size_max: int) -> str:
    problem = "contains a NUL" if "\0" in value else "is empty" if not size else f"has {size} bytes"
    return f"{name} {problem}; it must have 1 to {size_max} bytes and no NUL"


def check_document(name: str, document: dict[Any, Any]) -> None:
    """Bounded depth; only what JSON can say, as webhooks and the in-app inbox are JSON."""
    pending: list[tuple[Any, int]] = [(document, 1)]
    while pending:
        container, depth = pending.pop()
        if depth > PAYLOAD_DEPTH_MAX:
            raise RequestError("too_deep", f"{name} is nested deeper than {PAYLOAD_DEPTH_MAX} levels", name)
        for value in container.values() if type(container) is dict else container:
            kind = type(value)
            if kind is str or kind is bool or value is None:
                continue
            if kind is int:
                if not ~INTEGER_MAX <= value <= INTEGER_MAX:
                    raise RequestError("bad_value", f"{name} has an integer beyond 64 bits; send it as text", name)
            elif kind is float:
                if not math.isfinite(value):
                    raise RequestError("bad_value", f"{name} has the number {value}, which JSON cannot say", name)
            elif kind is dict or kind is list:
                pending.append((value, depth + 1))
                if kind is dict and not all(type(key) is str for key in value):
                    raise RequestError("bad_value", f"{name} has a key that is not text", name)
            else:
                raise RequestError("bad_value", f"{name} has a value of type {kind.__name__}; send text", name)


def instant_ms(name: str, value: str | int) -> int:
    """An RFC 3339 text with an offset, or milliseconds since the epoch, as milliseconds since the epoch."""
    if isinstance(value, str):
        try:
            parsed = datetime.datetime.fromisoformat(value)
        except ValueError:
            parsed = None
        if parsed is None or parsed.tzinfo is None:
            raise RequestError(
                "bad_value", f'{name} {value[:40]!r} is not RFC 3339 with an offset ("2026-01-31T08:00:00Z")', name
            )
        return int(parsed.timestamp() * 1000)
    if not 0 <= value < 2**53:
        raise RequestError("bad_value", f"{name} {value} is not in milliseconds since the epoch", name)
    return value


def check_rare(notification: Notification, now_ms: int, horizon_ms: int, templates: Collection[str] = ()) -> None:
    """The keys that most notifications do not have; makes instants numbers of milliseconds."""
    if notification.template is not None and notification.template not in templates:
        raise RequestError("unknown_template", unknown("template", notification.template, templates), "template")
    if notification.send_at is not None:
        send_at_ms = instant_ms("send_at", notification.send_at)
        if send_at_ms > now_ms + horizon_ms:
            days = horizon_ms / 86_400_000
            raise RequestError(
                "bad_value",
                f"send_at {notification.send_at!r:.40} is beyond the horizon of {days:g} days (schedules.horizon)",
                "send_at",
            )
        notification.send_at = send_at_ms
    if notification.expires_at is not None:
        notification.expires_at = instant_ms("expires_at", notification.expires_at)


def has_content(notification: Notification) -> bool:
    return (
        notification.title is not None
        or notification.body is not None
        or notification.template is not None
        or (notification.payload is not None and isinstance(notification.payload.get("message"), str))
    )


def readable(raw: bytes) -> bytes:
    """Any bytes as a JSON document for a person: the document itself, or what can be shown of it."""
    try:
        document = orjson.loads(raw) if is_json(raw) else _any_msgpack.decode(raw)
        # an answer has it some levels down, and orjson writes fewer levels than it reads
        shown = orjson.dumps([[[[document]]]], default=repr, option=orjson.OPT_NON_STR_KEYS)
        return bytes(raw) if is_json(raw) else shown[4:-4]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, TypeError):
        return orjson.dumps({"undecodable": raw[:1_000].decode("utf-8", "backslashreplace"), "bytes": len(raw)})
