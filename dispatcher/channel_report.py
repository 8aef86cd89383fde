"""What the command line shows to people of the channels, and of a message that was tried on one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from dispatcher.terminal import fields, plain, relative, second, shown, table

if TYPE_CHECKING:
    from dispatcher.trial import Result


def used(stats: dict[str, Any]) -> dict[str, Any]:
    """Of the answer to ``stats``, the channels that are configured, or once were."""
    channels = {
        name: one for name, one in stats["channels"].items() if one["state"] != "not_configured" or one["planned"]
    }
    return {"channels": channels, "not_responding": stats["not_responding"]}


def listed(answer: dict[str, Any]) -> str:
    """A line for each channel, and below what an operator should look at."""
    rows = [
        (
            name,
            one["state"].replace("_", " "),
            ", ".join(map(_provider, one["providers"])),
            one["queued"],
            one["in_flight"],
            one["retrying"],
            one["deferred"],
            one["waiting_for_endpoints"] or None,
            one["outcomes"]["delivered"],
            one["outcomes"]["dead"],
        )
        for name, one in answer["channels"].items()
    ]
    headers = (
        "channel", "state", "providers", "queued", "in flight", "retrying", "deferred", "for endpoints", "delivered",
        "dead",
    )  # fmt: skip
    told = [table(headers, rows, flexible=("channel", "providers"))]
    silent = answer["not_responding"]
    problems = [f"NOT RESPONDING, and not counted here: {', '.join(silent)}"] if silent else []
    if problems := [*problems, *alerts(answer)]:
        told.append("\n".join(map(plain, problems)))
    return "\n\n".join(told)


def alerts(answer: dict[str, Any]) -> Iterator[str]:
    """A line for each channel or provider that sends nothing, with the remedy."""
    for name, one in answer["channels"].items():
        if one["state"] == "no_worker" and one["queued"]:
            yield f"NO WORKER {name}: what is for it waits; start a program that attaches to it"
        if pause := one["paused"]:
            yield _pause(name, one["state"], pause)
        for number, provider in enumerate(one["providers"], 1):
            message = provider["message"]
            if message and not (pause and pause["message"] == message):
                yield (
                    f"REFUSED {name}: provider {number} ({provider['provider']}) is not asked any more: {message}; "
                    f"{_remedy(name)}"
                )


def _pause(name: str, state: str, pause: dict[str, Any]) -> str:
    where = " in some shards" if state == "partly_paused" else ""
    since = f"since {second(pause['since_ms'])} ({relative(pause['since_ms'], int(time.time() * 1000))})"
    if pause["reason"] == "operator":
        return f"PAUSED {name}{where} by an operator {since}; to go on: dispatcher channel resume {name}"
    return f"PAUSED {name}{where} {since}, {pause['reason']}: {pause['message']}; {_remedy(name)}"


def _remedy(name: str) -> str:
    return f"correct that, then: dispatcher config reload, or dispatcher channel resume {name}"


def _provider(provider: dict[str, Any]) -> str:
    """Its name, with what is unusual of it."""
    states = provider["states"]
    count = sum(states.values())
    unusual = ", ".join(
        state.replace("_", " ") + ("" if of == count else f" in {of} of {count} shards")
        for state, of in states.items()
        if state != "closed"
    )
    return f"{provider['provider']} ({unusual})" if unusual else str(provider["provider"])


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(result)
    return found


def ended(channel: str, result: Result, took_s: float) -> str:
    """What became of a message that was tried."""
    mark = shown("✓", "+") if result.outcome == "delivered" else shown("✗", "x")
    by = f"by {result.provider}, {took_s:.2f} s"
    if result.outcome == "delivered":
        return f"{mark} delivered {by}{f': {plain(result.message)}' if result.message else ''}"
    return f"{mark} failed {by}\n" + fields(
        [
            ("error class", result.error_class),
            ("message", result.message),
            ("a real delivery", result.meaning),
            ("what to do", result.remedy),
        ]
    )
