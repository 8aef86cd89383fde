"""The load simulation: a service of its own, seeded events through it, and an account of every delivery."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket as sockets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import zmq

from dispatcher import workload
from dispatcher.client import Client
from dispatcher.producer import ProducerSettings, Totals
from shards.logs import LogSettings
from shards.process import handover
from shards.units import Seconds
from shards.wire.encoding import pack

PROCESSES = 2
SAMPLED_USERS = 100
STATS_EVERY_S = 0.25
STALLED_S = 60.0
STOP_S = 45.0
SIMULATED_CONCURRENCY = 20_000

Progress = Callable[[dict[str, Any]], None]


class SimulationError(Exception):
    """The simulation could not be carried through: the message says where it stood."""


class Plan(msgspec.Struct, frozen=True):
    """The command line's options."""

    events: int = 1_000_000
    users: int = 10_000
    producers: int = 100
    shards: int = 4
    failure_rate: float = 0.1
    duplicate_rate: float = 0.01
    retry_base: Seconds = Seconds(0.05)
    max_retries: int = 3
    durability: str = "power"
    seed: int = 1
    batch: int = workload.BATCH


class Service:
    """A dispatcher in a child process, with free ports of its own."""

    def __init__(self, plan: Plan, directory: Path, failure_rate: float) -> None:
        self.submit, self.stream = _free_endpoint(), _free_endpoint()
        config = directory / "simulate.toml"
        config.write_text(_config(plan, directory, self.submit, self.stream, failure_rate))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "serve", "--config", str(config)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.client = Client(self.submit, timeout_s=30.0)

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise SimulationError("the service did not start; its message is above")

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def _free_endpoint() -> str:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def _config(plan: Plan, directory: Path, submit: str, stream: str, failure_rate: float) -> str:
    channels = "".join(
        f'[channels.{name}]\nprovider = "simulated"\nconcurrency = {SIMULATED_CONCURRENCY}\n'
        f"failure_rate = {failure_rate}\nseed = {plan.seed}\n"
        for name in ("email", "sms", "push")
    )
    return (
        '[log]\nlevel = "warning"\n'
        f'[dispatcher]\nshards = {plan.shards}\ndata_dir = "{directory / "data"}"\ndurability = "{plan.durability}"\n'
        f'submit = "{submit}"\nstream = "{stream}"\ningest = "{_free_endpoint()}"\nreceipt_timeout = "60s"\n'
        f'[retry]\nbase = "{plan.retry_base}"\nmax_retries = {plan.max_retries}\n'
        # the drawn preferences decide alone, in all four categories
        '[categories.security]\nchannels = ["email", "sms", "push"]\npriority = "critical"\n' + channels
    )


def on_tmpfs(directory: Path) -> bool:
    """Whether the directory is in memory, where a measurement of durability says nothing."""
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, found = line.split()[:3]
        if str(directory.resolve()).startswith(point) and len(point) > len(best):
            best, kind = point, found
    return kind in ("tmpfs", "ramfs")


