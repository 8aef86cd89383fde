"""What waits, and what was gathered, survives the kill of anything, and any number of shards; it is sent once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.service import ROOT, RunningDispatcher, wait_until

USERS = [f"user-{number}" for number in range(8)]
SOON_S = 5
FAILS = "failure_rate = 1.0\n"
CONFIG = f"""
[dispatcher]
drain = "200ms"
[retry]
max_retries = 0
[categories]
feed = {{ channels = ["inapp"] }}
broken = {{ channels = ["failing"] }}
[channels.email]
provider = "simulated"
[channels.capped]
provider = "simulated"
[channels.slow]
provider = "simulated"
latency = "1h"
concurrency = 1000
[channels.failing]
provider = "simulated"
{FAILS}
[caps.few]
limit = 1
window = "24h"
channels = ["capped"]
[digests]
feed = {{ template = "feed", window = "{SOON_S}s", categories = ["feed"] }}
broken = {{ template = "broken", window = "1s", categories = ["broken"] }}
"""


@pytest.fixture
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=2) as running:
        yield running


def everywhere(service: RunningDispatcher, key: str, **fields: Any) -> dict[str, str]:
    """One notification to each user: the ids by user."""
    answer = service.client.submit({"recipients": USERS, "title": key, "idempotency_key": key, **fields})
    assert answer["accepted"] == len(USERS)
    return dict(zip(USERS, answer["ids"][0], strict=True))


def outcomes(service: RunningDispatcher, key: str) -> set[str]:
    """Of all users' deliveries."""
    found = [service.request("status", user_id=user, idempotency_key=key)["deliveries"] for user in USERS]
    return {one["outcome"] for deliveries in found for one in deliveries}


def wait_for(service: RunningDispatcher, key: str, outcome: str) -> None:
    wait_until(lambda: outcomes(service, key) == {outcome}, 30, f"{key} is {outcome} everywhere")


def kill_shards(service: RunningDispatcher) -> None:
    """Each in its turn; returns when the last one's successor answers."""
    for role, pid in service.child_pids().items():
        if role.startswith("shard"):
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: pid not in service.child_pids().values(), 30, f"the successor of {role}")  # type: ignore[misc]
    wait_until(lambda: not service.request("stats")["not_responding"], 30, "all shards answer")


def restart(service: RunningDispatcher, shards: int) -> None:
    """What is on the disk is consistent in between."""
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "check", "--data-dir", str(service.data_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    service.shards = shards
    service.start(60)


def test_across_kills_and_numbers_of_shards(service: RunningDispatcher) -> None:
    here = datetime.now(UTC)
    quiet = {"start": f"{here - timedelta(hours=1):%H:%M}", "end": f"{here + timedelta(hours=2):%H:%M}"}
    for number in range(6):
        everywhere(service, f"item-{number}", category="feed")
    soon_ms = time.time_ns() // 1_000_000 + SOON_S * 1_000
    everywhere(service, "soon", channels=["inapp", "email"], send_at=soon_ms)
    everywhere(service, "far", channels=["email"], send_at=soon_ms + 3_600_000)
    everywhere(service, "stale", channels=["email"], send_at=soon_ms + 3_600_000, expires_at=soon_ms)
    for number in range(3):
        everywhere(service, f"broken-{number}", category="broken")
    cancelled = everywhere(service, "cancelled", channels=["inapp", "email"], send_at=soon_ms)
    for user in USERS:
        service.request("user.put", user_id=user, user={"timezone": "UTC", "preferences": {"quiet_hours": quiet}})
    everywhere(service, "quiet", channels=["email"])
    for user in USERS:
        service.request("user.put", user_id=user, user={})
    everywhere(service, "capped", channels=["capped"], priority="critical")
    flying = everywhere(service, "flying", channels=["slow"], priority="critical")
    in_flight = len(USERS)
    wait_until(lambda: service.request("stats")["channels"]["slow"]["in_flight"] == in_flight, 20, "all are under way")
    for ids, count in ((cancelled, 2), (flying, 0)):
        assert [service.request("cancel", id=id)["cancelled"] for id in ids.values()] == [count] * len(USERS)
    service.request("cancel", user_id=USERS[0], idempotency_key="item-0")

    kill_shards(service)
    wait_for(service, "flying", "cancelled")
    everywhere(service, "capped again", channels=["capped"], priority="critical")
    wait_for(service, "capped again", "rate_limited")
    wait_for(service, "broken-0", "dead")
    service.stop()
    restart(service, 3)
    kill_shards(service)
    service.kill()
    service.config_file.write_text(service.config_file.read_text().replace(FAILS, ""))
    restart(service, 1)

    everywhere(service, "capped still", channels=["capped"], priority="critical")
    wait_for(service, "capped still", "rate_limited")
    wait_for(service, "soon", "delivered")
    wait_for(service, "stale", "expired")
    wait_for(service, "item-5", "delivered")
    for user in USERS:
        items = service.request("inbox.list", user_id=user)["items"]
        first = 1 if user == USERS[0] else 0
        (digest,) = [one for one in items if one["template"] == "feed"]
        assert [one["title"] for one in digest["payload"]["items"]] == [f"item-{n}" for n in range(first, 6)]
        assert sorted(one["title"] for one in items if one is not digest) == ["soon"]
    assert outcomes(service, "far") == outcomes(service, "quiet") == {"deferred"}
    assert outcomes(service, "cancelled") == {"cancelled"}
    letters = service.request("dead.list", channel="failing")["items"]
    assert len(letters) == len(USERS)
    assert {len(one["notification"]["payload"]["items"]) for one in letters} == {3}
    assert service.request("dead.replay", channel="failing")["count"] == len(USERS)
    for number in range(3):
        wait_for(service, f"broken-{number}", "delivered")
    assert service.request("cancel", user_id=USERS[1], idempotency_key="far")["cancelled"] == 1
    stats = service.request("stats")
    assert stats["conserved"]
    assert [shard["quarantined"] for shard in stats["shards"]] == [[]]
    assert stats["channels"]["failing"]["attempts"] == 2 * len(USERS)
