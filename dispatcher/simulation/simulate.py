"""A run of the simulation: users, producers, and waiting until every delivery has its outcome; then the replay."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import zmq

from dispatcher.client import Client
from dispatcher.simulation import workload
from dispatcher.simulation.plan import Plan, SimulationError
from dispatcher.simulation.producers import start_producers, totals
from dispatcher.simulation.service import Service, running
from dispatcher.simulation.summary import summary
from shards.wire.encoding import pack

SAMPLED_USERS = 100
STATS_EVERY_S = 0.25
STALLED_S = 60.0

Progress = Callable[[dict[str, Any]], None]


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
        with running(plan, directory, plan.failure_rate) as service:
            _put_users(plan, service.submit)
            before = service.stats()
            account = _run(plan, service, before, progress)
            listed = dead_by_reason(service.client)
        account["dead_letters_by_reason"] = listed
        with running(plan, directory, 0.0) as service:
            account["dead_drained"] = _replay(service, progress)
        account["on_tmpfs"] = on_tmpfs(directory)
        return account
    finally:
        shutil.rmtree(directory, ignore_errors=True)


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
    producers = start_producers(plan, service, step)
    try:
        stats = _drain(plan, service, progress, stream, arrivals, producers)
        found = [totals(producer) for producer in producers]
        stats = _await_collector(service, stats)
    finally:
        context.destroy(linger=0)
        for producer in producers:
            producer.kill()
            producer.wait()
            if producer.stdout:
                producer.stdout.close()
    return summary(plan, before, stats, found, arrivals)


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
        stats = service.stats()
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
        stats = service.stats()
    return stats


def _replay(service: Service, progress: Progress) -> int:
    """Replay all dead letters, now that failures are off; how many are none any more."""
    before = sum(service.stats()["dead_letters"].values())
    while service.client.request("dead.replay", limit=1_000)["count"]:
        pass
    deadline = time.monotonic() + STALLED_S
    while True:
        stats = service.stats()
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
