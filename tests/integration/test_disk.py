"""The disk is full: nothing is acknowledged that is not on it, everybody is told, and it goes on when there is room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import SubmitClient
from tests.support.service import RunningDispatcher, wait_until

CONFIG = '[dispatcher]\nreceipt_timeout = "1s"\n[channels.push]\nprovider = "simulated"\n'
TRIES = 400


@pytest.fixture
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=2, durability="power") as running:
        yield running


def limit_files(pids: list[int], size: int) -> None:
    """No file of these processes may grow beyond so many bytes: what a full disk does to them."""
    for pid in pids:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


def numbered(number: int, count: int = 40) -> list[dict[str, Any]]:
    return [
        {
            "user_id": f"user-{one}",
            "title": f"{number}",
            "body": "x" * 500,
            "category": "transaction",
            "idempotency_key": f"{number}-{one}",
        }
        for one in range(count)
    ]


def fill_up(client: SubmitClient) -> tuple[dict[int, Any], str]:
    """Submits until one is refused: the receipts before, and the refusal."""
    receipts: dict[int, Any] = {}
    for number in range(TRIES):
        answer = client.exchange({"op": "submit", "notifications": numbered(number)}, as_json=False)
        if not answer["ok"]:
            return receipts, str(answer["error"]["code"])
        receipts[number] = answer["ids"]
    raise AssertionError("the disk does not get full")


def test_a_shard_without_room_says_so_and_goes_on_when_there_is(service: RunningDispatcher) -> None:
    pids = service.child_pids()
    shards = [pid for role, pid in pids.items() if role.startswith("shard")]
    limit_files(shards, 3_000_000)
    receipts, code = fill_up(service.client)
    assert code == "unavailable"
    assert receipts
    # nothing is acknowledged while it lasts, and that is said at once
    again = service.client.exchange({"op": "submit", "notifications": numbered(TRIES)}, as_json=False)
    assert not again["ok"]
    stats = wait_until(lambda: found if (found := service.request("stats"))["not_responding"] else None)
    assert "disk" in stats["reasons"][stats["not_responding"][0]]
    limit_files(shards, resource.RLIM_INFINITY)
    last = max(receipts) + 1

    def taken() -> Any:
        answer = service.client.exchange({"op": "submit", "notifications": numbered(last)}, as_json=False)
        return answer if answer["ok"] else None

    answer = wait_until(taken, 30, "a receipt after the disk has room")
    receipts[last] = answer["ids"]
    assert service.child_pids() == pids, "nobody died of it"
    stats = service.settled_stats(30)
    assert stats["conserved"]
    service.kill()
    service.start()
    for number, ids in receipts.items():
        assert service.client.submit(*numbered(number))["ids"] == ids, "what was acknowledged is there"
    assert not list(service.data_dir.glob("quarantine/*"))


def test_the_collector_without_room_confirms_nothing_and_loses_nothing(service: RunningDispatcher) -> None:
    pids = service.child_pids()
    limit_files([pids["collector"]], 200_000)
    dead = [{"user_id": f"user-{one}", "title": "x" * 300, "channels": ["sms"]} for one in range(500)]
    for _ in range(4):
        service.client.submit(*dead)
    wait_until(lambda: "nothing is confirmed" in service.log(), 30, "the collector to be full")
    stats = service.request("stats")
    assert stats["conserved"]
    assert stats["collector"]["dead_letters"] < 2_000
    limit_files([pids["collector"]], resource.RLIM_INFINITY)
    wait_until(lambda: service.request("stats")["collector"]["dead_letters"] == 2_000, 30, "all dead letters")
    assert service.child_pids() == pids, "nobody died of it"


def test_the_collector_waits_for_room_at_its_start(service: RunningDispatcher, tmp_path: Path) -> None:
    service.stop()
    database = service.data_dir / "collector.db"
    database.unlink()
    database.mkdir()  # as good as a disk without room: it cannot be opened
    service.start()
    refusal = service.client.refused("dead.list")
    assert refusal["code"] == "unavailable"
    assert service.request("stats")["not_responding"] == ["collector"]
    service.client.submit({"user_id": "ann", "title": "x", "channels": ["sms"]})
    database.rmdir()
    wait_until(lambda: service.client.exchange({"op": "dead.list"}, as_json=False).get("items"), 30, "the dead letter")
