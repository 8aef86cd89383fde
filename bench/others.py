"""How many tasks per second from enqueue to done, beside Huey, Dramatiq and Celery on a Redis of this machine?

    apt-get install redis-server; pip install '.[bench]'
    python -m bench.others [--tasks 5000] [--ours 100000] [--steady 200] [--queues huey,dramatiq,celery]
                          [--redis everysec,always] [--rounds 1] [--json]

The same notification everywhere, one producer, two workers, one Python function that does nothing but count. Every
enqueue is acknowledged: by Redis with its append-only file, written before the answer (`everysec`, which survives a
kill) or synced (`always`, which survives a power cut), and by the dispatcher with `process` or `power`, which promise
the same. Each queue is used as its documentation says, for throughput, in bench/queues. All take turns in each round.

The dispatcher is given its notifications by ``NotificationService`` in three ways: ``batch_notify``, ``submit``, which
does not wait for its receipt, and ``notify``, which does. Latencies are of another phase: from enqueue to done, at 50
tasks per second.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from bench.queues import sink
from bench.report import Figure, disk_directory, options, quantile, result, short, show
from dispatcher import NotificationService
from dispatcher.simulation.workload import BODIES, TITLES, user_id
from tests.support.service import DIES_WITH_US, ROOT, RunningDispatcher, free_endpoints

QUEUES = "huey,dramatiq,celery"
KEPT: dict[str, Literal["process", "power"]] = {"everysec": "process", "always": "power"}  # the same promise
OURS = ("batch_notify", "submit", "notify")
USERS = 10_000
WARM_UP = 200
STEADY_PER_S = 50
START_S, DONE_S, STOP_S = 60.0, 300.0, 15.0
POLL_S = 0.01
LOG_SHOWN = 8_000  # bytes
CONFIG = '[channels.sink]\nclass = "bench.queues.with_dispatcher:SinkChannel"\nconcurrency = 1000\n'
MISSING = "bench.others needs {}: apt-get install redis-server, and pip install '.[bench]'"


class Run(NamedTuple):
    """``milliseconds`` are from enqueue to done, at the steady rate, in order."""

    per_s: float
    milliseconds: list[float]


class Work(NamedTuple):
    """``enqueue`` returns when all of these are acknowledged."""

    enqueue: Callable[[list[dict[str, Any]]], object]
    directory: Path  # of the sink


def run(
    rounds: int = 1,
    tasks: int = 5_000,
    ours: int = 100_000,
    steady: int = 200,
    queues: str = QUEUES,
    fsyncs: str = ",".join(KEPT),
) -> dict[str, Any]:
    """``tasks`` for each of the others, and ``ours`` where it would be done too soon with so few."""
    runs: dict[tuple[str, str, str], list[Run]] = {}
    with _redis(queues.split(",")) as (redis, prepare):
        for _, fsync in itertools.product(range(rounds), fsyncs.split(",")):
            durability = KEPT[fsync]
            for queue in queues.split(","):
                prepare(fsync)
                with _queue(queue, redis, tasks + steady) as (module, work):
                    found = runs.setdefault((module.VERSION, f"Redis, {fsync}", module.ACKNOWLEDGED), [])
                    found.append(_measured(work, tasks, steady))
            for call in OURS:
                count = tasks if call == "notify" else ours
                with _dispatcher(durability, count + steady, call) as work:
                    found = runs.setdefault((f"dispatcher, {call}", durability, "after it has run"), [])
                    found.append(_measured(work, count, steady))
    rows = [_row(*label, found) for label, found in runs.items()]
    return result("others", rounds, _figures(rows), rows=rows, tasks=tasks, ours=ours)


def _row(name: str, kept: str, acknowledged: str, found: list[Run]) -> dict[str, Any]:
    times = sorted(one for run in found for one in run.milliseconds)
    return {
        "name": name,
        "kept": kept,
        "acknowledged": acknowledged,
        "tasks_per_s": round(statistics.median(run.per_s for run in found), 1),
        "latency_ms": {"p50": round(quantile(times, 0.5), 2), "p99": round(quantile(times, 0.99), 2)},
    }


def _figures(rows: list[dict[str, Any]]) -> list[Figure]:
    """Beside the fastest of the others that promises the same."""
    best = {
        durability: max((row["tasks_per_s"] for row in rows if row["kept"] == f"Redis, {fsync}"), default=None)
        for fsync, durability in KEPT.items()
    }
    return [
        Figure(f"{row['name']}; {row['kept']}", row["tasks_per_s"], best.get(row["kept"]), "tasks/s") for row in rows
    ]


# --- one run ------------------------------------------------------------------------------------------------------


def _measured(work: Work, count: int, steady: int) -> Run:
    """Warm, then as fast as it goes, then at the steady rate."""
    work.enqueue([_document(number) for number in range(WARM_UP)])
    _wait_for(work.directory, WARM_UP, START_S)
    documents = [_document(WARM_UP + number) for number in range(count)]
    started = time.perf_counter()
    work.enqueue(documents)
    _wait_for(work.directory, WARM_UP + count, DONE_S)
    per_s = count / (time.perf_counter() - started)
    pause = threading.Event()
    began = time.monotonic()
    for number in range(steady):
        pause.wait(max(0.0, began + number / STEADY_PER_S - time.monotonic()))
        work.enqueue([_document(WARM_UP + count + number, time.monotonic())])
    _wait_for(work.directory, WARM_UP + count + steady, DONE_S)
    return Run(per_s, [1000 * one for one in sink.elapsed_s(work.directory)])


def _document(number: int, sent: float = 0.0) -> dict[str, Any]:
    """A notification of the shape of ``simulate``'s."""
    return {
        "user_id": user_id(number * 7_919 % USERS),
        "category": "transaction",
        "title": TITLES["transaction"],
        "body": BODIES["transaction"],
        "payload": {"event": number, "sent": sent},
        "idempotency_key": f"0-{number}",
    }


