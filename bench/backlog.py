"""What does a great backlog cost, and does a critical notification overtake it?

A channel hangs while notifications of low priority pile up: the shards' memory. Then everything is killed and started
again: how long to ready. Then the channel works again, in 4 ms on average, with all of its concurrency taken by the
backlog: how long a critical notification takes to its delivery on that channel, beside the same with nothing pending.
"""

from __future__ import annotations

import functools
import sys
import time
from time import perf_counter
from typing import Any, Literal

from bench.load import Submitter
from bench.pending import batches, config
from bench.report import Figure, options, quantile, result, show
from tests.support.client import SubmitClient
from tests.support.service import RunningDispatcher, wait_until

LATENCY = "4ms"
STEP = 500_000


def run(
    rounds: int = 1,
    pending: int = 10_000_000,
    criticals: int = 300,
    shards: int = 2,
    durability: Literal["power", "process"] = "process",
) -> dict[str, Any]:
    working = config(latency=LATENCY)
    with RunningDispatcher(working, shards=shards, durability=durability) as dispatcher:
        floor = _overtake(dispatcher.client, criticals, "before")
    with RunningDispatcher(config(), shards=shards, durability=durability) as dispatcher:
        before = _resident(dispatcher.client)
        rate = _pile_up(dispatcher, pending)
        after = _resident(dispatcher.client)
        dispatcher.kill()
        text = dispatcher.config_file.read_text()
        dispatcher.config_file.write_text(text.replace('latency = "1h"', f'latency = "{LATENCY}"'))
        started = perf_counter()
        dispatcher.start(timeout_s=120)
        ready_s = perf_counter() - started
        waits = _overtake(dispatcher.client, criticals, "behind")
        left = int(dispatcher.request("stats")["pending"])
        dispatcher.kill()
    figures = [
        Figure("taken in", rate, None, "notif./s"),
        Figure("memory of all shards", after, before, "MiB"),
        Figure("killed to ready", ready_s, None, "s"),
        *(
            Figure(f"critical to delivered, {name}", quantile(waits, share), quantile(floor, share), "ms")
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        ),
    ]
    return result("backlog", rounds, figures, pending=pending, left=left, shards=shards, durability=durability)


def _pile_up(dispatcher: RunningDispatcher, pending: int) -> float:
    """Notifications per second until all are acknowledged and wait."""
    started = perf_counter()
    with Submitter(dispatcher.submit) as submitter:
        for first in range(0, pending, STEP):
            submitter.submit(batches(first, min(STEP, pending - first)))
            print(f"{min(first + STEP, pending):,} pending", file=sys.stderr)
    elapsed_s = perf_counter() - started
    wait_until(lambda: dispatcher.request("stats")["pending"] == pending, 60.0, "all are pending")
    return pending / elapsed_s


def _resident(client: SubmitClient) -> float:
    return sum(float(shard["rss_mb"]) for shard in client.request("stats")["shards"])


def _overtake(client: SubmitClient, count: int, name: str) -> list[float]:
    """Milliseconds from submit to the commit of the delivery, sorted; one after the other."""
    waits = []
    for number in range(count):
        sent_ms = time.time() * 1000
        answer = client.submit(
            {
                "user_id": f"critical-{number}",
                "category": "security",
                "priority": "critical",
                "title": "Your code is 123456",
                "idempotency_key": f"{name}-{number}",
            }
        )
        delivered_ms = functools.partial(_delivered_ms, client, answer["ids"][0])
        waits.append(wait_until(delivered_ms, 30.0, "delivered") - sent_ms)
    return sorted(waits)


def _delivered_ms(client: SubmitClient, id: str) -> float | None:
    (delivery,) = client.request("status", id=id)["deliveries"]
    return float(delivery["updated_at"]) if delivery["outcome"] == "delivered" else None


def main() -> None:
    chosen = options("bench.backlog", __doc__, 1, pending=10_000_000, criticals=300, shards=2, durability="process")
    show(run(chosen.rounds, chosen.pending, chosen.criticals, chosen.shards, chosen.durability), chosen.json)


if __name__ == "__main__":
    main()
