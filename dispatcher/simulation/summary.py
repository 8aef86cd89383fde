"""The account of a simulation, as ``--json`` prints it."""

from __future__ import annotations

from typing import Any

from dispatcher.simulation.plan import Plan
from dispatcher.simulation.producer import Totals


def _cpu_s(stats: dict[str, Any]) -> dict[str, float]:
    return {
        "router": stats["router"]["cpu_s"],
        "shards": sum(shard["cpu_s"] for shard in stats["shards"]),
        "collector": stats["collector"]["cpu_s"],
    }


def summary(
    plan: Plan, before: dict[str, Any], stats: dict[str, Any], totals: list[Totals], arrivals: dict[str, int]
) -> dict[str, Any]:
    first_us = min(total.first_us for total in totals if total.first_us)
    last_us = max(shard["changed_at_us"] for shard in stats["shards"])
    elapsed_s = (last_us - first_us) / 1e6
    waits = sorted(
        arrivals[key] - submitted
        for total in totals
        for key, submitted in total.submitted_us.items()
        if key in arrivals
    )
    delivered = stats["outcomes"]["delivered"]
    outcomes = {"pending": 0, "retrying": 0, "deferred": 0, **stats["outcomes"]}
    shards = stats["shards"]
    spent_before = _cpu_s(before)  # starting, and storing the users, is not part of the work
    return {
        "events": plan.events,
        **{
            key: sum(getattr(total, key) for total in totals)
            for key in ("accepted", "duplicates", "rejected", "overloaded", "resubmitted")
        },
        "planned": stats["planned"],
        "outcomes": outcomes,
        "pending": stats["pending"],
        "attempts": stats["attempts"],
        "failed_attempts": stats["failed_attempts"],
        "conserved": stats["conserved"],
        "dead_letters": stats["collector"]["dead_letters"],
        "elapsed_s": round(elapsed_s, 3),
        "events_per_s": round(plan.events / elapsed_s),
        "deliveries_per_s": round(delivered / elapsed_s),
        "shards": plan.shards,
        "durability": plan.durability,
        "seed": plan.seed,
        "cpu_s": {
            "producers": round(sum(total.cpu_s for total in totals), 2),
            **{role: round(spent - spent_before[role], 2) for role, spent in _cpu_s(stats).items()},
        },
        "rss_mb": {
            "producers": max(total.rss_mb for total in totals),
            "router": stats["router"]["rss_mb"],
            "shards": max(shard["rss_mb"] for shard in shards),
            "collector": stats["collector"]["rss_mb"],
        },
        "latency_ms": {
            "p50": _quantile_ms(waits, 0.5),
            "p99": _quantile_ms(waits, 0.99),
            "max": _quantile_ms(waits, 1.0),
            "samples": len(waits),
        },
    }


def _quantile_ms(sorted_us: list[int], quantile: float) -> float | None:
    if not sorted_us:
        return None
    return round(sorted_us[min(len(sorted_us) - 1, int(quantile * len(sorted_us)))] / 1000, 1)
