"""Channels that are programs of the user's: ``channel.attach`` and ``channel.detach``, by a plain client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.client import SubmitClient
from tests.support.service import RunningDispatcher, wait_until
from tests.support.worker import Worker

PATIENCE_S = 60.0
# each test has a channel of its own where its state would be another's
CONFIG = """
[retry]
base = "10ms"
jitter = "none"
[templates]
allow_template_put = true
""" + "".join(
    f'[channels.{name}]\nprovider = "attached"\ntimeout = "{timeout}"\n{more}\n'
    for name, timeout, more in (
        ("pager", "30s", ""),
        ("idle", "30s", ""),
        ("shared", "30s", ""),
        ("ordered", "30s", "concurrency = 3"),
        ("refused", "30s", ""),
        ("left", "30s", ""),
        ("large", "30s", ""),
        ("crowded", "30s", ""),
        ("brief", "300ms", ""),
        ("held", "300ms", 'on_ambiguous = "hold"'),
    )
)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG) as running:
        yield running


@pytest.fixture
def worker(service: RunningDispatcher) -> Iterator[Callable[..., Worker]]:
    opened: list[Worker] = []

    def named(channel: str = "pager", name: str = "w") -> Worker:
        opened.append(Worker(service.submit, channel, name))
        return opened[-1]

    yield named
    for one in opened:
        one.close()


def send(service: RunningDispatcher, channel: str, user: str, **fields: Any) -> str:
    answer = service.client.submit({"user_id": user, "title": "t", "channels": [channel], **fields})
    assert answer["rejected"] == []
    return str(answer["ids"][0])


def status(service: RunningDispatcher, id: str) -> dict[str, Any]:
    return dict(service.request("status", id=id)["deliveries"][0])


def ended(service: RunningDispatcher, id: str, outcome: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        one = status(service, id)
        return one if one["outcome"] == outcome else None

    return wait_until(found, PATIENCE_S, f"{id} is {outcome}")


def channel(service: RunningDispatcher, name: str) -> dict[str, Any]:
    return dict(service.request("stats")["channels"][name])


# --- a delivery -------------------------------------------------------------------------------------------------------


def test_a_worker_is_given_all_that_a_channel_gets(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    contacts = {"email": "full@example.org", "other": {"pager": "4711"}}
    service.request("user.put", user_id="full", user={"contacts": contacts, "locale": "fr", "timezone": "Europe/Paris"})
    service.request(
        "template.put", name="disk", parts={"title": "Disk {{ disk }}", "text": "It is full.", "html": "<p>"}
    )
    id = send(
        service,
        "pager",
        "full",
        template="disk",
        payload={"disk": 3},
        metadata={"source": "cron"},
        category="transaction",
        type="warning",
        expires_at=4_102_444_800_000,
    )
    pager = worker()
    (given,) = pager.take()
    delivery = given["delivery"]
    assert delivery == {
        "id": f"{id}-pager",
        "notification_id": id,
        "channel": "pager",
        "attempt": 1,
        "recipient": {"user_id": "full", "contacts": contacts, "locale": "fr", "timezone": "Europe/Paris"},
        "category": "transaction",
        "type": "warning",
        "priority": "high",
        "title": "Disk 3",
        "text": "It is full.",
        "html": "<p>",
        "parts": {"title": "Disk 3", "text": "It is full.", "html": "<p>"},
        "payload": {"disk": 3},
        "metadata": {"source": "cron"},
        "created_ms": delivery["created_ms"],
        "expires_ms": 4_102_444_800_000,
        "collapse": None,
        "unsubscribable": False,
    }
    assert given["timeout_ms"] == 30_000
    assert (status(service, id)["outcome"], channel(service, "pager")["in_flight"]) == ("pending", 1)
    pager.settle([given], detail="paged")
    assert ended(service, id, "delivered")["attempts"] == 1


def test_json_by_a_req_socket(service: RunningDispatcher) -> None:
    id = send(service, "pager", "json", title="Zürich ☎", payload={"deep": [{"a": None}], "half": 0.5})
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.REQ) as socket:
        socket.set(zmq.LINGER, 0)
        socket.connect(service.submit)

        def call(**fields: Any) -> dict[str, Any]:
            socket.send_json({"op": "channel.attach", "channel": "pager", "worker": "req", **fields})
            assert socket.poll(int(PATIENCE_S * 1000))
            return dict(json.loads(socket.recv()))

        found = wait_until(lambda: call(limit=1, wait_ms=1_000, seq="a"), PATIENCE_S)
        assert (found["ok"], found["seq"]) == (True, "a")
        delivery = found["deliveries"][0]["delivery"]
        assert (delivery["title"], delivery["payload"]) == ("Zürich ☎", {"deep": [{"a": None}], "half": 0.5})
        call(limit=0, results=[{"token": found["deliveries"][0]["token"]}])
    context.term()
    assert ended(service, id, "delivered")["attempts"] == 1


def test_a_template_that_fails_is_no_workers_matter(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    service.request("template.put", name="picky", parts={"text": "{{ missing.key }}"})
    pager = worker()
    pager.attach(10)
    found = ended(service, send(service, "pager", "picky", template="picky"), "dead")
    assert (found["reason"], found["attempts"]) == ("template", 1)


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error_class", ["transient", "throttled", "ambiguous"])
def test_what_may_pass_is_tried_again(
    service: RunningDispatcher, worker: Callable[..., Worker], error_class: str
) -> None:
    id, pager = send(service, "pager", f"again-{error_class}"), worker()
    first = pager.take()
    pager.settle(first, error_class=error_class, message="the line is busy")
    (second,) = pager.take()
    assert second["delivery"]["attempt"] == 2
    assert second["delivery"]["id"] == first[0]["delivery"]["id"]
    assert status(service, id)["last_error"] == "the line is busy"
    pager.settle([second])
    assert ended(service, id, "delivered")["attempts"] == 2


def test_a_service_that_asks_for_patience_gets_it(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    id, pager = send(service, "pager", "patient"), worker()
    pager.settle(pager.take(), error_class="throttled", message="later", retry_after_ms=3_600_000)
    found = ended(service, id, "retrying")
    assert found["next_attempt_at"] - found["updated_at"] >= 3_500_000
    service.request("cancel", id=id)


def test_what_fails_for_good_is_a_dead_letter(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    id, pager = send(service, "pager", "for good"), worker()
    pager.settle(pager.take(), error_class="permanent", message="no such tone")
    found = ended(service, id, "dead")
    assert (found["reason"], found["last_error"]) == ("permanent", "no such tone")
    assert service.request("dead.replay", id=id)["count"] == 1
    (again,) = pager.take()
    assert again["delivery"]["attempt"] == 1
    pager.settle([again])
    ended(service, id, "delivered")


def test_contacts_that_do_not_work_are_not_used_again(
    service: RunningDispatcher, worker: Callable[..., Worker]
) -> None:
    service.request("user.put", user_id="moved", user={"contacts": {"other": {"pager": "1"}}})
    id, pager = send(service, "pager", "moved"), worker()
    pager.settle(pager.take(), error_class="bad_address", message="nobody has it", bad=["1"])
    assert ended(service, id, "dead")["reason"] == "bad_address"
    assert service.request("user.get", user_id="moved")["not_used"][0]["contact"] == "1"
    assert ended(service, send(service, "pager", "moved"), "suppressed")["reason"] == "bad_address"


def test_whom_a_worker_cannot_reach_is_suppressed(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    id, pager = send(service, "pager", "nobody"), worker()
    pager.settle(pager.take(), error_class="no_contact")
    found = ended(service, id, "suppressed")
    assert (found["reason"], found["attempts"]) == ("no_contact", 0)


def test_what_is_returned_counts_no_attempt(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    id, pager = send(service, "pager", "returned"), worker()
    pager.settle(pager.take(), error_class="returned")
    (again,) = pager.take()
    assert again["delivery"]["attempt"] == 1
    assert status(service, id)["attempts"] == 0
    pager.settle([again])
    assert ended(service, id, "delivered")["attempts"] == 1


def test_refused_credentials_pause_the_channel(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    id, refused = send(service, "refused", "u"), worker("refused")
    refused.settle(refused.take(), error_class="misconfigured", message="wrong password")
    wait_until(lambda: channel(service, "refused")["state"] in ("paused", "partly_paused"), PATIENCE_S)
    assert (status(service, id)["reason"], status(service, id)["attempts"]) == ("channel_paused", 0)
    service.request("channel.resume", channel="refused")
    refused.settle(refused.take())
    ended(service, id, "delivered")


def test_each_wrong_result_is_named_and_the_others_count(
    service: RunningDispatcher, worker: Callable[..., Worker]
) -> None:
    ids, pager = [send(service, "pager", f"wrong-{at}") for at in range(3)], worker()
    tokens = [one["token"] for one in pager.take(3)]
    results: list[Any] = [
        {"token": tokens[0]},
        {},
        {"token": 5},
        {"token": "no token"},
        {"token": "ffff-1"},
        {"token": tokens[1], "error_class": "nope"},
        {"token": tokens[1], "massage": "x"},
        {"token": tokens[1], "retry_after_ms": -1},
        {"token": tokens[1], "bad": "x"},
        "x",
        {"token": tokens[1]},
        {"token": tokens[2], "error_class": None, "detail": "fine", "bad": []},
    ]
    rejected = pager.attach(5, 20_000, results)["rejected"]  # is not kept waiting
    assert [(one["index"], one["error"]["code"], one["error"].get("field")) for one in rejected] == [
        (1, "bad_request", "results[1].token"),
        (2, "bad_value", "results[2].token"),
        (3, "bad_value", "results[3].token"),
        (4, "bad_value", "results[4].token"),
        (5, "bad_value", "results[5].error_class"),
        (6, "unknown_key", "results[6].massage"),
        (7, "bad_value", "results[7].retry_after_ms"),
        (8, "bad_value", "results[8].bad"),
        (9, "bad_value", "results[9]"),
    ]
    for id in ids:
        assert ended(service, id, "delivered")["attempts"] == 1
    pager.detach()


def test_a_result_counts_once_and_for_its_channel_alone(
    service: RunningDispatcher, worker: Callable[..., Worker]
) -> None:
    id, pager, other = send(service, "pager", "once"), worker(), worker("idle")
    (given,) = pager.take()
    token = given["token"]
    shard, number = token.split("-")
    strangers = [f"{shard}-{int(number, 16) + at:x}" for at in (-1, 1, 10_000)]
    assert other.attach(results=[{"token": token, "error_class": "permanent"}])["rejected"] == []
    assert pager.attach(results=[{"token": one, "error_class": "permanent"} for one in strangers])["rejected"] == []
    assert status(service, id)["outcome"] == "pending"
    pager.settle([given, given], error_class="transient")
    pager.settle([given], error_class="permanent")
    (again,) = pager.take()
    pager.settle([given], error_class="permanent")
    assert status(service, id)["outcome"] in ("pending", "retrying")
    pager.settle([again])
    assert ended(service, id, "delivered")["attempts"] == 2
    other.detach()


# --- who is there -----------------------------------------------------------------------------------------------------


def test_while_nobody_is_attached_deliveries_wait(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    wait_until(lambda: channel(service, "idle")["workers"] == 0, PATIENCE_S)
    before = channel(service, "idle")
    ids = [send(service, "idle", f"idle-{at}") for at in range(5)]
    found = channel(service, "idle")
    assert (found["state"], found["attempts"] - before["attempts"]) == ("no_worker", 0)
    assert found["in_flight"] == 0
    assert wait_until(lambda: channel(service, "idle")["queued"] == 5)
    for id in ids:
        told = service.request("status", id=id)
        assert [told["deliveries"][0][key] for key in ("outcome", "reason", "attempts")] == ["pending", "no_worker", 0]
        (decision,) = [decision for decision in told["decisions"] if decision["step"] == "channel"]
        assert (decision["result"], decision["reason"], decision["detail"]["why"]) == (
            "defer",
            "no_worker",
            "no_worker",
        )
    document = {"user_id": "x", "title": "t", "channels": ["idle"]}
    decisions = service.request("explain", notification=document)["decisions"]
    assert [decision["reason"] for decision in decisions[-2:]] == ["no_worker", "no_worker"]

    one = worker("idle")
    one.settle(one.take(5))
    for id in ids:
        assert ended(service, id, "delivered")["attempts"] == 1
    assert (channel(service, "idle")["state"], channel(service, "idle")["workers"]) == ("running", 1)
    assert (one.detach(), one.detach()) == (True, False)
    wait_until(lambda: channel(service, "idle")["state"] == "no_worker", PATIENCE_S)


def test_workers_share_by_what_they_have_room_for(service: RunningDispatcher) -> None:
    with SubmitClient(service.submit, PATIENCE_S) as client:
        call: dict[str, Any] = {"op": "channel.attach", "channel": "shared", "wait_ms": 30_000}
        ids = [send(service, "shared", f"shared-{at}") for at in range(40)]
        found = client.pipelined(*({**call, "worker": f"w{at}", "limit": 10} for at in range(4)))
        counts = [len(answer["deliveries"]) for answer in found]
        assert min(counts) >= 1, counts
        results = [{"token": one["token"]} for answer in found for one in answer["deliveries"]]
        while len(results) < 40:
            answer = client.request(**call, worker="w0", limit=40)
            results += [{"token": one["token"]} for one in answer["deliveries"]]
        client.request(**call | {"wait_ms": 0}, worker="w0", limit=0, results=results)
        for id in ids:
            assert ended(service, id, "delivered")["attempts"] == 1
        for at in range(4):
            client.request("channel.detach", channel="shared", worker=f"w{at}")


def test_the_most_urgent_go_first_and_concurrency_bounds_them(
    service: RunningDispatcher, worker: Callable[..., Worker]
) -> None:
    for priority in ("low", "normal", "high", "critical"):
        for _ in range(2):
            send(service, "ordered", "one", priority=priority)
    one = worker("ordered")
    seen: list[str] = []
    first = one.take(3)
    assert one.attach(10, 0)["deliveries"] == []  # three of one shard are with workers
    while first:
        seen += [given["delivery"]["priority"] for given in first]
        one.settle(first)
        first = one.take(min(3, 8 - len(seen)))
    assert seen == sorted(seen, key=("critical", "high", "normal", "low").index)
    one.detach()


def test_a_newer_call_ends_the_older_one(service: RunningDispatcher) -> None:
    with SubmitClient(service.submit, PATIENCE_S) as client:
        call = {"op": "channel.attach", "channel": "left", "worker": "twice", "limit": 5}
        older, newer = client.pipelined({**call, "wait_ms": 30_000}, {**call, "wait_ms": 1})
        assert older["deliveries"] == newer["deliveries"] == []
        client.request("channel.detach", channel="left", worker="twice")


def test_a_worker_that_detaches_leaves_its_deliveries_to_others(
    service: RunningDispatcher, worker: Callable[..., Worker]
) -> None:
    id, leaving, staying = send(service, "left", "u"), worker("left", "leaving"), worker("left", "staying")
    leaving.take()
    leaving.detach()
    (again,) = staying.take()
    assert again["delivery"]["attempt"] == 2
    assert status(service, id)["last_error"] == "the worker 'leaving' has gone without a result"
    staying.settle([again])
    ended(service, id, "delivered")
    staying.detach()


def test_a_worker_whose_connection_is_gone_is_given_nothing(
    service: RunningDispatcher, worker: Callable[..., Worker]
) -> None:
    router = Path("/proc", str(service.child_pids()["router"]), "fd")
    before = len(list(router.iterdir()))
    gone = Worker(service.submit, "left", "gone")
    gone.client._socket.send_multipart(
        [b"", b'{"op": "channel.attach", "channel": "left", "worker": "gone", "limit": 10, "wait_ms": 30000}']
    )
    wait_until(lambda: channel(service, "left")["workers"] == 1, PATIENCE_S)
    gone.close()
    wait_until(lambda: len(list(router.iterdir())) <= before, PATIENCE_S, "the end of its connection")
    id = send(service, "left", "u")
    other = worker("left", "other")
    (given,) = other.take()
    assert given["delivery"]["attempt"] == 1
    other.settle([given])
    assert ended(service, id, "delivered")["attempts"] == 1
    other.detach()
    service.request("channel.detach", channel="left", worker="gone")


def test_a_silent_worker_is_gone_after_its_lease(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    id, silent = send(service, "brief", "u"), worker("brief", "silent")
    silent.take()
    wait_until(lambda: channel(service, "brief")["workers"] == 0, PATIENCE_S)
    assert wait_until(lambda: status(service, id)["last_error"], PATIENCE_S) == "no result within 0.3 s"
    assert status(service, id)["attempts"] == 1
    live = worker("brief", "live")
    (again,) = live.take()
    assert again["delivery"]["attempt"] == 2
    live.settle([again])
    ended(service, id, "delivered")


def test_a_worker_that_never_answers_runs_out_of_attempts(
    service: RunningDispatcher, worker: Callable[..., Worker]
) -> None:
    id, mute = send(service, "brief", "mute"), worker("brief", "mute")
    tokens: list[str] = []

    def dead() -> bool:
        tokens.extend(one["token"] for one in mute.attach(1, 100)["deliveries"])
        return bool(status(service, id)["outcome"] == "dead")

    wait_until(dead, PATIENCE_S, "a dead letter")
    assert (status(service, id)["reason"], status(service, id)["attempts"]) == ("max_retries", 6)
    mute.attach(results=[{"token": token} for token in tokens])  # too late
    assert status(service, id)["outcome"] == "dead"
    assert channel(service, "brief")["state"] == "running"  # nothing is said of the channel by that


def test_where_twice_is_worse_than_not_at_all(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    id, held = send(service, "held", "u"), worker("held")
    held.take()
    found = ended(service, id, "dead")
    assert (found["reason"], found["attempts"]) == ("ambiguous", 1)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_an_answer_has_a_size(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    for _ in range(8):
        send(service, "large", "one", payload={"text": "x" * 900_000})
    large = worker("large")
    large.attach(8)
    wait_until(lambda: channel(service, "large")["in_flight"] == 8, PATIENCE_S, "all are on their way")
    found: list[dict[str, Any]] = []
    while len(found) < 8:
        some = large.attach(8 - len(found), 1_000)["deliveries"]
        assert len(some) <= 4
        found += some
    large.settle(found)
    wait_until(lambda: channel(service, "large")["outcomes"]["delivered"] == 8, PATIENCE_S)


def test_a_channel_has_so_many_workers(service: RunningDispatcher) -> None:
    with SubmitClient(service.submit, PATIENCE_S) as client:
        call = {"op": "channel.attach", "channel": "crowded", "limit": 0}
        answers = client.pipelined(*({**call, "worker": f"w{at}"} for at in range(257)))
        assert [answer["ok"] for answer in answers] == [True] * 256 + [False]
        assert answers[-1]["error"]["code"] == "too_many"
        wait_until(lambda: channel(service, "crowded")["workers"] == 256, PATIENCE_S)


def test_a_paused_channel_gives_nothing(service: RunningDispatcher, worker: Callable[..., Worker]) -> None:
    service.request("channel.pause", channel="ordered")
    id, one = send(service, "ordered", "paused"), worker("ordered")
    assert one.attach(5, 1)["deliveries"] == []
    assert status(service, id)["reason"] == "channel_paused"
    service.request("channel.resume", channel="ordered")
    one.settle(one.take())
    ended(service, id, "delivered")
