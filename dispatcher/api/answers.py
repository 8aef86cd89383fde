"""What comes back on ``submit``, decoded."""

from __future__ import annotations

from typing import Any

import msgspec

from shards.wire.errors import Error


class Head(msgspec.Struct):
    """What every answer has; the rest is skipped."""

    ok: bool
    error: Error | None = None
    seq: int | None = None


_head = msgspec.msgpack.Decoder(Head).decode


def read_head(message: bytes) -> Head:
    """``msgspec.MsgspecError`` if it is no answer, as no dispatcher sends it."""
    try:
        head = _head(message)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    if not head.ok and head.error is None:
        raise msgspec.DecodeError("it has no error, and is not ok")
    return head


def read_document(message: bytes) -> dict[str, Any]:
    """An answer without what ``read_head`` has. ``msgspec.MsgspecError`` if it is no document."""
    try:
        document = msgspec.msgpack.decode(message, type=dict[str, Any])
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
    return {key: value for key, value in document.items() if key not in ("ok", "seq", "error")}
