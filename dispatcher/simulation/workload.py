"""The seeded workload of ``simulate`` and of the benchmarks: users with preferences, and events for them.

Equal seeds give equal events, byte for byte, whatever the number of processes that produce them: an event
belongs to one of ``producers`` logical producers, each with a generator of its own.
"""

from __future__ import annotations

import functools
import random
import sys
from array import array
from collections.abc import Iterator
from typing import Any

from shards.wire.notification import Notification

BATCH = 500
CHANNELS = ("email", "sms", "push", "inapp")
CATEGORIES = ("transaction", "marketing", "security", "system")
RECENT = 1_000  # a duplicate repeats one of the producer's last events, as a retrying producer does

TITLES = {
    "transaction": "Your order has shipped",
    "marketing": "New this week",
    "security": "A new device signed in",
    "system": "Maintenance is over",
}
BODIES = {
    "transaction": "Order 48151 left the warehouse and will be with you on Thursday.",
    "marketing": "Twelve things that others found useful, chosen from what you read.",
    "security": "Someone signed in from a device that we have not seen before.",
    "system": "All services are available again. Thank you for your patience.",
}


def user_id(number: int) -> str:
    return f"user-{number}"


@functools.cache
def user_ids(users: int) -> list[str]:
    """All ids, made once for all producers."""
    return [user_id(number) for number in range(users)]


def user_document(seed: int, number: int) -> dict[str, Any]:
    """The stored document of a user: 2-4 channels drawn with replacement are enabled, the others are off."""
    generator = random.Random(f"{seed}:user:{number}")
    enabled = set(generator.choices(CHANNELS, k=generator.randint(2, 4)))
    return {"preferences": {"channels": {channel: False for channel in CHANNELS if channel not in enabled}}}


def producer_share(events: int, producers: int, producer: int) -> int:
    """How many of the events this logical producer submits."""
    return events // producers + (producer < events % producers)


def batches(
    seed: int, producer: int, events: int, users: int, duplicate_rate: float, size: int = BATCH
) -> Iterator[list[Notification]]:
    """The producer's events in order, in lists of at most ``size``; repeated events keep their key."""
    generator = random.Random(f"{seed}:producer:{producer}")
    names = user_ids(users)
    numbers, draws = array("I"), array("I")  # of the last events: from these, an event can be made again
    for start in range(0, events, size):
        count = min(size, events - start)
        drawn = array("I", generator.randbytes(4 * count))
        if sys.byteorder == "big":
            drawn.byteswap()
        numbers = numbers[-RECENT:] + array("I", range(start, start + count))
        draws = draws[-RECENT:] + drawn
        earlier = len(numbers) - count
        if duplicate_rate:
            for at in range(earlier, len(numbers)):
                if generator.random() < duplicate_rate and at:
                    original = generator.randrange(max(0, at - RECENT), at)
                    numbers[at], draws[at] = numbers[original], draws[original]
        batch = []
        for number, draw in zip(numbers[earlier:], draws[earlier:], strict=True):
            category = CATEGORIES[draw & 3]
            batch.append(
                Notification(
                    user_id=names[(draw >> 2) % users],
                    category=category,
                    title=TITLES[category],
                    body=BODIES[category],
                    payload={"event": number},
                    idempotency_key=f"{producer}-{number}",
                )
            )
        yield batch
