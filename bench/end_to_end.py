"""How many notifications per second, from submit to the last outcome? Beside the bare prototype, in the same minutes.

    python -m bench.end_to_end [--shards 1,2,4,8] [--durability power,process] [--batch 500,100,1]
                               [--events 1000000] [--users 10000] [--rounds 1] [--ingest 200000] [--json]

The product's runs are those of ``simulate``, producers and receipts included; each alternates with a run of
``bench.prototype`` of the same shards, batch and durability. Batches of one take a tenth of the events. ``--ingest``
is for single notifications on the ingest socket (0 leaves them out).
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import threading
import time
from typing import Any, Literal

import zmq

from bench import prototype
from bench.report import Figure, end_in_order, medians, result, show
from dispatcher.simulation.plan import Plan
from dispatcher.simulation.simulate import simulate
from dispatcher.simulation.workload import batches
from shards.wire.encoding import pack
from tests.support.service import ROOT, RunningDispatcher

SINGLES_SHARE = 10
POLL_S = 0.02
CHANNELS = "".join(
    f'[channels.{name}]\nprovider = "simulated"\nconcurrency = 20000\n' for name in ("email", "sms", "push")
)


def run(
    rounds: int = 1,
    events: int = 1_000_000,
    users: int = 10_000,
    shards: tuple[int, ...] = (1, 2, 4, 8),
    durabilities: tuple[str, ...] = ("power", "process"),
    sizes: tuple[int, ...] = (500, 100, 1),
    ingest: int = 200_000,
) -> dict[str, Any]:
    figures, rows = [], []
    for durability, batch, count in itertools.product(durabilities, sizes, shards):
        number = events if batch > 1 else max(1, events // SINGLES_SHARE)
        product, floor = _side_by_side(rounds, Plan(number, users, shards=count, durability=durability, batch=batch))
        figure = Figure(f"{count} shards, batches of {batch}, {durability}", product, floor, "events/s")
        figures.append(figure)
        rows.append(
            {
                "shards": count,
                "batch": batch,
                "durability": durability,
                "product": product,
                "floor": floor,
                "ratio": figure.ratio,
            }
        )
    if ingest:
        figures += [_ingest_figure(rounds, ingest, users, durability) for durability in durabilities]
    return result("end_to_end", rounds, figures, rows=rows, events=events)


def _side_by_side(rounds: int, plan: Plan) -> list[float]:
    """Events per second of the product and of the prototype."""

    def product() -> float:
        summary = simulate(plan)
        if not summary["conserved"]:
            raise RuntimeError(f"not conserved: {summary}")
        return float(summary["events_per_s"])

    def floor() -> float:
        return _floor(plan)

    return medians(rounds, product, floor)


def _floor(plan: Plan) -> float:
    found = prototype.run(plan.events, plan.users, plan.shards, plan.batch, plan.durability, plan.seed)
    return float(found["events_per_s"])


def _ingest_figure(rounds: int, events: int, users: int, durability: str) -> Figure:
    kept: Literal["power", "process"] = "power" if durability == "power" else "process"
    plan = Plan(events, users, shards=2, durability=durability, batch=1)
    product, floor = medians(rounds, lambda: _ingest(events, kept), lambda: _floor(plan))
    return Figure(f"one per message on ingest, 2 shards, {durability}", product, floor, "events/s")


def _ingest(events: int, durability: Literal["power", "process"]) -> float:
    """Single notifications per second, from the first one pushed until all are accepted."""
    with RunningDispatcher(CHANNELS, shards=2, durability=durability) as dispatcher:
        producer = subprocess.Popen(
            [sys.executable, "-m", "bench.end_to_end", "--push", dispatcher.ingest, "--events", str(events)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert producer.stdout is not None
        assert producer.stdin is not None
        producer.stdout.readline()  # everything is encoded
        started = time.perf_counter()
        producer.stdin.write(b"go\n")
        producer.stdin.flush()
        pause = threading.Event()
        while dispatcher.request("stats")["accepted"] < events:
            if producer.poll():
                raise RuntimeError("the producer failed; its message is above")
            pause.wait(POLL_S)
        seconds = time.perf_counter() - started
        producer.stdin.close()
        producer.stdout.close()
        producer.wait()
        dispatcher.settled_stats(60.0)
    return events / seconds


def push(endpoint: str, events: int) -> None:
    """The producer's process: encodes, says so, and pushes when told to."""
    messages = [pack(one) for batch in batches(1, 0, events, 10_000, 0.0) for one in batch]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.set(zmq.LINGER, 60_000)
    socket.connect(endpoint)
    print("ready", flush=True)
    sys.stdin.readline()
    send = socket.send
    for message in messages:
        send(message)
    socket.close()
    context.term()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.end_to_end", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--shards", type=_numbers, default=(1, 2, 4, 8))
    parser.add_argument("--durability", default="power,process")
    parser.add_argument("--batch", type=_numbers, default=(500, 100, 1))
    parser.add_argument("--ingest", type=int, default=200_000)
    parser.add_argument("--push", metavar="ENDPOINT", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.push:
        push(chosen.push, chosen.events)
        return
    end_in_order()
    durabilities = tuple(chosen.durability.split(","))
    found = run(chosen.rounds, chosen.events, chosen.users, chosen.shards, durabilities, chosen.batch, chosen.ingest)
    show(found, chosen.json)


if __name__ == "__main__":
    main()
