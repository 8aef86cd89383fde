"""What a client sends, as far as the router reads it: the request around a batch, and every other operation.

Only ``RequestError`` comes out, whatever the bytes are.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from shards.nearest import unknown
from shards.validation import bad_text, check_document, located, spoiled_field
from shards.wire.encoding import is_json, pack
from shards.wire.errors import RequestError
from shards.wire.requests import OPERATIONS, Request, Submit, WorkerCall

PLACES_MAX = 2**62  # what a cursor counts fits SQLite's integers
SEQ_BYTES_MAX = 255  # it is kept while a request waits, and sent back
IDS_MAX = 1_000  # of one request
LEVELS_MAX = 100  # of a notification that is asked about; what it may have is checked with the rest of it
WORKER_OPS = ("channel.attach", "channel.detach")
MESSAGE_SHOWN = 300  # characters; a decoder's words may quote the value


class Numbered(msgspec.Struct):
    """What is read of a request that is refused."""

    seq: int | str | None = None


_submit_msgpack = msgspec.msgpack.Decoder(Submit)
_submit_json = msgspec.json.Decoder(Submit)
_numbered_msgpack = msgspec.msgpack.Decoder(Numbered)
_numbered_json = msgspec.json.Decoder(Numbered)
# how a request begins, in either encoding: perhaps its op, then a number as its seq
_LEADING = re.compile(
    rb'\s*+\{\s*+(?:"op"\s*+:\s*+"[a-z.]*+"\s*+,\s*+)?"seq"\s*+:\s*+(-?\d{1,20})\s*+[,}]'
    rb"|(?:[\x80-\x8f]|\xde..|\xdf.{4})(?:\xa2op[\xa0-\xbf][a-z.]*+)?\xa3seq"
    rb"([\x00-\x7f\xe0-\xff]|[\xcc\xd0].|[\xcd\xd1]..|[\xce\xd2].{4}|[\xcf\xd3].{8})",
    re.DOTALL,
)


def decode_request(body: bytes, as_json: bool) -> Submit | Request | WorkerCall:
    """A submit with its list undecoded, a worker's call with its results unchecked, or any other operation."""
    try:
        request = (_submit_json if as_json else _submit_msgpack).decode(body)
    except (msgspec.ValidationError, UnicodeDecodeError):
        return _operation(body, as_json)
    except msgspec.MsgspecError as error:
        raise RequestError("bad_encoding", f"neither JSON nor MessagePack: {error}"[:MESSAGE_SHOWN]) from None
    except RecursionError:
        raise RequestError("too_deep", "the request is nested too deeply") from None
    _check_seq(request.seq)
    return request


def _operation(body: bytes, as_json: bool) -> Request | WorkerCall:
    """A request for any operation but a well-formed submit; the error names the key and what is known."""
    codec: Any = msgspec.json if as_json else msgspec.msgpack
    try:
        document = codec.decode(body)
    except msgspec.ValidationError as error:
        raise RequestError("bad_value", str(error).lower(), spoiled_field(body)) from None
    except UnicodeDecodeError as error:
        found = bad_text(body, error)
        raise RequestError(found.code, found.message, found.field) from None
    except msgspec.MsgspecError as error:
        raise RequestError("bad_encoding", f"neither JSON nor MessagePack: {error}"[:MESSAGE_SHOWN]) from None
    except RecursionError:
        raise RequestError("too_deep", "the request is nested too deeply") from None
    if not isinstance(document, dict) or not isinstance(document.get("op"), str):
        raise RequestError("bad_request", "a request is a map with the text op", "op")
    op = document["op"]
    needs, takes = (("notifications",), ()) if op == "submit" else OPERATIONS.get(op, (None, None))
    if needs is None or takes is None:
        raise RequestError("unknown_op", unknown("op", op, ("submit", *OPERATIONS)), "op")
    allowed = ("op", "seq", *needs, *takes)
    for key in document:
        if key not in allowed:
            raise RequestError("unknown_key", unknown("key", str(key), allowed), str(key)[:80])
    given = {key for key in document if document[key] is not None}
    for key in needs:
        if key not in given:
            raise RequestError("bad_request", f"{op} needs {key}", key)
    if op in ("status", "cancel") and "id" not in given and not {"user_id", "idempotency_key"} <= given:
        raise RequestError("bad_request", f"{op} needs id, or user_id and idempotency_key", "id")
    if op in WORKER_OPS:
        return _worker_call({key: document[key] for key in given})
    if op == "submit":  # whatever else is wrong with one: its list is looked at elsewhere
        del document["notifications"]
    try:
        request = msgspec.convert(document, Request)
    except msgspec.ValidationError as error:
        raise _bad_value(error, Request) from None
    if op == "submit":
        raise RequestError("bad_request", "a key is there twice, first with a value that is not valid; give each once")
    _check_seq(request.seq)
    if request.cursor is not None and not _is_place(request.cursor):
        raise RequestError("bad_value", f"cursor is not one that {op} answered", "cursor")
    if request.ids is not None and len(request.ids) > IDS_MAX:
        raise RequestError("too_many", f"{len(request.ids)} ids; at most {IDS_MAX} per request", "ids")
    if request.user is not None:
        check_document("user", request.user)
    if request.notification is not None:
        _check_levels("notification", request.notification)
    _check_integers(request)
    return request


