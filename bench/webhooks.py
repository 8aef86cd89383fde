"""How many webhooks per second, from submit to the last outcome? Beside the bare client, to the same receiver.

Two shards, the receiver and the producer share the machine; one endpoint gets all. The floor is one process that only
sends, as fast as it can.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from time import perf_counter
from typing import Any, Literal

from bench.http_clients import CONNECTIONS, ours, rate
from bench.load import Submitter
from bench.receiver import receiver
from bench.report import Figure, medians, options, result, show
from shards.wire import Notification
from tests.support.service import RunningDispatcher

CONFIG = f"""
[channels.webhook]
provider = "webhook"
concurrency = {CONNECTIONS}
per_endpoint = {CONNECTIONS}
allow_private = ["127.0.0.0/8"]
ports = []
"""
USERS = 1_000
BATCH = 500
POLL_S = 0.02
DONE_S = 120.0


def run(
    rounds: int = 3, webhooks: int = 20_000, shards: int = 2, durability: Literal["power", "process"] = "power"
) -> dict[str, Any]:
    with receiver() as (url, _), RunningDispatcher(CONFIG, shards=shards, durability=durability) as dispatcher:
        for number in range(USERS):
            secret = "whsec_" + base64.b64encode(number.to_bytes(32, "big")).decode()
            user = {"contacts": {"webhook": {"url": url, "secret": secret}}}
            dispatcher.request("user.put", user_id=f"user-{number}", user=user)
        sent = iter(range(webhooks, (rounds + 1) * webhooks + 1, webhooks))
        product, floor = medians(
            rounds,
            lambda: _through(dispatcher, next(sent), webhooks),
            lambda: asyncio.run(rate(ours, url, webhooks)),
        )
    figure = Figure(f"webhooks, {shards} shards, {durability}", product, floor, "events/s")
    return result("webhooks", rounds, [figure], webhooks=webhooks, users=USERS)


def _through(dispatcher: RunningDispatcher, total: int, count: int) -> float:
    """Webhooks per second; ``total`` are delivered at the end."""
    started = perf_counter()
    with Submitter(dispatcher.submit) as submitter:
        submitter.submit(_batches(total - count, count))
    pause = threading.Event()
    while (done := dispatcher.request("stats")["outcomes"])["delivered"] < total:
        if perf_counter() - started > DONE_S:
            raise TimeoutError(f"not delivered within {DONE_S:g} s: {done}")
        pause.wait(POLL_S)
    return count / (perf_counter() - started)


def _batches(first: int, count: int) -> Iterator[list[Notification]]:
    for start in range(first, first + count, BATCH):
        yield [
            Notification(
                user_id=f"user-{number * 7_919 % USERS}",
                category="transaction",
                title="Order shipped",
                body="It is on its way, and will be with you tomorrow.",
                payload={"order": number, "carrier": "Post"},
                channels=["webhook"],
                idempotency_key=str(number),
            )
            for number in range(start, min(start + BATCH, first + count))
        ]


def main() -> None:
    chosen = options("bench.webhooks", __doc__, 3, webhooks=20_000, shards=2, durability="power")
    show(run(chosen.rounds, chosen.webhooks, chosen.shards, chosen.durability), chosen.json)


if __name__ == "__main__":
    main()
