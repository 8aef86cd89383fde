"""Operations on their way to a shard or the collector and back, and the stream."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from shards.wire.errors import Error
from shards.wire.requests import Request

COLLECTOR = -1  # the ``shard`` of a reply from the collector


class Query(Struct, array_like=True, tag="Q", gc=False):
    """An operation, router to shard or collector, on the control socket."""

    query: int
    request: Request


class Reply(Struct, array_like=True, tag="R", gc=False):
    """A shard's or the collector's answer to a ``Query``: a document, or an error."""

    query: int
    shard: int
    result: Any = None
    error: Error | None = None


class Subscriptions(Struct, array_like=True, tag="U", gc=False):
    """The prefixes that somebody is subscribed to, so that shards publish only what is read."""

    prefixes: list[bytes]


class Publish(Struct, array_like=True, tag="S", gc=False):
    """Documents for the stream: ``(topic, JSON)``."""

    documents: list[tuple[bytes, bytes]]