def _wait_for(directory: Path, count: int, timeout_s: float) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while (done := sink.done(directory)) < count:
        if time.monotonic() > deadline:
            raise SystemExit(f"{done} of {count} tasks are done after {timeout_s:g} s; what the worker says is above")
        pause.wait(POLL_S)


@contextlib.contextmanager
def _sink(count: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """A directory in memory, where there is one, and the environment of the workers that count there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        most = WARM_UP + count
        yield Path(name), {sink.DIRECTORY: name, sink.MOST: str(most), "PYTHONPATH": str(ROOT)}


# --- the systems --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _dispatcher(durability: Literal["power", "process"], count: int, call: str) -> Iterator[Work]:
    with _sink(count) as (directory, environment):
        dispatcher = RunningDispatcher(CONFIG, shards=2, durability=durability)
        dispatcher.environment = environment
        with dispatcher, NotificationService(submit=dispatcher.submit, stream=dispatcher.stream) as service:

            def enqueue(documents: list[dict[str, Any]]) -> None:
                match call:
                    case "batch_notify":
                        service.batch_notify(documents).raise_for_rejected()
                    case "submit":
                        for receipt in [service.submit(document) for document in documents]:
                            receipt.result()
                    case _:
                        for document in documents:
                            service.notify(document)

            yield Work(lambda documents: enqueue([{**one, "channels": ["sink"]} for one in documents]), directory)


@contextlib.contextmanager
def _queue(name: str, redis: str, count: int) -> Iterator[tuple[Any, Work]]:
    """Its module, and two workers."""
    with _sink(count) as (directory, environment):
        os.environ["BENCH_REDIS"] = redis
        module = importlib.import_module(f"bench.queues.with_{name}")

        def enqueue(documents: list[dict[str, Any]]) -> None:
            for document in documents:
                module.enqueue(document)

        with tempfile.TemporaryFile() as log:
            worker = _start([sys.executable, *module.WORKER], os.environ | environment, log)
            try:
                yield module, Work(enqueue, directory)
            except BaseException:
                log.seek(0)
                sys.stderr.buffer.write(log.read()[-LOG_SHOWN:])
                raise
            finally:
                _end(worker)


@contextlib.contextmanager
def _redis(queues: list[str]) -> Iterator[tuple[str, Callable[[str], None]]]:
    """Its URL, and what empties it and sets when it syncs. On the disk, on a port that was free."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit(MISSING.format("redis-server"))
    try:
        client_of = importlib.import_module("redis").Redis.from_url
        for name in queues:
            importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(MISSING.format(f"the package {error.name}")) from None
    url = free_endpoints(1)[0].replace("tcp", "redis")
    with disk_directory() as directory:
        port = url.rpartition(":")[2]
        kept = ("--appendonly", "yes", "--save", "", "--dir", str(directory))
        process = _start([program, "--port", port, "--bind", "127.0.0.1", *kept], dict(os.environ))
        client = client_of(url)

        def prepare(fsync: str) -> None:
            client.flushall()
            client.config_set("appendfsync", fsync)

        try:
            _wait_for_listener(int(port))
            yield url, prepare
        finally:
            client.close()
            _end(process)


def _wait_for_listener(port: int) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"redis-server does not listen after {START_S:g} s: {error}") from None
            pause.wait(POLL_S)
        else:
            return


def _start(command: list[str], environment: dict[str, str], log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*DIES_WITH_US, *command],
        cwd=ROOT,
        env=environment,
        stdout=log or subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """The worker in order, and all its processes for certain."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    chosen = options(
        "bench.others", __doc__, rounds=1, tasks=5_000, ours=100_000, steady=200, queues=QUEUES, redis=",".join(KEPT)
    )
    found = run(chosen.rounds, chosen.tasks, chosen.ours, chosen.steady, chosen.queues, chosen.redis)
    show(found, chosen.json)
    if not chosen.json:
        print()
        for row in found["rows"]:
            p50, p99 = (f"{name} {short(row['latency_ms'][name]):>5} ms" for name in ("p50", "p99"))
            rate = f"{short(row['tasks_per_s']):>8}/s"
            print(f"{row['name']:<30} {row['kept']:<16} {rate}  {p50}  {p99}  acknowledged {row['acknowledged']}")


if __name__ == "__main__":
    main()
