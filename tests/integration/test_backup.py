"""A backup of a running dispatcher is a data directory that another one starts with."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.backup import backup
from dispatcher.client import Client
from tests.support.client import SubmitClient
from tests.support.service import ROOT, RunningDispatcher, wait_until

CONFIG = """
[templates]
allow_template_put = true
[retry]
max_retries = 5
base = "1h"
max = "2h"
jitter = "none"
[channels.email]
provider = "simulated"
failure_rate = 1.0
"""


@pytest.fixture
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=2) as running:
        yield running


@pytest.fixture
def target(service: RunningDispatcher) -> Path:
    return service.directory / "backup"


def command(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dispatcher", name, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def backed_up(service: RunningDispatcher, target: Path) -> str:
    done = command("backup", target, "--data-dir", service.data_dir, "--submit", service.submit)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_whole(directory: Path) -> None:
    done = command("check", "--data-dir", directory)
    assert done.returncode == 0, done.stdout


def notifications(number: int) -> list[dict[str, Any]]:
    users = ["ann", "bob", "eve", "joe"]
    return [
        *(
            {"user_id": user, "title": f"{number}", "category": "transaction", "idempotency_key": f"{number}"}
            for user in users
        ),
        *({"user_id": user, "title": "x", "channels": ["sms"], "idempotency_key": f"d{number}"} for user in users[:2]),
    ]


def test_a_copy_made_under_load_has_all_that_was_acknowledged_before(service: RunningDispatcher, target: Path) -> None:
    before = [service.client.submit(*notifications(number))["ids"] for number in range(20)]
    service.request("template.put", name="greeting", parts={"title": "Hello"})
    stop, last = threading.Event(), [20]

    def go_on() -> None:
        with SubmitClient(service.submit) as client:
            while not stop.is_set():
                client.submit(*notifications(last[0]))
                last[0] += 1

    load = threading.Thread(target=go_on)
    load.start()
    try:
        assert "MiB in" in backed_up(service, target)
    finally:
        stop.set()
        load.join()
    assert all(
        stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        for path in (target, *target.rglob("*"))
    )
    is_whole(target)
    assert service.request("stats")["conserved"], "the original goes on"
    new = service.client.submit({"user_id": "ann", "title": "after"})["ids"][0]
    service.stop()
    is_whole(service.data_dir)
    service.data_dir = target
    service.start()
    for number, ids in enumerate(before):
        assert service.client.submit(*notifications(number))["ids"] == ids
    stats = service.request("stats")
    assert stats["conserved"]
    assert [item["name"] for item in service.request("template.list")["items"]] == ["greeting"]
    dead = sum(stats["dead_letters"].values())
    assert dead >= 40
    wait_until(lambda: service.request("stats")["collector"]["dead_letters"] == dead, what="the collector")
    # the original has given this id meanwhile: here it means nothing, and is not given again
    assert service.client.refused("status", id=new)["code"] == "not_found"
    assert service.client.submit({"user_id": "ann", "title": "other"})["ids"][0] != new
    wait_until(lambda: service.request("stats")["shards"][0]["outbox"] is not None)


def test_a_stopped_or_killed_one_is_copied_as_well(service: RunningDispatcher, target: Path) -> None:
    ids = service.client.submit(*notifications(1))["ids"]
    service.kill()
    backed_up(service, target)
    is_whole(target)
    service.data_dir = target
    service.start()
    assert service.client.submit(*notifications(1))["ids"] == ids


def test_a_copy_on_another_file_system(
    service: RunningDispatcher, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    service.client.submit(*notifications(1))
    service.stop()
    monkeypatch.setattr(os, "copy_file_range", refuse)
    with Client(service.submit) as client:
        assert backup(service.data_dir, target, client) > 0
    is_whole(target)


def test_a_shard_that_dies_meanwhile_spoils_the_copy(service: RunningDispatcher) -> None:
    began = service.request("backup.begin", id="one")
    assert [shard["shard"] for shard in began["shards"]] == [0, 1]
    os.kill(service.child_pids()["shard 1"], signal.SIGKILL)

    def answer() -> Any:
        found = service.client.exchange({"op": "backup.end", "id": "one"}, as_json=False)
        return found if found["ok"] else None

    assert wait_until(answer, 30, "the end")["shards"][1]["held"] is False


def test_a_later_backup_takes_over(service: RunningDispatcher) -> None:
    service.request("backup.begin", id="one")
    service.request("backup.begin", id="two")
    assert [shard["held"] for shard in service.request("backup.end", id="one")["shards"]] == [False, False]
    assert [shard["held"] for shard in service.request("backup.end", id="two")["shards"]] == [True, True]


def test_the_main_file_is_left_alone_meanwhile(service: RunningDispatcher) -> None:
    service.request("backup.begin", id="one")
    journals = [service.data_dir / f"shard-{shard}.db" for shard in range(2)]
    before = [path.read_bytes() for path in journals]
    body = [{**one, "body": "x" * 30_000} for number in range(20) for one in notifications(number)]
    for at in range(0, len(body), 20):
        service.client.submit(*body[at : at + 20])
    assert [path.read_bytes() for path in journals] == before
    service.request("backup.end", id="one")
    service.client.submit(*notifications(100))
    assert [path.read_bytes() for path in journals] != before


def test_what_cannot_be_copied(service: RunningDispatcher, target: Path) -> None:
    target.mkdir()
    (target / "something").touch()
    refused = command("backup", target, "--data-dir", service.data_dir, "--submit", service.submit)
    assert (refused.returncode, "not empty" in refused.stderr) == (1, True)
    shutil.rmtree(target)
    other = service.directory / "other"
    other.mkdir()
    refused = command("backup", target, "--data-dir", other, "--submit", service.submit)
    assert (refused.returncode, "no data directory" in refused.stderr) == (1, True)
    with RunningDispatcher(shards=2) as stranger:
        refused = command("backup", target, "--data-dir", service.data_dir, "--submit", stranger.submit)
    assert (refused.returncode, "does not use" in refused.stderr) == (1, True)
    assert not list(target.iterdir())
