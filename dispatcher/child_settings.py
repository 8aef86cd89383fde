"""What the supervisor hands to the router and the collector at their start."""

from __future__ import annotations

import msgspec


class RouterSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times are in seconds; ``window_*`` bound what waits for each shard, ``requests`` who waits for an answer."""

    epoch: int
    shards: int
    ingest: str
    submit: str
    stream: str
    receipt_timeout_s: float
    drain_s: float
    message_bytes: int
    batch: int
    fanout_bytes: int
    window_frames: int
    window_bytes: int
    requests: int
    channels: dict[str, float | None]  # all, with the timeout of those that are attached
    curve_secret: str = ""  # without it the public sockets are open
    allow: str = ""


class CollectorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    shards: int
