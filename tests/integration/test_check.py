"""``check`` finds what is wrong with a data directory, says what to do, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import ROOT, RunningDispatcher, wait_until


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(shards=2) as running:
        for number in range(30):
            running.client.submit(
                {"recipients": ["ann", "bob", "eve"], "title": f"title {number}", "channels": ["inapp", "sms"]}
            )
        wait_until(lambda: running.request("stats")["collector"]["dead_letters"] == 90, what="dead letters")
        yield running


@pytest.fixture
def directory(service: RunningDispatcher, tmp_path: Path) -> Path:
    """As a clean stop leaves it."""
    service.stop()
    copy = tmp_path / "data"
    subprocess.run(["cp", "-a", service.data_dir, copy], check=True, timeout=60)
    return copy


def check(directory: Path) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "check", "--json", "--data-dir", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def fingerprint(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


def problems(directory: Path) -> dict[str, str]:
    """By file, of those that have any; nothing is changed by looking."""
    before = fingerprint(directory)
    code, answer = check(directory)
    assert fingerprint(directory) == before
    found = {one["file"]: " ".join(one["problems"]) for one in answer["files"] if one["problems"]}
    assert code == (1 if found else 0)
    assert all(one["remedy"] for one in answer["files"] if one["problems"])
    return found


def test_one_that_is_in_use_is_not_looked_at(service: RunningDispatcher) -> None:
    code, answer = check(service.data_dir)
    assert code == 2
    assert "in use" in answer["error"]


def test_what_is_no_data_directory(tmp_path: Path) -> None:
    code, answer = check(tmp_path)
    assert code == 2
    assert "no data directory" in answer["error"]


def test_a_clean_one(directory: Path) -> None:
    assert problems(directory) == {}


def test_one_that_was_killed(service: RunningDispatcher, tmp_path: Path) -> None:
    if service.process is None:
        service.start()
    service.client.submit({"user_id": "ann", "title": "x"})
    service.kill()
    assert list(service.data_dir.glob("*-wal"))
    assert problems(service.data_dir) == {}


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE frames SET body = x'90' WHERE seq = 3", "table frames"),
        ("DELETE FROM ledger WHERE seq = 4", "frame 4 has no ledger"),
        ("DELETE FROM frames WHERE seq = 5", "frame 5 is lost"),
        ("DELETE FROM dead WHERE seq = 6", "counts 30 dead letters"),
        ("DELETE FROM state", "counters are missing"),
        ("UPDATE meta SET value = 'other' WHERE key = 'generation'", "table meta is damaged"),
        ("DROP INDEX open_frames", "list of its tables"),
    ],
)
def test_a_journal_that_does_not_add_up(directory: Path, statement: str, says: str) -> None:
    journal = min(directory.glob("shard-*.db"), key=lambda path: -path.stat().st_size)
    if "counts 30" in says:
        says = "dead letters of reason"
    with sqlite3.connect(journal) as database:
        database.execute(statement)
    database.close()
    found = problems(directory)
    assert says in found[journal.name], found


def test_a_journal_that_ends_too_early(directory: Path) -> None:
    journal = next(directory.glob("shard-*.db"))
    witness = journal.with_suffix(".witness")
    content = witness.read_bytes()
    other = next(path for path in directory.glob("shard-*.witness") if path != witness)
    witness.write_bytes(other.read_bytes())
    assert "its witness says" in problems(directory)[journal.name]
    witness.write_bytes(content)
    journal.unlink()
    assert "missing" in problems(directory)[journal.name]


def test_the_other_files(directory: Path) -> None:
    with sqlite3.connect(directory / "collector.db") as database:
        database.execute("DELETE FROM dead_letters WHERE rowid = 1")
    database.close()
    (directory / "epoch").write_text("soon")
    (directory / "shard-0.db").chmod(0o644)
    found = problems(directory)
    assert "has 1 not" in found["collector.db"]
    assert "cannot be read" in found["epoch"]
    assert "shard-0.db" in found["."]
    (directory / "identity.json").write_text("{}")
    assert "cannot be read" in problems(directory)["identity.json"]
