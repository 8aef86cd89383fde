"""The service's processes under ill treatment: killed, stopped, starved, hurried."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq

import dispatcher.child
from dispatcher import report
from dispatcher.settings import Dispatcher, Settings
from dispatcher.supervisor import Supervisor
from shards.wire.ids import hash_user
from tests.support.killer import Killer
from tests.support.logs import captured_logs
from tests.support.pipeline import Pipeline
from tests.support.service import ROOT, RunningDispatcher, free_endpoints, wait_until

PATIENCE_S = 30.0
CRASH_LOOP = 3  # with HURRY
MISBEHAVING = ROOT / "tests" / "support" / "misbehaving"
SLOW_EMAIL = '[channels.email]\nprovider = "simulated"\nlatency = "{latency}"\n'


class Misbehaving(RunningDispatcher):
    """Its process ``module`` does ``how`` at every start for as long as ``file`` exists."""

    def __init__(self, module: str, how: str, *, config: str = "") -> None:
        super().__init__(config, shards=1)
        self.file = self.directory / "misbehave"
        self.environment = misbehaviour(module, how, self.file) | {"HURRY": "yes"}


def misbehaviour(module: str, how: str, file: Path) -> dict[str, str]:
    path = os.pathsep.join((str(MISBEHAVING), str(ROOT)))
    return {"PYTHONPATH": path, "MISBEHAVE": f"{module} {how} {file}"}


def children(service: RunningDispatcher) -> dict[str, int]:
    assert service.process is not None
    return Killer(service.process.pid, service.shards, random.Random(1)).children()


def wait_child(service: RunningDispatcher, name: str) -> int:
    return wait_until(lambda: children(service).get(name), PATIENCE_S, f"the {name} runs")


def wait_event(service: RunningDispatcher, event: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]] | None:
        same = [line for line in service.events() if line["event"] == event and fields.items() <= line.items()]
        return same if len(same) >= count else None

    return wait_until(found, PATIENCE_S, f"{count} times {event!r} in the log")


def last_line(service: RunningDispatcher) -> str:
    return service.log().splitlines()[-1]


def note(user: str, number: int, **fields: Any) -> dict[str, Any]:
    return {"user_id": user, "title": f"n{number}", "channels": ["inapp"], "idempotency_key": f"k{number}", **fields}


def inbox_keys(service: RunningDispatcher, user: str) -> list[str]:
    items = service.request("inbox.list", user_id=user, limit=1_000, cursor=0)["items"]
    return [item["idempotency_key"] for item in items]


def user_of_shard(shard: int, shards: int) -> str:
    return next(user for number in itertools.count() if hash_user(user := f"user-{number}") % shards == shard)


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- kills ----------------------------------------------------------------------------------------------------------


def test_each_process_is_replaced_when_it_is_killed() -> None:
    with RunningDispatcher() as service:
        before = service.child_pids()
        service.client.submit(note("ada", 1))
        for name, pid in before.items():
            os.kill(pid, signal.SIGKILL)
            (line,) = wait_event(service, "ended, restarting", child=name)
            assert line["why"] == "signal SIGKILL"
        wait_until(lambda: not children(service).keys() ^ before.keys(), PATIENCE_S, "all processes run")
        with Pipeline(service.submit) as pipeline:
            assert pipeline.exchange([{"op": "submit", "notifications": [note("ada", 1)]}])[0]["duplicates"]
        after = wait_until(
            lambda: None if (stats := service.request("stats"))["not_responding"] else stats, PATIENCE_S, "all answer"
        )
        assert not set(before.values()) & {after[role]["pid"] for role in ("router", "collector")}
        assert after["conserved"]


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_recovers() -> None:
    service = RunningDispatcher()
    service.launch()
    wait_until((service.data_dir / "identity.json").exists, PATIENCE_S, "it starts its first processes")
    service.kill()  # fails if a process of its session remains, those that are just starting among them
    with service:
        users = [user_of_shard(shard, 2) for shard in (0, 1)]
        for number, user in enumerate(users):
            assert service.client.submit(note(user, number))["accepted"] == 1
        service.kill()
        service.start()
        stats = service.settled_stats()
        assert (stats["accepted"], stats["conserved"]) == (2, True)
        assert [inbox_keys(service, user) for user in users] == [["k0"], ["k1"]]


# --- stopped processes ----------------------------------------------------------------------------------------------


def test_a_stop_while_ingest_is_paused_is_in_order() -> None:
    config = '[dispatcher]\ndrain = "1s"\n[limits]\nwindow_frames = 1\nwindow_bytes = 1\n'
    with RunningDispatcher(config) as service:
        pid = service.child_pids()["shard 0"]
        user = user_of_shard(0, 2)
        os.kill(pid, signal.SIGSTOP)
        try:
            service.ingested(json.dumps({"user_id": user, "title": "it waits"}).encode())
            wait_until(
                lambda: (
                    "error" in service.client.exchange({"op": "submit", "notifications": [note(user, 1)]}, as_json=True)
                )
            )
            service.stop()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        assert "crashed" not in [event["event"] for event in service.events()]


def test_a_stopped_shard_costs_its_own_users_only_and_loses_nothing() -> None:
    config = '[dispatcher]\nreceipt_timeout = "1s"\n[limits]\nwindow_frames = 4\nwindow_bytes = 100_000\n'
    with RunningDispatcher(config) as service:
        stopped_user, other_user = user_of_shard(0, 2), user_of_shard(1, 2)
        pids = service.child_pids()
        before_mb = rss_mb(pids["router"])
        filler = "x" * 20_000
        requests = [
            {"op": "submit", "notifications": [note(stopped_user, number, body=filler)]} for number in range(1_000)
        ]
        os.kill(pids["shard 0"], signal.SIGSTOP)
        try:
            answers = service.client.pipelined(*requests)
            codes = {answer["error"]["code"] for answer in answers}
            assert codes == {"overloaded", "unavailable"}
            assert all(
                answer["error"]["retry_after_ms"] > 0 for answer in answers if answer["error"]["code"] == "overloaded"
            )
            assert service.client.submit(note(other_user, 1))["accepted"] == 1
            stats = service.request("stats")
            assert stats["not_responding"] == ["shard 0"]
            assert [shard["shard"] for shard in stats["shards"]] == [1]
            assert report.stats(stats).startswith("NOT RESPONDING, and not counted here: shard 0\n")
            assert rss_mb(pids["router"]) - before_mb < 20  # one copy of what was submitted
            assert children(service) == pids  # silence is no death
        finally:
            os.kill(pids["shard 0"], signal.SIGCONT)
        with Pipeline(service.submit) as pipeline:
            resent = pipeline.exchange(requests[:40])
        assert {answer["accepted"] + answer["duplicates"] for answer in resent} == {1}
        assert service.settled_stats()["conserved"]
        keys = inbox_keys(service, stopped_user)
        assert len(keys) == len(set(keys))
        assert {f"k{number}" for number in range(40)} <= set(keys)
        assert inbox_keys(service, other_user) == ["k1"]
        assert service.child_pids() == pids


# --- processes that do not start, or do not stay ----------------------------------------------------------------------


def test_a_crash_loop_ends_with_the_reason() -> None:
    with Misbehaving("dispatcher.collector", "crash") as service:
        pid = service.child_pids()["collector"]
        service.file.touch()
        os.kill(pid, signal.SIGKILL)
        assert service.wait_ended() == 1
        assert last_line(service) == (
            f"error: the collector ended {CRASH_LOOP + 1} times in a row, each time soon after its start; giving up. "
            "The last time: exit code 1: RuntimeError: out of luck"
        )
        crashes = [line for line in service.events() if line["event"] == "crashed"]
        assert len(crashes) == CRASH_LOOP
        assert crashes[0]["process"] == "collector"
        assert crashes[0]["exception"].startswith("Traceback")


def test_a_process_that_does_not_start_is_named_with_its_reason() -> None:
    service = Misbehaving("shards.worker", "crash")
    service.file.touch()
    service.launch()
    assert service.wait_ended() == 1
    assert last_line(service) == "error: the shard 0 does not start: exit code 1: RuntimeError: out of luck"
    shutil.rmtree(service.directory)


def test_deaths_of_deliveries_are_no_crash_loop() -> None:
    with Misbehaving("dispatcher.router", "die-of-a-delivery") as service:
        pid = service.child_pids()["router"]
        service.file.touch()
        os.kill(pid, signal.SIGKILL)
        wait_event(service, "ended, restarting", count=CRASH_LOOP + 3, child="router", why="exit code 3")
        service.file.unlink()
        with Pipeline(service.submit) as pipeline:
            assert pipeline.exchange([{"op": "ping"}])[0]["ok"]


def test_a_process_that_hangs_at_its_start_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "misbehave"
    for name, value in misbehaviour("dispatcher.router", "hang", file).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(MISBEHAVING)
    ingest, submit, stream = free_endpoints(3)
    settings = Settings(Dispatcher(1, str(tmp_path / "data"), "process", ingest, submit, stream))
    ready = threading.Event()
    supervisor = Supervisor(settings, ready.set)
    thread = threading.Thread(target=supervisor.run)
    with captured_logs() as lines:
        thread.start()
        try:
            assert ready.wait(PATIENCE_S)
            file.touch()
            monkeypatch.setattr(dispatcher.child, "READY_S", 1.0)
            router = Killer(os.getpid(), 1, random.Random(1)).children()["router"]
            os.kill(router, signal.SIGKILL)
            wait_until(
                lambda: [line for line in lines if line.get("why") == "signal SIGKILL: not ready in time"],
                PATIENCE_S,
                "the router that hangs is killed",
            )
            monkeypatch.undo()
            file.unlink()
            with Pipeline(submit) as pipeline:
                assert pipeline.exchange([{"op": "ping"}])[0]["ok"]
        finally:
            supervisor.stop()
            thread.join(PATIENCE_S)


def test_a_machine_that_cannot_start_a_process_is_asked_again() -> None:
    with RunningDispatcher(shards=1) as service:
        pid = service.child_pids()["router"]
        obstacle = service.data_dir / "epoch.new"
        obstacle.mkdir()  # so the router's epoch cannot be written
        os.kill(pid, signal.SIGKILL)
        wait_event(service, "cannot be started", count=2, child="router")
        obstacle.rmdir()
        with Pipeline(service.submit) as pipeline:
            assert pipeline.exchange([{"op": "ping"}])[0]["ok"]


# --- the end --------------------------------------------------------------------------------------------------------


def test_a_stop_waits_for_attempts_that_are_under_way() -> None:
    with RunningDispatcher(SLOW_EMAIL.format(latency="300ms"), shards=1) as service:
        service.request("user.put", user_id="ada", user={"contacts": {"email": "ada@example.org"}})
        service.client.submit({"user_id": "ada", "title": "x", "channels": ["email"]})
        wait_until(lambda: service.request("stats")["channels"]["email"]["in_flight"], PATIENCE_S, "it is under way")
        service.stop()
        assert [line["children"] for line in wait_event(service, "stopping", count=3)] == [
            "router",
            "shard 0",
            "collector",
        ]
        (stopped,) = wait_event(service, "stopped")
        assert stopped["took_s"] < PATIENCE_S
        service.start()
        email = service.settled_stats()["channels"]["email"]
        assert (email["attempts"], email["outcomes"]["delivered"]) == (1, 1)


def test_a_second_signal_kills_what_has_not_stopped() -> None:
    config = '[dispatcher]\ndrain = "10m"\n' + SLOW_EMAIL.format(latency="10m")
    with RunningDispatcher(config, shards=1) as service:
        service.request("user.put", user_id="ada", user={"contacts": {"email": "ada@example.org"}})
        service.client.submit({"user_id": "ada", "title": "x", "channels": ["email"]})
        wait_until(lambda: service.request("stats")["channels"]["email"]["in_flight"], PATIENCE_S, "it is under way")
        assert service.process is not None
        service.process.send_signal(signal.SIGTERM)
        wait_event(service, "stopping", children="shard 0")
        service.process.send_signal(signal.SIGINT)
        assert service.wait_ended() == 1
        wait_event(service, "does not stop: killed; what it had under way will be repeated", child="shard 0")
        assert last_line(service) == "error: told to stop twice: killed; what was under way will be repeated"
        service.config_file.write_text(service.config_file.read_text().replace('drain = "10m"', 'drain = "0s"'))
        service.start()
        assert service.request("stats")["pending"] == 1  # nothing is lost, and now the time to drain is over at once


def test_a_signal_during_the_start_stops_it() -> None:
    service = Misbehaving("dispatcher.router", "hang", config='[dispatcher]\ndrain = "0s"\n')
    service.file.touch()
    service.launch()
    wait_child(service, "router")
    service.stop()
    (stopped,) = wait_event(service, "stopped")
    assert not [line for line in service.events() if line["event"] == "ready"]
    assert stopped["took_s"] < PATIENCE_S
    shutil.rmtree(service.directory)


# --- file descriptors -----------------------------------------------------------------------------------------------


def test_without_file_descriptors_new_clients_wait_and_others_are_served() -> None:
    with RunningDispatcher(prefix=("prlimit", "--nofile=64:64")) as service, zmq.Context() as context:
        pids = service.child_pids()
        wait_event(service, "few file descriptors: clients may have to wait; raise LimitNOFILE", limit=64)
        crowd = [context.socket(zmq.DEALER) for _ in range(100)]
        try:
            for socket in crowd:
                socket.set(zmq.LINGER, 0)
                socket.connect(service.submit)
                socket.send_multipart([b"", b'{"op": "ping"}'])
            wait_event(service, "file descriptors run out: no new clients are accepted; raise LimitNOFILE")
            assert service.client.submit(note("ada", 1))["accepted"] == 1
            served = sum(bool(socket.poll(0)) for socket in crowd)
            assert 0 < served < len(crowd)
            os.kill(pids["shard 0"], signal.SIGKILL)  # its successor needs descriptors of the router
            wait_event(service, "ended, restarting", child="shard 0")
            wait_until(lambda: not service.request("stats")["not_responding"], PATIENCE_S, "the shard is back")
        finally:
            for socket in crowd:
                socket.close()
        wait_event(service, "new clients are accepted again")
        with Pipeline(service.submit) as pipeline:
            assert pipeline.exchange([{"op": "ping"}])[0]["ok"]
        assert children(service)["router"] == pids["router"]
