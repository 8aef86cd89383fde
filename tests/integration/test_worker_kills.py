"""Workers, the router and shards are killed while deliveries are with workers: each is made, and few are made twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import SubmitClient
from tests.support.killer import Killer
from tests.support.needs import needs
from tests.support.service import ROOT, RunningDispatcher, wait_until
from tests.support.worker import Worker

PATIENCE_S = 120.0
COUNT, BATCH, KILLS, CONCURRENCY, HELD = 900, 50, 6, 16, 8
CONFIG = f"""
[retry]
base = "50ms"
max_retries = 20
[channels.pager]
provider = "attached"
concurrency = {CONCURRENCY}
timeout = "3s"
"""


class Workers:
    """Two processes, started anew when they are killed."""

    def __init__(self, endpoint: str, file: Path) -> None:
        self._arguments = (endpoint, "pager")
        self._file = file
        self._started = 0
        self._running = [self._start(), self._start()]

    def _start(self) -> subprocess.Popen[bytes]:
        self._started += 1
        command = [sys.executable, "-m", "tests.support.worker_process", *self._arguments]
        return subprocess.Popen([*command, f"w{self._started}", str(self._file)], cwd=ROOT)

    def kill_one(self) -> None:
        victim = self._running.pop(0)
        victim.kill()
        victim.wait()
        self._running.append(self._start())

    def end(self) -> None:
        for one in self._running:
            one.kill()
            one.wait()


def submitted(client: SubmitClient, batch: list[dict[str, Any]]) -> list[str] | None:
    """The ids of a batch that was taken; None if it is to be sent again."""
    try:
        return list(client.submit(*batch)["ids"])
    except AssertionError:  # refused, or no answer in time
        return None


@pytest.mark.slow
def test_each_delivery_is_made_and_only_what_was_under_way_is_made_twice(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with RunningDispatcher(CONFIG) as service:
        assert service.process
        killer = Killer(service.process.pid, 2, random.Random(7))
        workers = Workers(service.submit, made)
        try:
            with SubmitClient(service.submit, timeout_s=2.0) as client:
                for number, first in enumerate(range(0, COUNT, BATCH)):
                    batch = [
                        {
                            "user_id": f"user-{at % 20}",
                            "title": f"t{at}",
                            "channels": ["pager"],
                            "idempotency_key": f"k{at}",
                        }
                        for at in range(first, first + BATCH)
                    ]
                    wait_until(lambda batch=batch: submitted(client, batch), PATIENCE_S)  # type: ignore[misc]  # bound now
                    if number % (COUNT // BATCH // KILLS) == 0:
                        workers.kill_one()
                        wait_until(killer.kill_one, PATIENCE_S, "somebody to kill")

                def delivered() -> bool:
                    found = client.exchange({"op": "stats"}, as_json=True)
                    return bool(found["ok"] and not found["not_responding"] and found["outcomes"]["delivered"] == COUNT)

                wait_until(delivered, PATIENCE_S, "all are delivered")
                assert client.request("stats")["conserved"]
        finally:
            workers.end()
    titles = Counter(made.read_text().splitlines())
    assert titles.keys() == {f"t{at}" for at in range(COUNT)}
    repeated = titles.total() - COUNT
    assert repeated <= KILLS * (2 * CONCURRENCY + HELD), f"{repeated} were made twice"


def test_results_outlive_the_router() -> None:
    """What was given out by one is answered to the next, and counts as the first attempt."""
    with RunningDispatcher(CONFIG.replace("3s", "60s")) as service:
        answer = service.client.submit(
            {"recipients": [f"u{at}" for at in range(6)], "title": "t", "channels": ["pager"]}
        )
        (ids,) = answer["ids"]
        before = service.child_pids()["router"]
        with Worker(service.submit, "pager", "w") as worker:
            given = worker.take(6)
            os.kill(before, signal.SIGKILL)

        def replaced() -> bool:
            with SubmitClient(service.submit, timeout_s=1.0) as client:
                try:
                    return bool(client.request("stats")["router"]["pid"] != before)
                except AssertionError:
                    return False

        wait_until(replaced, PATIENCE_S, "another router")
        with Worker(service.submit, "pager", "w") as worker:
            worker.settle(given)
        for id in ids:
            wait_until(lambda id=id: _status(service, id)["outcome"] == "delivered", PATIENCE_S)  # type: ignore[misc]
            assert _status(service, id)["attempts"] == 1


def test_the_tokens_of_a_dead_shard_mean_nothing() -> None:
    with RunningDispatcher(CONFIG.replace("3s", "60s"), shards=1) as service:
        id = service.client.submit({"user_id": "ada", "title": "t", "channels": ["pager"]})["ids"][0]
        with Worker(service.submit, "pager", "w") as worker:
            old = worker.take()
            os.kill(service.child_pids()["shard 0"], signal.SIGKILL)
            (new,) = worker.take()
            assert new["delivery"]["id"] == old[0]["delivery"]["id"]
            assert new["token"] != old[0]["token"]
            worker.settle(old, error_class="permanent")
            assert _status(service, id)["outcome"] == "pending"
            worker.settle([new])
            wait_until(lambda: _status(service, id)["outcome"] == "delivered", PATIENCE_S)


def test_a_stop_in_order_waits_for_results_and_repeats_nothing() -> None:
    with RunningDispatcher(CONFIG.replace("3s", "60s")) as service:
        ids = service.client.submit(*({"user_id": f"u{at}", "title": "t", "channels": ["pager"]} for at in range(4)))[
            "ids"
        ]
        with Worker(service.submit, "pager", "w") as worker:
            given = worker.take(4)
            assert service.process
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: worker.attach(5, 30_000)["deliveries"] == [], PATIENCE_S)  # is not kept waiting
            worker.settle(given[:3])
            worker.settle(given[3:], error_class="returned")
        assert service.wait_ended() == 0
        service.start()
        for id in ids:
            found = _status(service, id)
            assert (found["outcome"], found["attempts"]) in (("delivered", 1), ("pending", 0))
        with Worker(service.submit, "pager", "w") as worker:
            (last,) = worker.take()
            assert last["delivery"]["attempt"] == 1
            worker.settle([last])
        service.settled_stats(PATIENCE_S)


def _status(service: RunningDispatcher, id: str) -> dict[str, Any]:
    return dict(service.request("status", id=id)["deliveries"][0])


# --- the example ------------------------------------------------------------------------------------------------------


def test_the_example_in_javascript(tmp_path: Path) -> None:
    node = shutil.which("node")
    needs(node, "no node")
    places = [Path(os.environ.get("CLIENT_NODE_MODULES", ".")), ROOT / "examples" / "clients" / "node" / "node_modules"]
    modules = next((place.absolute() for place in places if (place / "zeromq").is_dir()), None)
    needs(modules, "no node_modules with zeromq; npm install in examples/clients/node, or set CLIENT_NODE_MODULES")
    out = tmp_path / "out"

    def lines(test: Callable[[str], bool]) -> bool:
        return any(map(test, out.read_text().splitlines()))

    with RunningDispatcher(CONFIG) as service:
        service.request("user.put", user_id="ada", user={"contacts": {"other": {"pager": "4711"}}})
        with out.open("wb") as file:
            process = subprocess.Popen(
                [str(node), str(ROOT / "examples" / "workers" / "pager.js"), service.submit, "js"],
                env={**os.environ, "NODE_PATH": str(modules)},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            notification = {"title": "Disk full", "priority": "high", "channels": ["pager"]}
            ids = service.client.submit(*({**notification, "user_id": name} for name in ("ada", "bob")))["ids"]
            wait_until(lambda: _status(service, ids[0])["outcome"] == "delivered", PATIENCE_S)
            wait_until(lambda: _status(service, ids[1])["reason"] == "no_contact", PATIENCE_S)
            assert lines(lambda line: line == "paged 4711 (ada, high, attempt 1): Disk full")
            os.kill(service.child_pids()["router"], signal.SIGKILL)  # the worker goes on by itself
            id = wait_until(lambda: submitted(service.client, [{**notification, "user_id": "ada"}]), PATIENCE_S)[0]
            wait_until(lambda: _status(service, id)["outcome"] == "delivered", PATIENCE_S)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, out.read_text()
            assert service.request("stats")["channels"]["pager"]["workers"] == 0
        finally:
            process.kill()
            process.wait()
