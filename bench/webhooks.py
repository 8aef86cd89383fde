"""How many webhooks per second, from submit to the last outcome? Beside the bare client, to the same receiver.

Two shards, the receiver and the producer share the machine; one endpoint gets all. The floor is one process that only
sends, as fast as it can.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Literal

from bench import delivered
from bench.http_clients import CONNECTIONS, ours, rate
from bench.receiver import receiver
from bench.report import Figure, medians, options, result, show
from shards.wire.notification import Notification
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
            lambda: delivered.rate(dispatcher, next(sent), webhooks, _notification),
            lambda: asyncio.run(rate(ours, url, webhooks)),
        )
    figure = Figure(f"webhooks, {shards} shards, {durability}", product, floor, "events/s")
    return result("webhooks", rounds, [figure], webhooks=webhooks, users=USERS)


def _notification(number: int) -> Notification:
    return Notification(
        user_id=f"user-{number * 7_919 % USERS}",
        category="transaction",
        title="Order shipped",
        body="It is on its way, and will be with you tomorrow.",
        payload={"order": number, "carrier": "Post"},
        channels=["webhook"],
        idempotency_key=str(number),
    )


def main() -> None:
    chosen = options("bench.webhooks", __doc__, 3, webhooks=20_000, shards=2, durability="power")
    show(run(chosen.rounds, chosen.webhooks, chosen.shards, chosen.durability), chosen.json)


if __name__ == "__main__":
    main()
