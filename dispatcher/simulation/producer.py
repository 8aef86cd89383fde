"""A process that submits a share of the simulation's events and gathers the receipts.

It stands for many logical producers, which take turns; up to ``PIPELINE`` batches wait for their receipt at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec
import zmq

from dispatcher.simulation import workload
from shards.process import begin_child, settle_memory, usage
from shards.wire.encoding import pack
from shards.wire.notification import Notification

PIPELINE = 32
TIMEOUT_S = 10.0


class ProducerSettings(msgspec.Struct, frozen=True):
    """``numbers`` are the logical producers of this process; users divisible by ``sample`` are timed."""

    submit: str
    seed: int
    events: int
    users: int
    producers: int
    numbers: list[int]
    duplicate_rate: float
    sample: int
    batch: int = workload.BATCH


class Totals(msgspec.Struct):
    """What came of it; ``submitted_us`` has the sampled keys, times are microseconds since the epoch."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    overloaded: int = 0
    resubmitted: int = 0
    first_us: int = 0
    last_us: int = 0
    cpu_s: float = 0.0
    rss_mb: float = 0.0
    submitted_us: dict[str, int] = {}


class Receipt(msgspec.Struct):
    ok: bool
    seq: int
    accepted: int = 0
    duplicates: int = 0
    rejected: list[msgspec.Raw] = []


def turns(settings: ProducerSettings) -> Iterator[list[Notification]]:
    """Batches of all logical producers, one of each in turn."""
    sources = [
        workload.batches(
            settings.seed,
            number,
            workload.producer_share(settings.events, settings.producers, number),
            settings.users,
            settings.duplicate_rate,
            settings.batch,
        )
        for number in settings.numbers
    ]
    while sources:
        remaining = []
        for source in sources:
            batch = next(source, None)
            if batch is not None:
                yield batch
                remaining.append(source)
        sources = remaining


def produce(settings: ProducerSettings) -> Totals:
    """Submit everything; a batch that is refused or unanswered is sent again with the same keys."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.set(zmq.LINGER, 0)
    socket.connect(settings.submit)
    sampled = {workload.user_id(number) for number in range(0, settings.users, settings.sample)}
    settle_memory()
    before = usage()["cpu_s"]
    decode = msgspec.msgpack.Decoder(Receipt).decode
    totals = Totals()
    waiting: dict[int, tuple[float, bytes]] = {}
    source = turns(settings)
    exhausted = False
    number = 0
    while not exhausted or waiting:
        while not exhausted and len(waiting) < PIPELINE:
            batch = next(source, None)
            if batch is None:
                exhausted = True
                break
            number += 1
            message = pack({"op": "submit", "seq": number, "notifications": batch})
            now_us = time.time_ns() // 1000
            totals.first_us = totals.first_us or now_us
            for notification in batch:
                if notification.user_id in sampled:
                    totals.submitted_us.setdefault(notification.idempotency_key or "", now_us)
            waiting[number] = (time.monotonic(), message)
            socket.send_multipart([b"", message])
        if not socket.poll(1_000):
            for seq, (sent, message) in waiting.items():
                if time.monotonic() - sent > TIMEOUT_S:
                    totals.resubmitted += 1
                    waiting[seq] = (time.monotonic(), message)
                    socket.send_multipart([b"", message])
            continue
        receipt = decode(socket.recv_multipart()[1])
        if receipt.seq not in waiting:
            continue
        if not receipt.ok:
            totals.overloaded += 1
            time.sleep(0.02)
            socket.send_multipart([b"", waiting[receipt.seq][1]])
            continue
        del waiting[receipt.seq]
        totals.accepted += receipt.accepted
        totals.duplicates += receipt.duplicates
        totals.rejected += len(receipt.rejected)
    totals.last_us = time.time_ns() // 1000
    spent = usage()
    totals.cpu_s, totals.rss_mb = round(spent["cpu_s"] - before, 3), spent["rss_mb"]
    context.destroy(linger=0)
    return totals


def main() -> None:
    answer = os.fdopen(os.dup(1), "wb")  # a child's is the log from here on
    _, line = begin_child("a producer")
    totals = produce(msgspec.json.decode(line, type=ProducerSettings))
    with answer:
        answer.write(msgspec.json.encode(totals) + b"\n")


if __name__ == "__main__":
    main()
