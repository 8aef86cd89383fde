"""JSON as some encoders write it: NaN, infinities and lone surrogates are not JSON, and spoil the whole message.

Here they become something that decodes as far as the list of notifications, and is then refused in the one
notification that has it. Only a message that could not be decoded takes this way.
"""

from __future__ import annotations

import re

from shards.wire.encoding import is_json

OUT_OF_RANGE = b"1e999"  # refused where a number is decoded
NOT_UTF8 = b"\xed\xa0\x80"  # U+D800, refused where a text is decoded

# the loops are possessive and every string ends, at the latest with the message: no input takes quadratic time
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|-?(?:NaN|Infinity)', re.DOTALL)
# most messages that do not decode have nothing to mend: a look at all of it costs a thousandth of taking it apart
_MENDABLE = re.compile(rb"NaN|Infinity|\\u[Dd][89A-Fa-f]")
_ESCAPE = re.compile(
    rb"\\(?:u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}|(u[Dd][89A-Fa-f][0-9A-Fa-f]{2})|.)", re.DOTALL
)


def repair(message: bytes) -> bytes:
    """The message with every such value replaced; the same message if it has none, or is not JSON."""
    return _TOKEN.sub(_token, message) if is_json(message) and _MENDABLE.search(message) else message


def _token(found: re.Match[bytes]) -> bytes:
    text = found[0]
    if text[:1] != b'"':
        return OUT_OF_RANGE
    return _ESCAPE.sub(_escape, text) if b"\\" in text else text


def _escape(found: re.Match[bytes]) -> bytes:
    return NOT_UTF8 if found[1] else found[0]
