"""What all shards say of a broadcast, as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from shards.wire.errors import Error

# of shards that differ, the first of these is the state of the whole
STATES = ("expanding", "scheduled", "failed", "cancelled", "expired", "done")
SUMMED = ("users_done", "users", "planned")


def merge(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The shards' parts of one broadcast."""
    started = [part["started_at"] for part in parts if part["started_at"] is not None]
    finished = [part["finished_at"] for part in parts]
    whole = {
        **parts[0],
        "state": min((part["state"] for part in parts), key=STATES.index),
        **{key: sum(part[key] for part in parts) for key in SUMMED},
        "created_at": min(part["created_at"] for part in parts),
        "started_at": min(started, default=None),
        "finished_at": None if None in finished else max(finished),
        "error": next((part["error"] for part in parts if part["error"]), None),
    }
    whole["users"] = max(whole["users"], whole["users_done"])  # those who came meanwhile were not counted
    if "outcomes" in whole:
        whole["outcomes"] = dict(sum((Counter(part["outcomes"]) for part in parts), Counter()))
    return whole


def merge_broadcasts(answers: Iterable[Iterable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """For ``stats``: what each shard lists, the last one first."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for answer in answers:
        for part in answer:
            parts.setdefault(part["id"], []).append(part)
    return sorted(map(merge, parts.values()), key=lambda whole: whole["created_at"], reverse=True)


def merge_status(parts: Sequence[dict[str, Any]]) -> dict[str, Any] | Error:
    if not parts:
        return Error("not_found", "no such broadcast; it may be older than retention", "id")
    whole = merge(parts)
    return {"id": whole["id"], "deliveries": [], "broadcast": whole}


def merge_cancelled(answers: Sequence[dict[str, Any]]) -> dict[str, Any] | Error:
    """``was_open`` is None where a shard does not know it."""
    if all(answer["was_open"] is None for answer in answers):
        return Error("not_found", "no such broadcast; it may be older than retention", "id")
    if not any(answer["was_open"] for answer in answers):
        return Error("already_final", "all of it has ended; nothing is left to cancel", "id")
    return {"cancelled": sum(answer["cancelled"] for answer in answers)}
