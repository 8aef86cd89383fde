"""The shards' numbers, added up."""

from __future__ import annotations

from typing import Any

from dispatcher.router.totals import latency_ms, merge_stats
from shards.ledger import FINAL, OUTCOMES


def shard(planned: int, delivered: int, pending: int) -> dict[str, Any]:
    outcomes = {OUTCOMES[final]: 0 for final in FINAL} | {"delivered": delivered}
    channel = {
        "planned": planned, "attempts": delivered, "failed_attempts": 0, "outcomes": outcomes, "queued": 1,
        "in_flight": 2, "retrying": 3, "deferred": 4, "latency": {"buckets": {5: delivered}, "max_us": 777},
        "state": {"configured": True},
    }  # fmt: skip
    return {
        "accepted": planned, "duplicates": 1, "rejected": 2, "pending": pending, "dead_letters": {"permanent": 4},
        "channels": {"email": channel}, "idempotency_window_s": float(planned), "broadcasts": [], "config_version": 1,
    }  # fmt: skip


def test_shards_add_up() -> None:
    merged = merge_stats([shard(10, 7, 3), shard(5, 5, 0)], {"c": 1}, {"r": 2.0})
    assert (merged["planned"], merged["pending"], merged["outcomes"]["delivered"]) == (15, 3, 12)
    assert merged["conserved"]
    assert (merged["dead_letters"], merged["duplicates"]) == ({"permanent": 8}, 2)
    assert merged["idempotency_window_s"] == 5.0
    assert merged["channels"]["email"]["planned"] == 15
    assert [one["queued"] for one in merged["shards"]] == [1, 1]


def test_what_does_not_answer_is_named_and_not_counted() -> None:
    merged = merge_stats([None, shard(5, 4, 1)], None, {})
    assert merged["not_responding"] == ["shard 0", "collector"]
    assert (merged["planned"], merged["pending"], merged["collector"]) == (5, 1, None)
    assert merged["conserved"]
    assert merge_stats([None], {}, {})["shards"] == []


def test_a_lost_delivery_shows() -> None:
    assert not merge_stats([shard(10, 7, 2)], {}, {})["conserved"]


def state(*parts: dict[str, Any]) -> Any:
    shards: list[dict[str, Any] | None] = []
    for part in parts:
        one = shard(1, 1, 0)
        one["channels"]["email"]["state"] = {"configured": True} | part
        shards.append(one)
    return merge_stats(shards, {}, {})["channels"]["email"]


def test_a_channel_is_paused_where_all_shards_have_paused_it() -> None:
    pause = {"reason": "misconfigured", "since_ms": 5, "message": "no"}
    assert (state({}, {})["state"], state({}, {})["paused"]) == ("running", None)
    assert state({"paused": pause}, {"paused": pause})["state"] == "paused"
    partly = state({}, {"paused": pause})
    assert (partly["state"], partly["paused"]) == ("partly_paused", pause)
    assert state({"configured": False})["state"] == "not_configured"


def test_providers_of_one_name_are_told_apart_and_none_is_asked_twice() -> None:
    first, second = {"provider": "smtp", "state": "closed"}, {"provider": "smtp", "state": "open"}
    refused = {"provider": "smtp", "state": "refused", "message": "535"}
    merged = state({"providers": [first, first]}, {"providers": [refused, second]})
    assert merged["providers"] == [
        {"provider": "smtp", "states": {"closed": 1, "refused": 1}, "message": "535"},
        {"provider": "smtp", "states": {"closed": 1, "open": 1}, "message": None},
    ]


def test_quantiles_over_the_shards_buckets() -> None:
    parts = [{"buckets": {0: 98}, "max_us": 100}, {"buckets": {"99": 1, "999": 1}, "max_us": 100_000}]
    assert latency_ms(parts) == {"p50": 0.1, "p99": 10.0, "max": 100.0}


def test_nothing_delivered_has_no_latency() -> None:
    assert latency_ms([{"buckets": {}, "max_us": 0}]) == {"p50": None, "p99": None, "max": None}
