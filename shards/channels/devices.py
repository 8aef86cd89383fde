"""What the services that reach devices have in common: how long they keep a message, and which one it replaces."""

from __future__ import annotations

import hashlib
import time
from typing import Any, Protocol

import msgspec
import orjson

from shards import base64url
from shards.channels import urls
from shards.channels.base import Delivery, SendError

BODY_BYTES_MAX = 4_096  # of FCM and APNs alike
TTL_S_MAX = 2_419_200  # four weeks: what FCM keeps a message at most, and the others about
URGENCIES = {"critical": "high", "high": "high", "normal": "normal", "low": "very-low"}  # RFC 8030, 5.3


class Service(Protocol):
    """A provider of push; ``token`` is a device's."""

    async def send(self, token: str, delivery: Delivery) -> str:
        """What the service calls the message. Raises ``SendError``, without ``bad``."""

    async def close(self) -> None: ...


def ttl_s(delivery: Delivery) -> int:
    """How long it is worth delivering: until it expires."""
    if delivery.expires_ms is None:
        return TTL_S_MAX
    return min(TTL_S_MAX, max(0, delivery.expires_ms // 1000 - int(time.time())))


def collapse_id(delivery: Delivery) -> str | None:
    """32 characters of base64url, which all of them take; equal where ``collapse`` is."""
    if delivery.collapse is None:
        return None
    return base64url.encode(hashlib.sha256(delivery.collapse.encode()).digest()[:24])


def check_url(name: str, url: str, *schemes: str) -> None:
    """``ValueError`` where a setting is no URL."""
    parts = urls.split(url)
    if parts is None or parts.scheme not in schemes or parts.path or parts.query:
        raise ValueError(f"{name} is {url!r}; it is to be like {schemes[0]}://push.example.com, without a path")


def encoded(content: Any) -> bytes:
    """As JSON. What came as MessagePack may have more than that can say."""
    try:
        return orjson.dumps(content, default=msgspec.to_builtins, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)
    except TypeError as error:
        raise SendError("permanent", f"the payload cannot be written as JSON: {error}") from None


def body(service: str, content: Any, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """As JSON, where the service takes that much; else the error of it, before anything is sent."""
    text = encoded(content)
    if len(text) > bytes_max:
        raise SendError(
            "permanent",
            f"{len(text)} bytes of title, text and payload are more than the {bytes_max} that {service} takes; "
            "shorten them",
        )
    return text
