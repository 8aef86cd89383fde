"""A delivery that ends its shard's process: a dead letter after three deaths, while everybody else is served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.service import ROOT, RunningDispatcher, wait_until

PATIENCE_S = 60.0
POISONS = 5  # more deaths than a crash loop takes
CONFIG = """
[channels.email]
provider = "simulated"
latency = "20ms"
concurrency = 8
"""


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    running = RunningDispatcher(CONFIG, shards=1)
    poisonous = ROOT / "tests" / "support" / "poisonous"
    running.environment = {"PYTHONPATH": os.pathsep.join((str(poisonous), str(ROOT)))}
    with running:
        yield running


def mail(user: str, number: int) -> dict[str, Any]:
    return {"user_id": user, "title": f"n{number}", "channels": ["email"], "idempotency_key": f"{user}-{number}"}


def ended(service: RunningDispatcher, id: str) -> dict[str, Any]:
    """The delivery, once it is final."""

    def final() -> dict[str, Any] | None:
        answer = service.client.exchange({"op": "status", "id": id}, as_json=True)  # unavailable now and then
        found = answer["deliveries"][0] if answer["ok"] else None
        return found if found and found["outcome"] in ("delivered", "dead") else None

    return wait_until(final, PATIENCE_S, f"the end of {id}")


def test_poison_is_a_dead_letter_and_others_are_delivered(service: RunningDispatcher) -> None:
    batch = [
        mail(f"poison-{number % POISONS}" if number % 20 == 7 else f"user-{number}", number)
        for number in range(20 * POISONS)
    ]
    answer = service.client.submit(*batch)
    outcomes = {one["user_id"]: ended(service, id) for one, id in zip(batch, answer["ids"], strict=True)}
    for user, found in outcomes.items():
        if user.startswith("poison-"):
            assert (found["outcome"], found["reason"]) == ("dead", "poison"), user
            assert "died 3 times" in found["last_error"]
        else:
            assert found["outcome"] == "delivered", user
    stats = service.settled_stats(PATIENCE_S)
    assert stats["dead_letters"] == {"poison": POISONS}
    assert stats["conserved"]
    assert stats["shards"][0]["suspects"] == 0


def test_a_replayed_poison_is_given_up_again(service: RunningDispatcher) -> None:
    id = service.client.submit(mail("poison-x", 1_000))["ids"][0]
    assert ended(service, id)["reason"] == "poison"

    def died_at() -> int:
        found = service.client.exchange({"op": "dead.list", "id": id}, as_json=True)
        return int(found["items"][0]["died_at"]) if found["ok"] and found["items"] else 0

    first = wait_until(died_at, PATIENCE_S, "the collector has it")
    service.client.exchange({"op": "dead.replay", "id": id}, as_json=True)  # the answer may die with the shard
    wait_until(lambda: died_at() > first, PATIENCE_S, "the collector has it again")
    assert ended(service, id)["reason"] == "poison"
