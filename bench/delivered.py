"""How long a service takes from the first submit of many notifications to the last outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter

from bench.load import Submitter
from shards.wire.notification import Notification
from tests.support.service import RunningDispatcher

BATCH = 500
POLL_S = 0.02
DONE_S = 120.0


def rate(dispatcher: RunningDispatcher, total: int, count: int, notification: Callable[[int], Notification]) -> float:
    """Deliveries per second of ``count`` notifications, each with one; ``total`` are delivered at the end."""
    started = perf_counter()
    first = total - count
    with Submitter(dispatcher.submit) as submitter:
        submitter.submit(
            [notification(number) for number in range(start, min(start + BATCH, total))]
            for start in range(first, total, BATCH)
        )
    pause = threading.Event()
    while (done := dispatcher.request("stats")["outcomes"])["delivered"] < total:
        if perf_counter() - started > DONE_S:
            raise TimeoutError(f"not delivered within {DONE_S:g} s: {done}")
        pause.wait(POLL_S)
    return count / (perf_counter() - started)
