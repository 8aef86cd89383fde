"""Deliveries of attached channels, between their shard and the router, which has the workers."""

from __future__ import annotations

from msgspec import Raw, Struct

from shards.wire.requests import WorkResult


class Offer(Struct, array_like=True, tag="W", gc=False):
    """Deliveries of an attached channel, as ``(number, delivery)``, for the router to give to a worker."""

    shard: int
    channel: str
    deliveries: list[tuple[int, Raw]]


class Want(Struct, array_like=True, tag="L", gc=False):
    """How many deliveries of a channel may lie at the router of this epoch for its ``workers`` to take."""

    epoch: int
    channel: str
    count: int
    workers: int


class Taken(Struct, array_like=True, tag="K", gc=False):
    """A worker is given these in a moment."""

    channel: str
    worker: str
    numbers: list[int]


class Settled(Struct, array_like=True, tag="E", gc=False):
    """What became of deliveries that were offered."""

    channel: str
    results: list[tuple[int, WorkResult]]


class Gone(Struct, array_like=True, tag="G", gc=False):
    """There will be no more results from this worker."""

    channel: str
    worker: str


Work = Want | Taken | Settled | Gone
