"""A service in which nothing ever ends, for the benchmarks of what waits."""

from __future__ import annotations

from collections.abc import Iterator

from dispatcher.simulation.workload import BATCH, user_id
from shards.wire.notification import Notification

USERS = 10_000

CONFIG = """
[dispatcher]
receipt_timeout = "60s"
[categories.security]
channels = ["sms"]
[idempotency]
max_entries = {idempotency_entries}
[channels.sms]
provider = "simulated"
latency = "{latency}"
[bounds]
lane_items = {lane_items}
"""


def config(lane_items: int = 10_000, idempotency_entries: int = 10_000_000, latency: str = "1h") -> str:
    return CONFIG.format(lane_items=lane_items, idempotency_entries=idempotency_entries, latency=latency)


def batches(first: int, count: int) -> Iterator[list[Notification]]:
    """Notifications of one delivery each."""
    for start in range(first, first + count, BATCH):
        yield [
            Notification(
                user_id=user_id(number * 7_919 % USERS),
                category="security",
                priority="low",
                title="A new device signed in",
                body="Someone signed in from a device that we have not seen before.",
                idempotency_key=str(number),
            )
            for number in range(start, min(start + BATCH, first + count))
        ]
