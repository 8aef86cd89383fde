"""Configured rules and keys of content, through a running service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.service import RunningDispatcher, wait_until

CONFIG = """
[channels.email]
provider = "simulated"
[channels.sms]
provider = "simulated"
[categories.orders]
extends = "transaction"
channels = ["email", "inapp"]
[categories.news]
extends = "marketing"
channels = ["inapp"]
content_key = "{user_id}:{title}"
[[rules]]
name = "large orders"
when = "payload.amount > 1000"
categories = ["orders"]
channels = ["sms", "inapp"]
[[rules]]
name = "vip"
when = "metadata.tier == 'vip'"
categories = ["orders", "news"]
channels = ["email"]
[[rules]]
name = "far away"
when = "local.hour != now.getHours()"
categories = ["system"]
channels = ["sms"]
[[rules]]
name = "french"
when = "locale == 'fr-CA'"
categories = ["system"]
channels = ["email"]
"""


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG) as running:
        yield running


def outcomes(service: RunningDispatcher, id: str) -> dict[str, str]:
    def settled() -> dict[str, str] | None:
        found = {one["channel"]: one["outcome"] for one in service.request("status", id=id)["deliveries"]}
        return None if "pending" in found.values() else found

    return wait_until(settled)


@pytest.mark.parametrize(
    ("fields", "channels"),
    [
        ({"payload": {"amount": 2000}}, ["sms", "inapp"]),
        ({"payload": {"amount": 20}}, ["email", "inapp"]),
        ({"payload": {"amount": "many"}}, ["email", "inapp"]),
        ({"metadata": {"tier": "vip"}}, ["email"]),
        ({"payload": {"amount": 2000}, "metadata": {"tier": "vip"}}, ["sms", "inapp"]),
        ({"payload": {"amount": 2000}, "channels": ["email"]}, ["email"]),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_rule_by_the_payload_decides_the_channels(
    service: RunningDispatcher, fields: dict[str, Any], channels: list[str], as_json: bool
) -> None:
    notification = {"user_id": "ada", "category": "orders", "title": "t", **fields}
    answer = service.client.exchange({"op": "submit", "notifications": [notification]}, as_json=as_json)
    assert outcomes(service, answer["ids"][0]) == dict.fromkeys(channels, "delivered")


def test_of_a_batch_each_goes_its_own_way(service: RunningDispatcher) -> None:
    large = {"user_id": "ada", "category": "orders", "title": "t", "payload": {"amount": 2000}}
    plain = {"user_id": "ada", "title": "t"}
    ids = service.client.submit(large, plain, {**large, "payload": {}})["ids"]
    assert [list(outcomes(service, id)) for id in ids] == [["sms", "inapp"], ["inapp"], ["email", "inapp"]]


@pytest.mark.parametrize(
    ("document", "channel"),
    [({"timezone": "Asia/Kolkata"}, "sms"), ({"timezone": "UTC", "locale": "fr-CA"}, "email"), ({}, "inapp")],
)
def test_a_rule_knows_where_the_user_is(service: RunningDispatcher, document: dict[str, str], channel: str) -> None:
    service.request("user.put", user_id="eve", user=document)
    (id,) = service.client.submit({"user_id": "eve", "title": "t"})["ids"]
    assert list(outcomes(service, id)) == [channel]


def test_content_stands_in_for_a_key(service: RunningDispatcher) -> None:
    news = {"user_id": "bob", "category": "news", "title": "Opening"}
    first = service.client.submit(news, {**news, "title": "Closing"})
    again = service.client.submit(news, {**news, "body": "Today"}, {**news, "user_id": "eve"}, {**news, "title": "New"})
    assert (first["accepted"], again["accepted"], again["duplicates"]) == (2, 2, 2)
    assert again["duplicate"] == [{"index": 0, "mismatch": False}, {"index": 1, "mismatch": True}]
    assert again["ids"][:2] == [first["ids"][0]] * 2


def test_a_key_of_content_survives_the_shards(service: RunningDispatcher) -> None:
    news = {"user_id": "dan", "category": "news", "title": "Opening"}
    (id,) = service.client.submit(news)["ids"]
    service.kill()
    service.start()
    answer = service.client.submit(news)
    assert (answer["duplicates"], answer["ids"]) == (1, [id])


def test_a_condition_without_an_answer_is_counted_and_told_once(service: RunningDispatcher) -> None:
    orders = [{"user_id": f"user-{number}", "category": "orders", "title": "t"} for number in range(50)]
    answer = service.client.submit(*orders)
    assert answer["accepted"] == 50
    shards = service.request("stats")["shards"]
    assert sum(shard["rule_failures"]["large orders"] for shard in shards) >= 50

    def told() -> list[tuple[str, int]]:
        lines = [line for line in service.events() if line["event"] == "a rule has no answer, so no match"]
        return [(line["process"], line["pid"]) for line in lines if line["rule"] == "large orders"]

    living = {(name, pid) for name, pid in service.child_pids().items() if name.startswith("shard")}
    wait_until(lambda: living <= set(told()), what="both shards tell of it")
    assert len(told()) == len(set(told()))
    assert "there is no key 'amount'" in json.dumps(service.events())
