"""All limits per user of one shard, by the names under which they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shards.caps import Cap, CapSettings
from shards.keyed import Keyed
from shards.limiter import Limiter, RateLimit


class Limits:
    """``rates`` are by channel, ``caps`` by their names in the configuration; ``named`` has them all."""

    def __init__(self, rates: Mapping[str, RateLimit], caps: Mapping[str, CapSettings], keys_max: int) -> None:
        self.rates = {channel: Limiter(limit, keys_max) for channel, limit in rates.items()}
        self.caps = {name: Cap(settings, keys_max) for name, settings in caps.items()}
        self.named: dict[str, Keyed[Any]] = {
            **{f"rate:{channel}": limiter for channel, limiter in self.rates.items()},
            **{f"cap:{name}": cap for name, cap in self.caps.items()},
        }
