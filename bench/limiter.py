"""What does it cost to ask a rate limit? Beside a bare dict's get and set."""

from __future__ import annotations

from typing import Any

from bench.report import Figure, medians, options, result, seconds, show
from shards.limiter import Limiter, RateLimit
from shards.wire import hash_user


def run(rounds: int = 5, items: int = 500_000, users: int = 10_000) -> dict[str, Any]:
    keys = [hash_user(f"user-{number}") - 2**63 for number in range(users)] * max(1, items // users)
    limiters = {
        "all pass": Limiter(RateLimit("1000000/second"), 2 * users),
        "most are refused": Limiter(RateLimit("1/hour"), 2 * users),
    }
    figures = []
    for name, limiter in limiters.items():
        value, floor = medians(rounds, lambda limiter=limiter: _ns(limiter, keys), lambda: _bare_ns(keys))  # type: ignore[misc]
        figures.append(Figure(f"allow, {name}", value, floor, "ns/item"))
    return result("limiter", rounds, figures, items=len(keys), users=users)


def _ns(limiter: Limiter, keys: list[int]) -> float:
    def work() -> None:
        allow = limiter.allow
        for key in keys:
            allow(key, 1.0)
        limiter.charges.clear()

    return seconds(work) / len(keys) * 1e9


def _bare_ns(keys: list[int]) -> float:
    due: dict[int, float] = {}

    def work() -> None:
        get = due.get
        for key in keys:
            due[key] = get(key, 0.0) + 1.0

    return seconds(work) / len(keys) * 1e9


def main() -> None:
    chosen = options("bench.limiter", __doc__, 5, items=500_000, users=10_000)
    show(run(chosen.rounds, chosen.items, chosen.users), chosen.json)


if __name__ == "__main__":
    main()
