"""What do notifications cost that are scheduled for later, and what happens when all of them are due at once?

The floor of the rates is the same notifications sent at once; that of the memory, of the time to ready and of the
latencies the same service with nothing scheduled.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from bench.broadcast import Beside, memory_mb
from bench.latency import Load
from bench.load import Submitter
from bench.report import Figure, options, quantile, result, show
from shards.wire.notification import Notification
from tests.support.service import RunningDispatcher, wait_until

EACH_S = 600.0
BATCH = 500
USERS = 10_000


def batches(prefix: str, count: int, send_at_ms: int | None = None) -> Iterator[list[Notification]]:
    for first in range(0, count, BATCH):
        yield [
            Notification(
                user_id=f"someone-{number % USERS}",
                title="A title",
                body="And a body of some words.",
                channels=["inapp"],
                priority="low",
                idempotency_key=f"{prefix}-{number}",
                send_at=send_at_ms,
            )
            for number in range(first, min(first + BATCH, count))
        ]


def submit(dispatcher: RunningDispatcher, found: Iterator[list[Notification]]) -> float:
    """How long until all are on disk."""
    started = time.perf_counter()
    with Submitter(dispatcher.submit) as submitter:
        submitter.submit(found)
    return time.perf_counter() - started


def deferred(dispatcher: RunningDispatcher) -> int:
    return int(dispatcher.request("stats")["channels"]["inapp"]["deferred"])


def restart(dispatcher: RunningDispatcher) -> float:
    """How long from the start after a kill until it is ready."""
    dispatcher.kill()
    started = time.perf_counter()
    dispatcher.start(EACH_S)
    return time.perf_counter() - started


def run(
    rounds: int = 1,
    items: int = 1_000_000,
    lead_s: float = 120.0,
    rate: int = 1_000,
    duration_s: float = 10.0,
    shards: int = 2,
    durability: Literal["power", "process"] = "power",
) -> dict[str, Any]:
    """``lead_s``: how long before they are due the first are submitted; it must be enough for all, and a restart."""
    found = [_round(number, items, lead_s, rate, duration_s, shards, durability) for number in range(rounds)]
    figures = [
        Figure(name, sum(one[name][0] for one in found) / rounds, sum(one[name][1] for one in found) / rounds, unit)
        for name, (_, _, unit) in found[0].items()
    ]
    return result("scheduled", rounds, figures, items=items, rate=rate, shards=shards, durability=durability)


def _round(
    number: int, items: int, lead_s: float, rate: int, duration_s: float, shards: int, durability: Any
) -> dict[str, tuple[float, float, str]]:
    """By name: the figure, its floor, the unit."""
    with RunningDispatcher(shards=shards, durability=durability) as dispatcher:
        started = time.perf_counter()
        at_once_s = submit(dispatcher, batches("now", items))
        dispatcher.settled_stats(EACH_S)
        delivered_s = time.perf_counter() - started
        empty_s = restart(dispatcher)
        load = Load(dispatcher.submit, dispatcher.stream)
        try:
            load.subscribed()
            alone = load.run(rate, duration_s)
            before_mb = memory_mb(dispatcher)
            due_ms = time.time_ns() // 1_000_000 + int(lead_s * 1_000)
            later_s = submit(dispatcher, batches(f"later-{number}", items, due_ms))
            after_mb = memory_mb(dispatcher)
        finally:
            load.close()
        full_s = restart(dispatcher)
        if (left_s := due_ms / 1_000 - time.time()) < 0:
            raise SystemExit(f"they were due {-left_s:.0f} s too early: give a longer --lead-s")
        assert deferred(dispatcher) == items
        load = Load(dispatcher.submit, dispatcher.stream, first=10**9)  # keys of its own
        try:
            load.subscribed()
            wait_until(lambda: time.time() * 1_000 >= due_ms, lead_s, "the time that all are due")
            traffic = Beside(load, rate)
            traffic.start()
            try:
                wait_until(lambda: deferred(dispatcher) == 0, EACH_S, "that all are released")
                released_s = time.time() - due_ms / 1_000
            finally:
                traffic.enough.set()
                traffic.join()
        finally:
            load.close()
    figures = {
        "accepted, scheduled": (items / later_s, items / at_once_s, "events/s"),
        "memory of the shards with them": (after_mb, before_mb, "MB"),
        "killed to ready with them": (full_s, empty_s, "s"),
        "released, all due at once": (items / released_s, items / delivered_s, "events/s"),
    }
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        for what, there, here in (
            ("receipt", traffic.waits.receipt, alone.receipt),
            ("in-app", traffic.waits.stream, alone.stream),
        ):
            pair = quantile(sorted(there), share), quantile(sorted(here), share)
            figures[f"submit to {what} meanwhile, {name}"] = (*pair, "ms")
    return figures


def main() -> None:
    chosen = options(
        "bench.scheduled", __doc__, 1,
        items=1_000_000, lead_s=120.0, rate=1_000, duration_s=10.0, shards=2, durability="power",
    )  # fmt: skip
    found = run(
        chosen.rounds, chosen.items, chosen.lead_s, chosen.rate, chosen.duration_s, chosen.shards, chosen.durability
    )
    show(found, chosen.json)


if __name__ == "__main__":
    main()
