"""Another number of shards: everything that was there is there afterwards, whoever is killed on the way."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.support.service import ROOT, RunningDispatcher, wait_until

USERS = [f"user-{number}" for number in range(12)]
CONFIG = """
[retry]
max_retries = 5
base = "1h"
max = "2h"
jitter = "none"
[channels.email]
provider = "simulated"
failure_rate = 1.0
"""
SLOW = '[channels.push]\nprovider = "simulated"\nconcurrency = 1\nlatency = "1h"\n'
FAST = '[channels.push]\nprovider = "simulated"\n[channels.sms]\nprovider = "simulated"\n'


def batch(number: int) -> list[dict[str, Any]]:
    """To each user alone, and to all of them at once; of every kind that leaves something behind."""
    notifications: list[dict[str, Any]] = [
        {"user_id": user, "category": "transaction", "title": f"{number}", "idempotency_key": f"one-{number}"}
        for user in USERS
    ]
    notifications.append({"recipients": USERS, "title": f"all {number}", "idempotency_key": f"all-{number}"})
    notifications += [
        {"user_id": user, "channels": ["sms"], "title": "dead", "idempotency_key": f"dead-{number}"}
        for user in USERS[:5]
    ]
    return notifications


def fill(service: RunningDispatcher) -> None:
    for user in USERS[:6]:
        service.request("user.put", user_id=user, user={"preferences": {"channels": {"push": False}}})
    for number in range(5):
        as_json = number % 2 == 0
        answer = service.client.exchange({"op": "submit", "notifications": batch(number)}, as_json=as_json)
        assert answer["ok"]
        assert not answer["rejected"]
    service.client.submit(*batch(0)[:3])  # duplicates
    bad = [{"user_id": USERS[1], "title": "x", "category": "nonesuch"}, {"user_id": USERS[2], "title": "good"}]
    service.ingested(msgspec.json.encode(bad), b"\xff\xfe")
    wait_until(lambda: service.request("stats")["dead_letters"].get("rejected") == 2, what="rejections")
    for user in USERS[:3]:
        entry = service.request("inbox.list", user_id=user)["items"][1]
        service.request("inbox.mark", user_id=user, ids=[entry["id"]], state="read")
    settled(service)


def settled(service: RunningDispatcher) -> None:
    """Nothing changes any more: every email has failed once, the collector has every dead letter."""

    def is_so() -> bool:
        stats = service.request("stats")
        email = stats["channels"]["email"]
        return bool(
            email["planned"] == email["retrying"] == 12 * 5
            and stats["collector"]["dead_letters"] == sum(stats["dead_letters"].values())
        )

    wait_until(is_so, 20, "all failures")


def snapshot(service: RunningDispatcher) -> dict[str, Any]:
    """What a producer, a user and an operator can see."""
    stats = service.request("stats")
    assert stats["conserved"]
    for shard in stats["shards"]:
        assert shard["quarantined"] == []
    found: dict[str, Any] = {
        name: stats[name]
        for name in ("accepted", "duplicates", "rejected", "planned", "pending", "outcomes", "attempts", "dead_letters")
    }
    found["channels"] = {
        name: [channel[key] for key in ("planned", "attempts", "failed_attempts", "outcomes", "retrying")]
        for name, channel in stats["channels"].items()
    }
    keys = [f"{kind}-{number}" for kind in ("one", "all") for number in range(5)]
    for user in USERS:
        pages: list[dict[str, Any]] = []
        cursor: int | None = 0
        while cursor is not None:
            page = service.request("inbox.list", user_id=user, limit=3, cursor=cursor)
            pages.append(page)
            cursor = page["next"]
        by_key = [service.request("status", user_id=user, idempotency_key=key) for key in keys]
        by_id = [service.request("status", id=one["id"]) for one in by_key]
        assert by_id == by_key
        for delivery in (delivery for one in by_id for delivery in one["deliveries"]):
            del delivery["updated_at"]  # of what only the log has, a restart forgets it
        found[user] = {"inbox": pages, "status": by_id}
    for user in USERS[:6]:
        found[user]["document"] = service.request("user.get", user_id=user)
    found["dead"] = sorted(map(str, service.request("dead.list", limit=1000)["items"]))
    return found


def restart(service: RunningDispatcher, shards: int, config: str | None = None) -> None:
    service.shards = shards
    if config is not None:
        text = service.config_file.read_text()
        service.config_file.write_text(text[: text.index("[retry]")] + config.lstrip())
    service.start(60)


@pytest.fixture
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=1) as running:
        yield running


class Filled(NamedTuple):
    data_dir: Path
    snapshot: dict[str, Any]


@pytest.fixture(scope="module")
def filled() -> Iterator[Filled]:
    """What each test begins with a copy of."""
    with RunningDispatcher(CONFIG, shards=1) as running:
        fill(running)
        seen = snapshot(running)
        running.stop()
        yield Filled(running.data_dir, seen)


@pytest.fixture
def expected(filled: Filled) -> dict[str, Any]:
    """The snapshot of what ``stopped`` has."""
    return copy.deepcopy(filled.snapshot)


@pytest.fixture
def stopped(filled: Filled) -> Iterator[RunningDispatcher]:
    """One that is not running, and has been used."""
    made = RunningDispatcher(CONFIG, shards=1)
    shutil.copytree(filled.data_dir, made.data_dir, ignore=shutil.ignore_patterns("run"))  # which has sockets
    try:
        yield made
        made.stop()
    finally:
        made.kill()
        shutil.rmtree(made.directory)


def journals(service: RunningDispatcher) -> set[str]:
    return {str(path.relative_to(service.data_dir)) for path in service.data_dir.rglob("*.db")} - {"collector.db"}


def test_everything_is_the_same_with_any_number_of_shards(stopped: RunningDispatcher, expected: dict[str, Any]) -> None:
    service = stopped
    for shards in (3, 2, 8):
        service.stop()
        restart(service, shards)
        assert journals(service) == {f"shards-{shards}/shard-{number}.db" for number in range(shards)}
        settled(service)
        assert snapshot(service) == expected
        # what is new goes on from what there was
        again = service.client.submit(*batch(3)[:13])
        assert again["duplicates"] == 13 + len(USERS) - 1
        ids = [expected[user]["status"][3]["id"] for user in USERS]
        assert again["ids"][:12] == ids
        expected["duplicates"] += again["duplicates"]
        assert snapshot(service) == expected
    cursor = service.request("inbox.list", user_id=USERS[0], limit=1000)["items"][-1]["cursor"]
    service.client.submit({"user_id": USERS[0], "title": "new", "idempotency_key": "new"})
    assert service.request("inbox.list", user_id=USERS[0], cursor=cursor)["items"][0]["cursor"] == cursor + 1
    service.stop()
    # without a number the directory keeps its own; with sms configured, dead letters can be tried again
    restart(service, 5, CONFIG + FAST)
    assert service.request("dead.replay", channel="sms")["count"] == 25
    wait_until(lambda: service.request("stats")["channels"]["sms"]["outcomes"]["delivered"] == 25, what="replays")
    stats = service.request("stats")
    assert stats["conserved"]
    assert stats["dead_letters"] == {"rejected": 2}
    wait_until(lambda: service.request("stats")["collector"]["dead_letters"] == 2, what="the collector")


def test_deliveries_behind_a_slow_channel_move_along(service: RunningDispatcher) -> None:
    """Killed, not stopped: what was under way is a suspect, and is tried again all the same."""
    service.stop()
    restart(service, 2, CONFIG + SLOW)
    soon = int(time.time() * 1000) + 1_500
    pushes = [
        {"user_id": user, "channels": ["push"], "title": "x", "idempotency_key": f"push-{number}"}
        for number in range(20)
        for user in USERS
    ]
    late = [{**one, "expires_at": soon, "idempotency_key": "late"} for one in pushes[:12]]
    ids = service.client.submit(*pushes, *late)["ids"]
    wait_until(lambda: service.request("stats")["channels"]["push"]["in_flight"] == 2, what="two under way")
    service.kill()
    wait_until(lambda: time.time() * 1000 > soon, what="the expiry")
    restart(service, 3, CONFIG + FAST)
    stats = service.settled_stats(30)
    assert stats["conserved"]
    assert stats["channels"]["push"]["outcomes"]["delivered"] == len(pushes)
    assert stats["channels"]["push"]["outcomes"]["expired"] == len(late)
    assert service.request("status", id=ids[0])["deliveries"][0]["outcome"] == "delivered"
    assert service.request("status", id=ids[-1])["deliveries"][0]["outcome"] == "expired"


@pytest.mark.parametrize("point", ["beginning", "journals", "before the swap", "after the swap"])
def test_a_kill_on_the_way_changes_nothing(stopped: RunningDispatcher, expected: dict[str, Any], point: str) -> None:
    service = stopped
    code = subprocess.run(
        [sys.executable, "-c", KILLED, point, str(service.data_dir)],
        cwd=ROOT,
        timeout=60,
        check=False,
    ).returncode
    assert code == -9
    restart(service, 3)
    settled(service)
    assert snapshot(service) == expected
    assert journals(service) == {f"shards-3/shard-{number}.db" for number in range(3)}


# a supervisor that kills itself at one point of its way through a re-sharding
KILLED = """
import os, signal, sys
from dispatcher import reshard
from dispatcher.settings import load
from dispatcher.supervisor import Supervisor
from shards.target import Target
point, data_dir = sys.argv[1:]
def killing(function, after=False):
    def wrapped(*args, **options):
        if after:
            function(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapped
match point:
    case "beginning":
        Target.add_frame = killing(Target.add_frame)
    case "journals":
        Target.finish = killing(Target.finish, after=True)
    case "before the swap":
        make_anew = reshard.make_anew
        reshard.make_anew = killing(make_anew, after=True)
    case "after the swap":
        remove, calls = reshard.remove_leftovers, []
        def second(*args):
            calls.append(args)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            remove(*args)
        reshard.remove_leftovers = second
Supervisor(load(None, {}, {"dispatcher": {"shards": 3, "data_dir": data_dir}})).run()
"""


def refused(service: RunningDispatcher, shards: int) -> str:
    """What it says when it does not start."""
    service.shards = shards
    with pytest.raises(AssertionError, match="exit code 1"):
        service.start()
    return service.log()


def test_a_damaged_journal_is_not_resharded(stopped: RunningDispatcher) -> None:
    service = stopped
    journal = service.data_dir / "shard-0.db"
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b"one-2", b"one=2"))
    damaged = journal.read_bytes()
    assert damaged != content
    assert "start with --shards 1" in refused(service, 2)
    assert journal.read_bytes() == damaged
    assert not list(service.data_dir.glob("shards-*"))
    restart(service, 1)
    assert wait_until(lambda: service.request("stats")["shards"][0]["quarantined"], what="the rescue")


def test_a_full_disk_leaves_the_old_journals(stopped: RunningDispatcher, expected: dict[str, Any]) -> None:
    service = stopped
    prlimit = shutil.which("prlimit")
    assert prlimit
    done = subprocess.run(
        [
            *(prlimit, "--fsize=40000", sys.executable, "-m", "dispatcher", "serve", "--shards", "3"),
            *("--config", str(service.config_file), "--data-dir", str(service.data_dir)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "nothing was changed" in done.stderr
    assert not list(service.data_dir.glob("shards-*"))
    restart(service, 1)
    settled(service)
    assert snapshot(service) == expected


def test_a_new_installation_is_not_resharded(tmp_path: Path) -> None:
    with RunningDispatcher(shards=2) as running:
        assert journals(running) == {"shard-0.db", "shard-1.db"}
