"""Do others wait when one user gets 90 % of the traffic? Submit to in-app delivered of the other users.

The floor is the same rate over the same service with the traffic spread over all users.
"""

from __future__ import annotations

from typing import Any, Literal

from bench.latency import USERS, Load, one_of_many
from bench.report import Figure, options, quantile, result, show
from tests.support.service import RunningDispatcher


def mostly_one(number: int) -> str:
    """Nine of ten are the hot user's, who is not among the followed."""
    return f"user-{number // 10 % USERS}" if number % 10 == 0 else "hot"


def run(
    rounds: int = 1,
    rate: int = 5_000,
    duration_s: float = 10.0,
    shards: int = 2,
    durability: Literal["power", "process"] = "process",
) -> dict[str, Any]:
    found: dict[str, list[float]] = {"hot": [], "spread": []}
    with RunningDispatcher(shards=shards, durability=durability) as dispatcher:
        loads = {
            "hot": Load(dispatcher.submit, dispatcher.stream, mostly_one),
            "spread": Load(dispatcher.submit, dispatcher.stream, one_of_many, first=10**9),
        }
        try:
            for load in loads.values():
                load.subscribed()
            for _ in range(rounds):
                for name, load in loads.items():
                    found[name] += load.run(rate, duration_s).stream
        finally:
            for load in loads.values():
                load.close()
    for waits in found.values():
        waits.sort()
    figures = [
        Figure(
            f"others, submit to in-app, {name}", quantile(found["hot"], share), quantile(found["spread"], share), "ms"
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]
    counts = {f"delivered_{name}": len(waits) for name, waits in found.items()}
    return result("hot_user", rounds, figures, rate=rate, shards=shards, durability=durability, **counts)


def main() -> None:
    chosen = options("bench.hot_user", __doc__, 1, rate=5_000, duration_s=10.0, shards=2, durability="process")
    show(run(chosen.rounds, chosen.rate, chosen.duration_s, chosen.shards, chosen.durability), chosen.json)


if __name__ == "__main__":
    main()
