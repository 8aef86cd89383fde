"""One message is one MessagePack or JSON document; its first byte tells which."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from msgspec import Raw

pack = msgspec.msgpack.Encoder().encode

_JSON_STARTS = frozenset(b"{[ \t\r\n")


def is_json(message: bytes | Raw) -> bool:
    """Whether the first byte announces JSON; everything else is MessagePack."""
    view = memoryview(message)
    return bool(view) and view[0] in _JSON_STARTS


def encode_answer(answer: dict[str, Any], as_json: bool) -> bytes:
    """The answer in the encoding of the question. orjson writes all JSON that leaves the process."""
    if as_json:
        return orjson.dumps(answer, default=_plain)
    return pack(answer)


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value)
