"""Settings of a channel that reaches nobody."""

from __future__ import annotations

from shards.settings import SIMULATED, ChannelSettings, ProviderSettings


def simulated(
    concurrency: int = 64,
    rate: str = "",
    burst: int = 0,
    failure_rate: float = 0.0,
    seed: int = 0,
) -> ChannelSettings:
    options = {name: value for name, value in (("failure_rate", failure_rate), ("seed", seed)) if value}
    return ChannelSettings((ProviderSettings(SIMULATED, options=options),), concurrency, rate=rate, burst=burst)
