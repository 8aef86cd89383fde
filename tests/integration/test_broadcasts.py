"""A broadcast reaches each of its users exactly once, whoever is killed while it is expanded."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import pytest

from tests.support.client import SubmitClient
from tests.support.service import RunningDispatcher, wait_until

USERS = 10_000
BATCH = 1_000
ASKED_AT_ONCE = 100  # a busy machine answers so many before their time is over
# e-mail holds the pages up, so that there is time to kill somebody in the middle
CONFIG = """
[channels.email]
provider = "simulated"
latency = "60ms"
"""
EACH_S = 60.0


def subscribe(service: RunningDispatcher, topic: str) -> list[str]:
    names = [f"user-{number}" for number in range(USERS)]
    for first in range(0, USERS, BATCH):
        asked = [{"op": "topic.subscribe", "topic": topic, "user_id": name} for name in names[first : first + BATCH]]
        assert all(answer["subscribed"] for answer in service.client.pipelined(*asked))
    return names


def publish(service: RunningDispatcher, topic: str) -> str:
    notification = {"topic": topic, "title": "to all", "channels": ["email", "inapp"], "idempotency_key": "once"}
    return str(service.client.submit(notification)["ids"][0])


def reached(service: RunningDispatcher, id_: str) -> int:
    """How many users it was expanded to; it is not finished."""
    part = progress(service, id_)
    assert part["state"] in ("scheduled", "expanding"), part
    return int(part["users_done"])


def progress(service: RunningDispatcher, id_: str) -> dict[str, Any]:
    """What ``status`` says, as soon as all shards answer."""

    def asked() -> dict[str, Any] | None:
        with SubmitClient(service.submit, timeout_s=2.0) as client:
            try:
                answer = client.exchange({"op": "status", "id": id_}, as_json=False)
            except AssertionError:  # the router that had the question is no more
                return None
        return dict(answer["broadcast"]) if answer["ok"] else None

    return wait_until(asked, EACH_S, "the status")


def wait_for_more(service: RunningDispatcher, id_: str, more: int) -> None:
    before = reached(service, id_)
    wait_until(lambda: reached(service, id_) >= before + more, EACH_S, "progress")


def check_each_once(service: RunningDispatcher, id_: str, names: list[str]) -> None:
    wait_until(lambda: progress(service, id_)["state"] == "done", EACH_S, "the end")
    stats = service.settled_stats(EACH_S)
    assert stats["conserved"]
    found = progress(service, id_)
    assert (found["users_done"], found["users"], found["planned"]) == (USERS, USERS, 2 * USERS)
    assert found["outcomes"] == {"delivered": 2 * USERS}
    assert found["started_at"] <= found["finished_at"]
    counts: Counter[int] = Counter()
    for first in range(0, USERS, ASKED_AT_ONCE):
        asked = [{"op": "inbox.list", "user_id": name} for name in names[first : first + ASKED_AT_ONCE]]
        counts.update(len(answer["items"]) for answer in service.client.pipelined(*asked))
    assert counts == {1: USERS}
    again = service.client.submit(
        {"topic": found["topic"], "title": "to all", "channels": ["email", "inapp"], "id": "once"}
    )
    assert (again["duplicates"], again["ids"]) == (1, [id_])


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_kills_neither_skip_a_user_nor_repeat_one() -> None:
    with RunningDispatcher(CONFIG, shards=2) as service:
        names = subscribe(service, "news")
        id_ = publish(service, "news")
        for role in ("shard 0", "router", "shard 1", "router"):
            wait_for_more(service, id_, 200)
            os.kill(service.child_pids()[role], signal.SIGKILL)
        check_each_once(service, id_, names)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_another_number_of_shards_goes_on_where_each_user_was() -> None:
    with RunningDispatcher(CONFIG, shards=2) as service:
        names = subscribe(service, "news")
        id_ = publish(service, "*")
        for shards in (3, 1):
            wait_for_more(service, id_, 1_000)
            service.kill()
            service.shards = shards
            service.start()
        check_each_once(service, id_, names)
