"""What does it cost to ask a rate limit? Beside a bare dict's get and set."""

from __future__ import annotations

from typing import Any

from bench.report import Figure, medians, options, result, seconds, show
from shards.limiter import Limiter, RateLimit


def run(rounds: int = 5, items: int = 500_000, users: int = 10_000) -> dict[str, Any]:
    names = [f"user-{number}" for number in range(users)] * max(1, items // users)
    limiters = {
        "all pass": Limiter(RateLimit("1000000/second"), 2 * users),
        "most are refused": Limiter(RateLimit("1/hour"), 2 * users),
    }
    figures = []
    for name, limiter in limiters.items():
        value, floor = medians(rounds, lambda limiter=limiter: _ns(limiter, names), lambda: _bare_ns(names))  # type: ignore[misc]
        figures.append(Figure(f"allow, {name}", value, floor, "ns/item"))
    return result("limiter", rounds, figures, items=len(names), users=users)


def _ns(limiter: Limiter, names: list[str]) -> float:
    def work() -> None:
        allow = limiter.allow
        for name in names:
            allow(name, 1.0)

    return seconds(work) / len(names) * 1e9


def _bare_ns(names: list[str]) -> float:
    due: dict[str, float] = {}

    def work() -> None:
        get = due.get
        for name in names:
            due[name] = get(name, 0.0) + 1.0

    return seconds(work) / len(names) * 1e9


def main() -> None:
    chosen = options("bench.limiter", __doc__, 5, items=500_000, users=10_000)
    show(run(chosen.rounds, chosen.items, chosen.users), chosen.json)


if __name__ == "__main__":
    main()
