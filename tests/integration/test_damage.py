"""Damaged, older and newer journals under the real service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dispatcher import report
from shards.schema import PAGE_BYTES
from tests.support.service import ROOT, RunningDispatcher, wait_until

FIXTURES = ROOT / "tests" / "fixtures"
CONFIG = """
[retry]
max_retries = 5
base = "1h"
max = "2h"
[channels.email]
provider = "simulated"
failure_rate = 1.0
[channels.webhook]
provider = "simulated"
failure_rate = 1.0
[channels.push]
provider = "simulated"
"""
PAGE = 4096


@pytest.fixture
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=1) as running:
        yield running


def notification(number: int) -> dict[str, Any]:
    return {
        "user_id": f"user-{number % 5}",
        "title": f"title {number}",
        "body": "x" * 400,
        "category": "transaction",
        "idempotency_key": f"key-{number}",
    }


def fill(service: RunningDispatcher, count: int = 60) -> list[str]:
    ids = [service.client.submit(notification(number))["ids"][0] for number in range(count)]
    wait_until(lambda: service.request("stats")["channels"]["email"]["retrying"] == count, what="all attempts")
    return ids


def found(service: RunningDispatcher, ids: list[str]) -> list[bool]:
    answers = service.client.pipelined(*({"op": "status", "id": one} for one in ids))
    return [answer["ok"] for answer in answers]


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1,)))


def live_bytes(log: Path) -> int:
    """Up to where a log is in use: what is behind is left from before the last checkpoint."""
    content = log.read_bytes()
    salts, end = content[16:24], 32
    while content[end + 8 : end + 16] == salts:
        end += 24 + PAGE_BYTES
    return end


def rescued_stats(service: RunningDispatcher) -> dict[str, Any]:
    """Stats once a damaged journal was put aside."""

    def stats() -> dict[str, Any] | None:
        answer = service.client.exchange({"op": "stats"}, as_json=False)
        return answer if answer["ok"] and answer["shards"] and answer["shards"][0]["quarantined"] else None

    return wait_until(stats, 30, "the rescue")


def test_a_bit_that_flips_while_it_is_stopped(service: RunningDispatcher) -> None:
    ids = fill(service)
    service.stop()
    journal = service.data_dir / "shard-0.db"
    flip(journal, journal.read_bytes().index(b"title 30"))
    service.start()
    stats = rescued_stats(service)
    assert stats["conserved"]
    kept = found(service, ids)
    assert kept.count(False) == 1
    assert not kept[30]
    # everything else is known, what is lost is taken again, and both have ids of their own
    answers = [service.client.submit(notification(number)) for number in (29, 30, 31)]
    assert [answer["duplicates"] for answer in answers] == [1, 0, 1]
    assert [answers[0]["ids"][0], answers[2]["ids"][0]] == [ids[29], ids[31]]
    assert answers[1]["ids"][0] not in ids
    (case,) = stats["shards"][0]["quarantined"]
    assert report.stats(stats).startswith(f"DAMAGED, put aside, each with a report: {case}\n")
    told = json.loads((service.data_dir / case / "report.json").read_text())
    assert told["gone"] == {"email": 1}
    assert any("seq 31" in line for line in told["lost"])
    (gone,) = [line for line in service.events() if line["event"] == "planned deliveries are gone"]
    assert (gone["channel"], gone["count"]) == ("email", 1)
    # it is said again at each start, until a person has dealt with it
    service.stop()
    service.log_file.unlink()
    service.start()
    assert [line["directory"] for line in service.events() if line["event"].startswith("a damaged journal")] == [case]
    shutil.rmtree(service.data_dir / "quarantine")
    service.stop()
    service.start()
    assert service.request("stats")["shards"][0]["quarantined"] == []


def test_a_log_that_is_cut_after_a_crash(service: RunningDispatcher) -> None:
    ids = fill(service)
    service.kill()
    log = service.data_dir / "shard-0.db-wal"
    with log.open("r+b") as file:
        file.truncate(live_bytes(log) * 2 // 3)
    service.start()
    stats = rescued_stats(service)
    assert stats["conserved"]
    kept = found(service, ids)
    assert any(kept)
    assert kept == sorted(kept, reverse=True), "the last ones are gone"
    assert "transactions" in service.log()
    again = service.client.submit(notification(100))["ids"][0]
    assert again not in ids
    assert again.split("-")[0] not in {one.split("-")[0] for one in ids}, "another generation"


def test_damage_that_is_found_while_it_runs(service: RunningDispatcher) -> None:
    """The router had receipts for what is lost: the link goes on by itself."""
    ids = fill(service)
    journal = service.data_dir / "shard-0.db"
    for at in range(PAGE, journal.stat().st_size, PAGE):
        flip(journal, at)
    log = service.data_dir / "shard-0.db-wal"
    for at in range(32 + 24, log.stat().st_size, PAGE + 24):
        flip(log, at)
    # what is in its cache stays good: a new process reads the disk
    pids = service.child_pids()
    os.kill(pids["shard 0"], signal.SIGKILL)
    stats = rescued_stats(service)
    assert stats["conserved"]
    assert not all(found(service, ids))
    answer = service.client.submit(notification(1_000))
    assert found(service, answer["ids"]) == [True]
    assert service.child_pids()["router"] == pids["router"]


def test_a_journal_that_is_missing(service: RunningDispatcher) -> None:
    fill(service, 5)
    service.stop()
    (service.data_dir / "shard-0.db").unlink()
    service.start()
    stats = rescued_stats(service)
    assert (stats["planned"], stats["conserved"]) == (0, True)
    assert "is missing" in service.log()


# --- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "shards"), [(1, 2), (1, 3), (2, 2), (2, 3), (3, 2), (3, 3)])
def test_an_older_format_is_brought_to_this_one(known: int, shards: int) -> None:
    """Made by older versions; ``expected.json`` beside it is what those answered."""
    service = RunningDispatcher(CONFIG, shards=shards)
    service.data_dir.mkdir(mode=0o700)
    with tarfile.open(FIXTURES / f"format-{known}.tar.xz") as archive:
        archive.extractall(service.directory, filter="data")
    for path in (service.directory / f"format-{known}").iterdir():
        path.rename(service.data_dir / path.name)
    expected = json.loads((service.data_dir / "expected.json").read_text())
    with service:
        stats = service.request("stats")
        assert stats["conserved"]
        for name, channel in expected["channels"].items():
            keys = ("planned",) if name == "email" else ("planned", "outcomes", "attempts")
            assert [stats["channels"][name][key] for key in keys] == [channel[key] for key in keys], name
        for user, inbox in expected["inbox"].items():
            items = [{**item, "template": None} for item in inbox["items"]]  # which versions before did not tell
            assert service.request("inbox.list", user_id=f"user-{user}") == {**inbox, "items": items}
        assert service.request("dead.list")["items"] == expected["dead"]
        ids = [one for known in expected["ids"].values() for one in (known if isinstance(known, list) else [known])]
        assert all(found(service, ids))


def test_a_newer_format_is_refused(service: RunningDispatcher) -> None:
    fill(service, 3)
    service.stop()
    journal = service.data_dir / "shard-0.db"
    script = (
        "import sys; from shards import schema; import sqlite3;"
        "d = sqlite3.connect(sys.argv[1]); d.isolation_level = None; schema.set_meta(d, 'format', 99); d.close()"
    )
    subprocess.run([sys.executable, "-c", script, str(journal)], cwd=ROOT, check=True, timeout=60)
    before = journal.read_bytes()
    with pytest.raises(AssertionError, match="exit code 2"):
        service.start()
    assert "has format 99" in service.log()
    assert journal.read_bytes() == before
    assert not (service.data_dir / "quarantine").exists()
    with closing(sqlite3.connect(journal)) as database:
        assert database.execute("SELECT value FROM meta WHERE key = 'format'").fetchone() == (99,)
