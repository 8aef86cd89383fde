"""How fast is the Python API? Beside the raw client of the other benchmarks, in one run.

    python -m bench.library [--events 200000] [--singles 20000] [--threads 100] [--durability process]
                            [--rounds 3] [--json]

The raw client pipelines 32 batches of 500 ready-made notifications over a bare socket. All go to the in-app inbox of
one dispatcher with 2 shards. Each measure begins when nothing is pending, and ends with the last receipt.
``batch_notify`` is given the same notifications, with keys, without, and as dictionaries; the other calls are one
notification each.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import zmq

from bench.report import Figure, medians, options, result, show
from dispatcher import AsyncNotificationService, Notification, NotificationService
from dispatcher.simulation.producer import PIPELINE, Receipt
from shards.wire.encoding import pack
from tests.support.service import RunningDispatcher

BATCH = 500
USERS = 10_000
SETTLED_S = 120.0
_runs = itertools.count()


def made(count: int, *, keys: bool = True) -> list[Notification]:
    run = next(_runs)
    return [
        Notification(
            user_id=f"user-{at % USERS}",
            title="Maintenance is over",
            body="All services are available again. Thank you for your patience.",
            payload={"event": at},
            idempotency_key=f"{run}-{at}" if keys else None,
        )
        for at in range(count)
    ]


def raw(endpoint: str, notifications: list[Notification]) -> int:
    """How many were accepted."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    decode = msgspec.msgpack.Decoder(Receipt).decode
    accepted = under_way = 0
    with context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(endpoint)
        batches = (notifications[at : at + BATCH] for at in range(0, len(notifications), BATCH))
        for number, batch in enumerate(batches):
            if under_way == PIPELINE:
                accepted += decode(socket.recv_multipart()[1]).accepted
                under_way -= 1
            socket.send_multipart([b"", pack({"op": "submit", "seq": number, "notifications": batch})])
            under_way += 1
        for _ in range(under_way):
            accepted += decode(socket.recv_multipart()[1]).accepted
    context.term()
    return accepted


class Measures:
    """Each gives notifications per second, from the first call to the last receipt."""

    def __init__(self, dispatcher: RunningDispatcher, service: NotificationService, threads: int) -> None:
        self._dispatcher = dispatcher
        self._service = service
        self._threads = threads

    def rate(self, count: int, accept: Callable[[list[Any]], int], notifications: list[Any]) -> float:
        self._dispatcher.settled_stats(SETTLED_S)
        started = time.perf_counter()
        accepted = accept(notifications)
        seconds = time.perf_counter() - started
        if accepted != count:
            raise RuntimeError(f"{accepted} of {count} were accepted")
        return count / seconds

    def raw(self, notifications: list[Any]) -> int:
        return raw(self._dispatcher.submit, notifications)

    def batch(self, notifications: list[Any]) -> int:
        return self._service.batch_notify(notifications).accepted

    def submit(self, notifications: list[Any]) -> int:
        futures = [self._service.submit(one) for one in notifications]
        return len({future.result().id for future in futures})

    def one_by_one(self, notifications: list[Any]) -> int:
        return len({self._service.notify(one).id for one in notifications})

    def threads(self, notifications: list[Any]) -> int:
        with ThreadPoolExecutor(self._threads) as threads:
            return len(set(threads.map(lambda one: self._service.notify(one).id, notifications)))

    def asynchronous_batch(self, notifications: list[Any]) -> int:
        return asyncio.run(self._asynchronous_batch(notifications))

    async def _asynchronous_batch(self, notifications: list[Any]) -> int:
        async with AsyncNotificationService(submit=self._dispatcher.submit) as service:
            return (await service.batch_notify(notifications)).accepted

    def gathered(self, notifications: list[Any]) -> int:
        return asyncio.run(self._gathered(notifications))

    async def _gathered(self, notifications: list[Any]) -> int:
        async with AsyncNotificationService(submit=self._dispatcher.submit) as service:
            receipts = await asyncio.gather(*(service.notify(one) for one in notifications))
            return len({receipt.id for receipt in receipts})


def run(rounds: int, events: int, singles: int, threads: int, durability: str) -> dict[str, Any]:
    kept: Any = durability
    with (
        RunningDispatcher(shards=2, durability=kept) as dispatcher,
        NotificationService(submit=dispatcher.submit, timeout=SETTLED_S) as service,
    ):
        measures = Measures(dispatcher, service, threads)
        few = max(1, singles // 10)

        def documents(count: int) -> list[dict[str, Any]]:
            return [msgspec.to_builtins(one) for one in made(count)]

        kinds: list[tuple[str, int, Callable[[list[Any]], int], Callable[[int], list[Any]]]] = [
            ("raw client", events, measures.raw, made),
            ("batch_notify", events, measures.batch, made),
            ("batch_notify, keys made for it", events, measures.batch, lambda count: made(count, keys=False)),
            ("batch_notify of dictionaries", events, measures.batch, documents),
            ("batch_notify in asyncio", events, measures.asynchronous_batch, made),
            ("submit, futures", singles, measures.submit, made),
            ("notify, one by one", few, measures.one_by_one, made),
            (f"notify from {threads} threads", singles, measures.threads, made),
            ("notify gathered in asyncio", singles, measures.gathered, made),
        ]
        measures.batch(made(events // 10))  # everybody is warm
        found = medians(rounds, *(_measure(measures, count, accept, make) for _, count, accept, make in kinds))
    figures = [
        Figure(name, rate, found[0] if at else None, "events/s")
        for at, ((name, *_), rate) in enumerate(zip(kinds, found, strict=True))
    ]
    return result("library", rounds, figures, durability=durability, events=events, singles=singles)


def _measure(
    measures: Measures, count: int, accept: Callable[[list[Any]], int], make: Callable[[int], list[Any]]
) -> Callable[[], float]:
    return lambda: measures.rate(count, accept, make(count))


def main() -> None:
    chosen = options(
        "bench.library", __doc__, rounds=3, events=200_000, singles=20_000, threads=100, durability="process"
    )
    show(run(chosen.rounds, chosen.events, chosen.singles, chosen.threads, chosen.durability), chosen.json)


if __name__ == "__main__":
    main()