def simulate(plan: Plan, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Run the plan; the summary of the ``--json`` output. ``progress`` gets ``stats`` and where things stand."""
    directory = Path(tempfile.mkdtemp(prefix="dispatcher-simulate-"))
    try:
        with _service(plan, directory, plan.failure_rate) as service:
            _put_users(plan, service.submit)
            before = _stats(service)
            summary = _run(plan, service, before, progress)
            listed = dead_by_reason(service.client)
        summary["dead_letters_by_reason"] = listed
        with _service(plan, directory, 0.0) as service:
            summary["dead_drained"] = _replay(service, progress)
        summary["on_tmpfs"] = on_tmpfs(directory)
        return summary
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _service(plan: Plan, directory: Path, failure_rate: float) -> Iterator[Service]:
    service = Service(plan, directory, failure_rate)
    try:
        service.wait_ready()
        yield service
    finally:
        service.stop()


def _stats(service: Service) -> dict[str, Any]:
    stats = service.client.request("stats")
    if stats["not_responding"]:
        raise SimulationError(f"no answer from {', '.join(stats['not_responding'])}; its messages are above")
    return stats


def _put_users(plan: Plan, submit: str) -> None:
    """All users' preferences, pipelined."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(submit)
    sent = answered = 0
    try:
        while answered < plan.users:
            while sent < plan.users and sent - answered < 500:
                document = workload.user_document(plan.seed, sent)
                request = {"op": "user.put", "seq": sent, "user_id": workload.user_id(sent), "user": document}
                socket.send_multipart([b"", pack(request)])
                sent += 1
            if not socket.poll(10_000):
                raise SimulationError("the service does not take the users' preferences")
            answer = msgspec.msgpack.decode(socket.recv_multipart()[1])
            if not answer["ok"]:
                raise SimulationError(f"user.put: {answer['error']['message']}")
            answered += 1
    finally:
        context.destroy(linger=0)


def _run(plan: Plan, service: Service, before: dict[str, Any], progress: Progress) -> dict[str, Any]:
    step = max(1, plan.users // SAMPLED_USERS)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stream = context.socket(zmq.SUB)
    stream.set(zmq.RCVHWM, 0)
    for number in range(0, plan.users, step):
        stream.subscribe(b"inapp." + workload.user_id(number).encode() + b"\0")
    stream.connect(service.stream)
    arrivals: dict[str, int] = {}
    producers = _start_producers(plan, service, step)
    try:
        stats = _drain(plan, service, progress, stream, arrivals, producers)
        totals = [_totals(producer) for producer in producers]
        stats = _await_collector(service, stats)
    finally:
        context.destroy(linger=0)
        for producer in producers:
            producer.kill()
            producer.wait()
            if producer.stdout:
                producer.stdout.close()
    return _summary(plan, before, stats, totals, arrivals)


def _start_producers(plan: Plan, service: Service, step: int) -> list[subprocess.Popen[bytes]]:
    count = min(PROCESSES, plan.producers)
    producers = []
    for process in range(count):
        settings = ProducerSettings(
            submit=service.submit,
            seed=plan.seed,
            events=plan.events,
            users=plan.users,
            producers=plan.producers,
            numbers=list(range(process, plan.producers, count)),
            duplicate_rate=plan.duplicate_rate,
            sample=step,
            batch=plan.batch,
        )
        producer = subprocess.Popen(
            [sys.executable, "-m", "dispatcher.producer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert producer.stdin is not None
        producer.stdin.write(handover(f"producer {process}", LogSettings(), msgspec.json.encode(settings)))
        producer.stdin.close()
        producers.append(producer)
    return producers


def _totals(producer: subprocess.Popen[bytes]) -> Totals:
    assert producer.stdout is not None
    line = producer.stdout.readline()
    if not line.startswith(b"{"):
        raise SimulationError("a producer failed; its message is above")
    return msgspec.json.decode(line, type=Totals)


def _drain(
    plan: Plan,
    service: Service,
    progress: Progress,
    stream: zmq.Socket[bytes],
    arrivals: dict[str, int],
    producers: list[subprocess.Popen[bytes]],
) -> dict[str, Any]:
    """Watch until every event has its verdict and every delivery its outcome."""
    next_stats = 0.0
    seen, seen_at = -1, time.monotonic()
    while True:
        if stream.poll(50):
            with contextlib.suppress(zmq.Again):
                while True:
                    item = orjson.loads(stream.recv_multipart(zmq.DONTWAIT)[1])
                    arrivals.setdefault(item["idempotency_key"], time.time_ns() // 1000)
        now = time.monotonic()
        if now < next_stats:
            continue
        next_stats = now + STATS_EVERY_S
        stats = _stats(service)
        done = stats["accepted"] + stats["duplicates"] + stats["rejected"]
        progress({**stats, "events_done": done, "events": plan.events})
        if done >= plan.events and not stats["pending"]:
            return stats
        moved = done + stats["attempts"]
        if moved != seen:
            seen, seen_at = moved, now
        elif now - seen_at > STALLED_S or any(producer.poll() for producer in producers):
            raise SimulationError(f"stalled with {done} of {plan.events} events and {stats['pending']} pending")


def _await_collector(service: Service, stats: dict[str, Any]) -> dict[str, Any]:
    """The collector follows the shards within moments."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        if stats["collector"]["dead_letters"] == sum(stats["dead_letters"].values()):
            break
        time.sleep(0.05)
        stats = _stats(service)
    return stats


def _replay(service: Service, progress: Progress) -> int:
    """Replay all dead letters, now that failures are off; how many are none any more."""
    before = sum(_stats(service)["dead_letters"].values())
    while service.client.request("dead.replay", limit=1_000)["count"]:
        pass
    deadline = time.monotonic() + STALLED_S
    while True:
        stats = _stats(service)
        if not stats["pending"] and stats["collector"]["dead_letters"] == sum(stats["dead_letters"].values()):
            break
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return int(before - sum(stats["dead_letters"].values()))


def dead_by_reason(client: Client) -> dict[str, int]:
    """How many dead letters the collector has, by reason."""
    reasons: dict[str, int] = {}
    cursor = None
    while True:
        page = client.request("dead.list", limit=1_000, cursor=cursor)
        for item in page["items"]:
            reasons[item["reason"]] = reasons.get(item["reason"], 0) + 1
        cursor = page["next"]
        if cursor is None:
            return reasons


def _cpu_s(stats: dict[str, Any]) -> dict[str, float]:
    return {
        "router": stats["router"]["cpu_s"],
        "shards": sum(shard["cpu_s"] for shard in stats["shards"]),
        "collector": stats["collector"]["cpu_s"],
    }


def _summary(
    plan: Plan, before: dict[str, Any], stats: dict[str, Any], totals: list[Totals], arrivals: dict[str, int]
) -> dict[str, Any]:
    first_us = min(total.first_us for total in totals if total.first_us)
    last_us = max(shard["changed_at_us"] for shard in stats["shards"])
    elapsed_s = (last_us - first_us) / 1e6
    waits = sorted(
        arrivals[key] - submitted
        for total in totals
        for key, submitted in total.submitted_us.items()
        if key in arrivals
    )
    delivered = stats["outcomes"]["delivered"]
    outcomes = {"pending": 0, "retrying": 0, "deferred": 0, **stats["outcomes"]}
    shards = stats["shards"]
    spent_before = _cpu_s(before)  # starting, and storing the users, is not part of the work
    return {
        "events": plan.events,
        **{
            key: sum(getattr(total, key) for total in totals)
            for key in ("accepted", "duplicates", "rejected", "overloaded", "resubmitted")
        },
        "planned": stats["planned"],
        "outcomes": outcomes,
        "pending": stats["pending"],
        "attempts": stats["attempts"],
        "failed_attempts": stats["failed_attempts"],
        "conserved": stats["conserved"],
        "dead_letters": stats["collector"]["dead_letters"],
        "elapsed_s": round(elapsed_s, 3),
        "events_per_s": round(plan.events / elapsed_s),
        "deliveries_per_s": round(delivered / elapsed_s),
        "shards": plan.shards,
        "durability": plan.durability,
        "seed": plan.seed,
        "cpu_s": {
            "producers": round(sum(total.cpu_s for total in totals), 2),
            **{role: round(spent - spent_before[role], 2) for role, spent in _cpu_s(stats).items()},
        },
        "rss_mb": {
            "producers": max(total.rss_mb for total in totals),
            "router": stats["router"]["rss_mb"],
            "shards": max(shard["rss_mb"] for shard in shards),
            "collector": stats["collector"]["rss_mb"],
        },
        "latency_ms": {
            "p50": _quantile_ms(waits, 0.5),
            "p99": _quantile_ms(waits, 0.99),
            "max": _quantile_ms(waits, 1.0),
            "samples": len(waits),
        },
    }


def _quantile_ms(sorted_us: list[int], quantile: float) -> float | None:
    if not sorted_us:
        return None
    return round(sorted_us[min(len(sorted_us) - 1, int(quantile * len(sorted_us)))] / 1000, 1)