def _worker_call(document: dict[str, Any]) -> WorkerCall:
    try:
        call = msgspec.convert(document, WorkerCall)
    except msgspec.ValidationError as error:
        raise _bad_value(error, WorkerCall) from None
    _check_seq(call.seq)
    return call


def _bad_value(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> RequestError:
    what, field = located(error, kind)
    return RequestError("bad_value", what[:MESSAGE_SHOWN], field.partition("[")[0] or None)


def _check_seq(seq: int | str | None) -> None:
    _check_integers(seq, "seq")
    if isinstance(seq, str) and len(seq.encode()) > SEQ_BYTES_MAX:
        raise RequestError("bad_value", f"seq has over {SEQ_BYTES_MAX} bytes; a number will do", "seq")


def _check_integers(value: object, field: str | None = None) -> None:
    """JSON has integers that neither a shard nor an answer can be sent."""
    try:
        pack(value)
    except OverflowError:
        raise RequestError("bad_value", "an integer has more than 64 bits; send it as text", field) from None


def _check_levels(field: str, document: dict[str, Any]) -> None:
    """What is passed on is encoded again, which takes as many levels of Python's stack."""
    level: list[Any] = [document]
    for _ in range(LEVELS_MAX):
        level = [value for each in level for value in (each.values() if isinstance(each, dict) else each)]
        level = [value for value in level if isinstance(value, dict | list)]
        if not level:
            return
    raise RequestError("too_deep", f"{field} is nested deeper than {LEVELS_MAX} levels", field)


def _is_place(cursor: str | int) -> bool:
    try:
        return 0 <= int(cursor) < PLACES_MAX
    except ValueError:
        return False


def seq_of(body: bytes) -> int | str | None:
    """The ``seq`` of a request that is refused. Where it cannot be read as a whole, it has to begin with that."""
    decoder = _numbered_json if is_json(body) else _numbered_msgpack
    try:
        seq = decoder.decode(body).seq
        _check_seq(seq)
    except (msgspec.ValidationError, RequestError):
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _leading_seq(body)
    return seq


def _leading_seq(body: bytes) -> int | None:
    found = _LEADING.match(body)
    if found is None:
        return None
    codec: Any = msgspec.json if is_json(body) else msgspec.msgpack
    try:
        seq: int = codec.decode(found[1] or found[2], type=int)
        _check_seq(seq)
    except (msgspec.MsgspecError, RequestError):
        return None
    return seq


def as_list(body: bytes, as_json: bool) -> bytes:
    """``ingest`` takes one notification as well as a list."""
    if as_json:
        return body if body.lstrip()[:1] == b"[" else b"[" + body + b"]"
    first = body[0] if body else 0
    return body if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD) else b"\x91" + body
