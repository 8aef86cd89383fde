"""A browser's subscription to Web Push: what ``JSON.stringify(await pushManager.subscribe(...))`` gives (Push API)."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from shards import base64url

EXAMPLE = '{"endpoint": "https://...", "keys": {"p256dh": "...", "auth": "..."}}'
POINT_BYTES = 65  # of the curve P-256, uncompressed
AUTH_BYTES = 16


class Subscription(NamedTuple):
    endpoint: str
    p256dh: bytes
    auth: bytes


class Keys(msgspec.Struct):
    p256dh: str
    auth: str


class Document(msgspec.Struct):
    endpoint: str
    keys: Keys


def parse(token: str) -> Subscription:
    """``ValueError`` says what is wrong, without the keys."""
    try:
        document = msgspec.json.decode(token, type=Document)
    except msgspec.DecodeError as error:
        raise ValueError(f"it is no browser's subscription as JSON, like {EXAMPLE}: {error}") from None
    parts = urlsplit(document.endpoint)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError("its endpoint is no https URL; pass on the subscription as the browser gave it")
    p256dh = _decode("p256dh", document.keys.p256dh, POINT_BYTES)
    if p256dh[0] != 4:
        raise ValueError("keys.p256dh is no uncompressed point; pass on the subscription as the browser gave it")
    return Subscription(document.endpoint, p256dh, _decode("auth", document.keys.auth, AUTH_BYTES))


def _decode(name: str, text: str, length: int) -> bytes:
    try:
        return base64url.decode(text, length)
    except ValueError as error:
        raise ValueError(f"keys.{name} is {error}; pass the subscription on as the browser gave it") from None
