"""How channels and processes are, in a word; the worst words come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# in the order in which an operator should look at them
CHANNEL_STATES = ("paused", "partly", "failing", "no worker", "degraded", "off", "running")
ALARMING = frozenset(CHANNEL_STATES[:3])
PROCESS_STATES = ("silent", "damaged", "restarted", "ok")
STORED = {"partly_paused": "partly", "no_worker": "no worker", "not_configured": "off"}
NEW_S = 60.0


def channel_state(one: dict[str, Any], delivered: float | None, failed: float | None) -> str:
    """Of a channel in the answer to ``stats``; the rates are its deliveries and failed attempts per second.

    It is failing while no provider is asked as usual, or while more attempts fail than succeed; degraded while some
    of several providers are not asked.
    """
    if one["state"] != "running":
        return STORED.get(one["state"], str(one["state"]))
    usual = [set(provider["states"]) == {"closed"} for provider in one["providers"]]
    if (usual and not any(usual)) or (failed or 0) > (delivered or 0):
        return "failing"
    return "running" if all(usual) else "degraded"


def shard_state(shard: dict[str, Any], longest_s: float) -> str:
    """``longest_s`` is how long the oldest shard is up: a much younger one was started anew."""
    if shard["quarantined"]:
        return "damaged"
    is_new = shard["uptime_s"] < NEW_S < longest_s - shard["uptime_s"]
    return "restarted" if is_new else "ok"


def place(states: Sequence[str], state: str) -> int:
    """Where a state comes; one that only a newer dispatcher has comes first."""
    return states.index(state) if state in states else -1
