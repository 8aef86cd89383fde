"""The settings of one shard, composed from those that stand beside their owners. The supervisor hands them over."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shards.answers import ErrorClass
from shards.caps import CapSettings
from shards.digests import DigestSettings
from shards.limiter import RateLimit
from shards.quiet import check_zone
from shards.retry import WEBHOOK_RETRY, RetryPolicy
from shards.rules import Category, PlacedRule
from shards.units import Seconds, parse_rate
from shards.wire.notification import CHANNELS

SIMULATED = "simulated"  # the provider that reaches nobody
ATTACHED = "attached"  # the one that is programs of the user's

Count = Annotated[int, msgspec.Meta(ge=1)]
OUTPUT_BYTES_MAX = 16 * 2**20


class ProviderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A class of ``channels.registry``, by the provider's name or by ``path``, and the options it is made with."""

    provider: str
    path: str = ""
    options: dict[str, Any] = {}


class ChannelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``concurrency`` bounds the deliveries under way at once, per shard; ``per_endpoint`` those to one host.

    ``rate`` is what the provider takes from all shards together, empty for no bound; ``burst`` 0 is a tenth of a
    second's worth of it.
    """

    providers: tuple[ProviderSettings, ...]
    concurrency: int = 64
    per_endpoint: int = 16
    timeout: Seconds = Seconds(10.0)
    rate: str = ""
    burst: int = 0
    retry: RetryPolicy | None = None
    on_ambiguous: Literal["retry", "hold"] = "retry"

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= 100_000:
            raise ValueError(f"concurrency is {self.concurrency}; it must be between 1 and 100000")
        if not 1 <= self.per_endpoint <= 100_000:
            raise ValueError(f"per_endpoint is {self.per_endpoint}; it must be between 1 and 100000")
        if self.timeout <= 0:
            raise ValueError("timeout must be above 0")
        if self.rate:
            parse_rate(self.rate)
        elif self.burst:
            raise ValueError("burst: it needs rate as well")
        if self.burst < 0:
            raise ValueError(f"burst is {self.burst}; it must not be below 0")

    @property
    def is_simulated(self) -> bool:
        return all(one.provider == SIMULATED for one in self.providers)

    @property
    def is_attached(self) -> bool:
        return all(one.provider == ATTACHED for one in self.providers)


class Priorities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    aging: Seconds = Seconds(30.0)

    def __post_init__(self) -> None:
        if self.aging <= 0:
            raise ValueError("aging must be above 0")


class Idempotency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Per shard: the window, and the entries that may shorten it."""

    window: Seconds = Seconds(86_400.0)
    max_entries: Count = 10_000_000


class Schedules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``horizon``: a notification is not accepted that is to be sent later than that from now."""

    horizon: Seconds = Seconds(365 * 86_400.0)


class PreferenceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for users whose document says nothing of it."""

    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if problem := check_zone(self.timezone):
            raise ValueError(f"timezone: {problem}")


class TemplateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``directory`` has a folder per template; empty for none. ``output_bytes`` bounds each part, rendered."""

    directory: str = ""
    output_bytes: Annotated[int, msgspec.Meta(ge=1, le=OUTPUT_BYTES_MAX)] = 256 * 2**10
    allow_template_put: bool = False


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a frame whose deliveries are all final is kept: ``inbox`` where one of them is in an inbox."""

    finished: Seconds = Seconds(86_400.0)
    inbox: Seconds = Seconds(30 * 86_400.0)
    max_bytes: Count = 20 * 2**30


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a shard holds in memory at the most; what is over waits on disk, or is answered as the field says."""

    lane_items: Count = 10_000  # per channel and priority; more waits in the journal
    retrying: Count = 50_000  # per channel; more waits on disk (of long waits, from half of it on), or in its lane
    users: Count = 100_000  # cached preferences
    limiter_keys: Count = 1_000_000  # per limit; a new user beyond as many active ones is rate_limited
    broadcasts: Count = 1_000  # to topics, not expanded yet; more are overloaded
    turn_notifications: Count = 8_192  # judged and journaled in one transaction


class ShardSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that one shard is told at its start."""

    shard: int
    shards: int
    path: str
    durability: Literal["power", "process"]
    incarnation: int
    secret: int
    categories: dict[str, Category]
    rate_limits: dict[str, RateLimit]
    retry: RetryPolicy
    priorities: Priorities
    idempotency: Idempotency
    retention: Retention
    bounds: Bounds
    channels: dict[str, ChannelSettings]
    errors: dict[str, dict[str, ErrorClass]] = {}
    schedules: Schedules = Schedules()
    digests: dict[str, DigestSettings] = {}
    caps: dict[str, CapSettings] = {}
    drain: Seconds = Seconds(10.0)
    preferences: PreferenceSettings = PreferenceSettings()
    rules: tuple[PlacedRule, ...] = ()
    templates: dict[str, dict[str, str]] = {}  # name -> part -> source
    templates_put: tuple[str, ...] = ()  # those of them that clients have put
    output_bytes: int = TemplateSettings().output_bytes
    version: int = 1  # of the configuration
    reads: int = 0  # how often it was read, since the supervisor's start: secrets in files may differ without another

    def retry_of(self, channel: str) -> RetryPolicy:
        settings = self.channels.get(channel)
        if settings is None or (settings.retry is None and (settings.is_simulated or channel != "webhook")):
            return self.retry
        return settings.retry or WEBHOOK_RETRY

    def is_held(self, channel: str) -> bool:
        """Whether an attempt of which nobody knows how it ended is for a person to look at."""
        return channel in self.channels and self.channels[channel].on_ambiguous == "hold"

    def channel_names(self) -> list[str]:
        """All that are known, in the order in which a new journal numbers them."""
        return [*CHANNELS, *(name for name in self.channels if name not in CHANNELS)]
