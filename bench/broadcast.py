"""How fast is a broadcast to every user, and does transactional traffic wait for it?

The floor of its rate is a producer that sends the same to as many users by way of ``recipients``, page by page. The
floor of the latencies is the same traffic with no broadcast beside it.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Literal

from bench.latency import Load, Waits
from bench.report import Figure, options, quantile, result, show
from shards.broadcasts import PAGE_USERS
from shards.journal import SqliteJournal
from shards.preferences import UserDocument
from shards.wire.ids import hash_user
from tests.support.client import SubmitClient
from tests.support.service import RunningDispatcher, wait_until

EACH_S = 600.0
IN_FLIGHT = 8  # requests of the producer that the floor is
CONTENT = {"title": "A title", "body": "And a body of some words.", "channels": ["inapp"], "category": "marketing"}


def store_users(journals: list[Path], count: int, durability: str) -> None:
    """A document for each, by way of the shards' own code: nobody has the journals open."""
    for shard, path in enumerate(journals):
        journal = SqliteJournal(path, shard, len(journals), durability, [])
        journal.begin()
        for number in range(count):
            if hash_user(f"member-{number}") % len(journals) == shard:
                journal.users.put(f"member-{number}", UserDocument(locale="en"))
        journal.commit()
        journal.close()


class Beside(threading.Thread):
    """Transactional traffic as long as something else goes on."""

    def __init__(self, load: Load, rate: int) -> None:
        super().__init__()
        self._load = load
        self._rate = rate
        self.enough = threading.Event()
        self.waits = Waits()

    def run(self) -> None:
        while not self.enough.is_set():
            found = self._load.run(self._rate, 1.0)
            self.waits.receipt += found.receipt
            self.waits.stream += found.stream


def expand(dispatcher: RunningDispatcher) -> tuple[float, dict[str, Any]]:
    """A broadcast to everybody: how long until the last delivery, and what became of it."""
    started = time.perf_counter()
    (id_,) = dispatcher.client.submit({"topic": "*", **CONTENT})["ids"]

    def done() -> dict[str, Any] | None:
        listed = {one["id"]: one for one in dispatcher.request("stats")["broadcasts"]}
        return listed[id_] if listed[id_]["state"] == "done" else None

    whole = wait_until(done, EACH_S, "the end of the broadcast")
    return time.perf_counter() - started, whole


def by_recipients(dispatcher: RunningDispatcher, count: int) -> float:
    """The same to ``count`` users, as a producer does it that has the list of them."""
    lists = [
        [f"member-{number}" for number in range(first, min(first + PAGE_USERS, count))]
        for first in range(0, count, PAGE_USERS)
    ]
    requests = [{"op": "submit", "notifications": [{"recipients": names, **CONTENT}]} for names in lists]
    started = time.perf_counter()
    with SubmitClient(dispatcher.submit, timeout_s=60.0) as client:
        for first in range(0, len(requests), IN_FLIGHT):
            answers = client.pipelined(*requests[first : first + IN_FLIGHT])
            assert all(answer["ok"] for answer in answers), answers
    return time.perf_counter() - started


def memory_mb(dispatcher: RunningDispatcher) -> float:
    return float(sum(shard["rss_mb"] for shard in dispatcher.request("stats")["shards"]))


def run(
    rounds: int = 1,
    users: int = 1_000_000,
    rate: int = 1_000,
    duration_s: float = 10.0,
    shards: int = 2,
    durability: Literal["power", "process"] = "power",
) -> dict[str, Any]:
    alone, beside = Waits(), Waits()
    expanded_s = listed_s = beside_s = 0.0
    listed = min(users, 100_000)
    with RunningDispatcher(shards=shards, durability=durability) as dispatcher:
        dispatcher.stop()
        store_users(sorted(dispatcher.data_dir.rglob("shard-*.db")), users, durability)
        dispatcher.start()
        load = Load(dispatcher.submit, dispatcher.stream)
        try:
            load.subscribed()
            before_mb = memory_mb(dispatcher)
            for _ in range(rounds):
                listed_s += by_recipients(dispatcher, listed)
                expanded_s += expand(dispatcher)[0]
                found = load.run(rate, duration_s)
                alone.receipt += found.receipt
                alone.stream += found.stream
                traffic = Beside(load, rate)
                traffic.start()
                took_s, whole = expand(dispatcher)
                beside_s += took_s
                traffic.enough.set()
                traffic.join()
                assert whole["planned"] == users, whole
                beside.receipt += traffic.waits.receipt
                beside.stream += traffic.waits.stream
            after_mb = memory_mb(dispatcher)
        finally:
            load.close()
    figures = [
        Figure("a broadcast's deliveries", rounds * users / expanded_s, rounds * listed / listed_s, "deliveries/s"),
        Figure("memory of the shards", after_mb, before_mb, "MB"),
    ]
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        for what, there, here in (("receipt", beside.receipt, alone.receipt), ("in-app", beside.stream, alone.stream)):
            figures.append(
                Figure(
                    f"submit to {what} beside one, {name}",
                    quantile(sorted(there), share),
                    quantile(sorted(here), share),
                    "ms",
                )
            )
    return result(
        "broadcast", rounds, figures, users=users, rate=rate, shards=shards, durability=durability,
        alone_s=expanded_s / rounds, beside_traffic_s=beside_s / rounds,
    )  # fmt: skip


def main() -> None:
    chosen = options(
        "bench.broadcast", __doc__, 1, users=1_000_000, rate=1_000, duration_s=10.0, shards=2, durability="power"
    )
    found = run(chosen.rounds, chosen.users, chosen.rate, chosen.duration_s, chosen.shards, chosen.durability)
    show(found, chosen.json)


if __name__ == "__main__":
    main()
