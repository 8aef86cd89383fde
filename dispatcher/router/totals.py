"""The ``stats`` operation: the shards' numbers added up, with each shard's own beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from dispatcher.router.broadcasts import merge_broadcasts
from shards.ledger import FINAL, OUTCOMES

QUANTILES = {"p50": 0.5, "p99": 0.99}


def merge_stats(
    answers: list[dict[str, Any] | None], collector: dict[str, Any] | None, router: dict[str, float]
) -> dict[str, Any]:
    """One document for operators and programs: totals, by channel and process. Who did not answer is None."""
    shards = [shard for shard in answers if shard is not None]
    silent = [f"shard {number}" for number, shard in enumerate(answers) if shard is None]
    names = list(dict.fromkeys(name for shard in shards for name in shard["channels"]))
    channels = {
        name: _channel([shard["channels"][name] for shard in shards if name in shard["channels"]]) for name in names
    }
    outcomes: Counter[str] = Counter({OUTCOMES[final]: 0 for final in FINAL})
    for channel in channels.values():
        outcomes.update(channel["outcomes"])
    dead_letters: Counter[str] = Counter()
    for shard in shards:
        dead_letters.update(shard["dead_letters"])
    planned = sum(channel["planned"] for channel in channels.values())
    pending = sum(shard["pending"] for shard in shards)
    versions = {shard["config_version"] for shard in shards}
    return {
        **{key: sum(shard[key] for shard in shards) for key in ("accepted", "duplicates", "rejected")},
        "planned": planned,
        "pending": pending,
        "outcomes": dict(outcomes),
        "attempts": sum(channel["attempts"] for channel in channels.values()),
        "failed_attempts": sum(channel["failed_attempts"] for channel in channels.values()),
        "conserved": planned == outcomes.total() + pending,
        "not_responding": silent if collector is not None else [*silent, "collector"],
        "dead_letters": dict(dead_letters),
        "latency_ms": latency_ms(
            [shard["channels"][name]["latency"] for shard in shards for name in shard["channels"]]
        ),
        "idempotency_window_s": min((shard["idempotency_window_s"] for shard in shards), default=None),
        "config_version": versions.pop() if len(versions) == 1 else None,
        "channels": channels,
        "broadcasts": merge_broadcasts([shard["broadcasts"] for shard in shards]),
        "shards": [_shard(shard) for shard in shards],
        "collector": collector,
        "router": router,
    }


def _shard(shard: dict[str, Any]) -> dict[str, Any]:
    """A shard without what the channels' totals already say."""
    return {
        **{key: value for key, value in shard.items() if key not in ("channels", "broadcasts")},
        **{
            key: sum(channel[key] for channel in shard["channels"].values())
            for key in ("queued", "in_flight", "retrying", "deferred")
        },
    }


def _channel(parts: list[dict[str, Any]]) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    for part in parts:
        outcomes.update(part["outcomes"])
    keys = ("planned", "attempts", "failed_attempts", "queued", "in_flight", "retrying", "deferred")
    return {
        **{key: sum(part[key] for part in parts) for key in keys},
        "outcomes": {OUTCOMES[final]: outcomes[OUTCOMES[final]] for final in FINAL},
        "latency_ms": latency_ms([part["latency"] for part in parts]),
        **_state([part["state"] for part in parts]),
    }


def _state(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether a channel sends: each shard finds out by itself that credentials are refused."""
    paused = [part["paused"] for part in parts if "paused" in part]
    workers = max((part["workers"] for part in parts if "workers" in part), default=None)
    if not all(part["configured"] for part in parts):
        state = "not_configured"
    else:
        running = "running" if workers != 0 else "no_worker"
        state = "paused" if len(paused) == len(parts) else "partly_paused" if paused else running
    return {
        "state": state,
        "paused": paused[0] if paused else None,
        "workers": workers,
        "providers": [
            _provider(shards) for shards in zip(*(part.get("providers", ()) for part in parts), strict=False)
        ],
        "waiting_for_endpoints": sum(part.get("waiting_for_endpoints", 0) for part in parts),
    }


def _provider(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One provider, as each shard has it."""
    messages = [one["message"] for one in shards if "message" in one]
    return {
        "provider": shards[0]["provider"],
        "states": dict(Counter(one["state"] for one in shards)),
        "message": messages[0] if messages else None,
    }


def latency_ms(parts: list[dict[str, Any]]) -> dict[str, float | None]:
    """Quantiles in milliseconds from buckets of 0.1 ms; None where nothing was delivered."""
    buckets: Counter[int] = Counter()
    for part in parts:
        buckets.update({int(step): count for step, count in part["buckets"].items()})
    total = buckets.total()
    answer: dict[str, float | None] = dict.fromkeys(QUANTILES)
    for name, quantile in QUANTILES.items():
        seen = 0
        for step in sorted(buckets):
            seen += buckets[step]
            if seen >= quantile * total:
                answer[name] = round((step + 1) / 10, 1)
                break
    answer["max"] = round(max((part["max_us"] for part in parts), default=0) / 1000, 1) if total else None
    return answer
