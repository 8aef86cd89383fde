"""Clients that send too much, in the wrong parts, too deep, never read, or vanish: others are served as before."""

from __future__ import annotations

import bisect
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from tests.fuzz.documents import nested
from tests.support.client import SubmitClient
from tests.support.service import RunningDispatcher, wait_until

REQUESTS = 50
GROWTH_MB = 200  # of any process, by any test here
PAGE_BYTES = 4_096
PING = b'{"op":"ping"}'
GOOD = {"user_id": "good", "title": "good"}


@pytest.fixture(scope="module")
def running() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(f"[limits]\nrequests = {REQUESTS}\n") as running:
        yield running


@pytest.fixture
def service(running: RunningDispatcher) -> Iterator[RunningDispatcher]:
    """Checks that the same processes live on after the test, that they answer, and that they have not grown."""
    pids = running.child_pids()
    before = {name: memory_mb(pid) for name, pid in pids.items()}
    yield running
    submit = {"op": "submit", "notifications": [GOOD]}
    wait_until(lambda: running.client.exchange(submit, as_json=True)["ok"], what="a receipt for somebody else")
    assert running.settled_stats()["conserved"]
    assert running.child_pids() == pids, running.log()
    grown = {name: memory_mb(pid) - before[name] for name, pid in pids.items()}
    assert max(grown.values()) < GROWTH_MB, grown


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


@contextmanager
def dealer(endpoint: str, **options: int | bytes) -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        with context.socket(zmq.DEALER) as client:
            client.set(zmq.LINGER, 0)
            for name, value in options.items():
                client.set(getattr(zmq, name), value)
            client.connect(endpoint)
            yield client
    finally:
        context.term()


def letters(service: RunningDispatcher) -> int:
    return int(service.request("stats")["dead_letters"].get("rejected", 0))


# --- parts and connections ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([PING], "bad_request"),
        ([b"", b"x", PING], "bad_request"),
        ([b"x", PING], "bad_request"),
        ([b""], "bad_request"),
        ([b"", b""], "bad_encoding"),
        ([b"", b" \r\n"], "bad_encoding"),
        ([b""] * 20 + [PING], "bad_request"),
        ([b""] * 20_000 + [PING], "bad_request"),
        ([b"x" * 10_000, b"", PING], "bad_request"),
        ([b"", PING], None),
        ([b"a proxy", b"", PING], None),
    ],
)
def test_parts_before_the_request(service: RunningDispatcher, parts: list[bytes], code: str | None) -> None:
    with dealer(service.submit) as client:
        client.send_multipart(parts)
        assert client.poll(10_000)
        *envelope, answer = client.recv_multipart()
    assert envelope == (parts[:-1] if code in (None, "bad_encoding") else [b""])
    document = json.loads(answer) if answer[:1] == b"{" else msgspec.msgpack.decode(answer)
    assert document.get("error", {}).get("code") == code


def test_each_part_on_ingest_is_a_message(service: RunningDispatcher) -> None:
    before = service.settled_stats()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.PUSH) as client:
        client.connect(service.ingest)
        client.send_multipart([json.dumps(GOOD).encode(), b"", msgspec.msgpack.encode([GOOD, GOOD])])
    context.term()
    wait_until(lambda: service.request("stats")["accepted"] == before["accepted"] + 3, what="three notifications")
    assert letters(service) == before["dead_letters"].get("rejected", 0) + 1


def test_a_name_that_is_taken_takes_no_answers(service: RunningDispatcher) -> None:
    with dealer(service.submit, ROUTING_ID=b"me") as first:
        first.send_multipart([b"", PING])
        assert first.poll(10_000)
        first.recv_multipart()
        with dealer(service.submit, ROUTING_ID=b"me") as second:
            second.send_multipart([b"", PING])
            first.send_multipart([b"", PING])
            assert first.poll(10_000)


@pytest.mark.parametrize(
    "noise", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100_000, bytes(10), b"\xff" + bytes(8) + b"\x7f"]
)
def test_what_is_not_zeromq_is_let_go(service: RunningDispatcher, noise: bytes) -> None:
    for endpoint in (service.submit, service.ingest, service.stream):
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        with socket.create_connection((host, int(port)), 10.0) as connection:
            try:
                connection.sendall(noise)
            except OSError:
                pass  # it was let go before all of it was sent


def test_a_message_from_a_subscriber_ends_nobodys_subscription(service: RunningDispatcher) -> None:
    with service.subscribed(b"inapp.followed\0") as subscriber:

        def read() -> Any:
            service.client.submit({"user_id": "followed", "title": "t"})
            return subscriber.read(0.1)

        wait_until(read, what="the subscription")
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context.socket(zmq.XSUB) as other:
            other.connect(service.stream)
            for message in (
                b"\x01inapp.other\0",
                b"Xinapp.followed\0",
                b"\x00inapp.followed\0",
                b"",
                b"\x01" + b"x" * 1_000,
            ):
                other.send(message)
        context.term()
        while subscriber.read(0.1):
            pass
        wait_until(read, what="a document after it")


# --- too much, too deep ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
def test_ten_megabytes_are_refused_by_name(service: RunningDispatcher, as_json: bool) -> None:
    huge = {"user_id": "u", "title": "t", "body": "x" * 10_000_000}
    answer = service.client.exchange({"op": "submit", "seq": 7, "notifications": [huge]}, as_json=as_json)
    assert (answer["error"]["code"], answer["seq"]) == ("too_large", 7)
    answer = service.client.exchange({"op": "status", "id": "x" * 10_000_000, "seq": "a"}, as_json=as_json)
    assert (answer["error"]["code"], answer["seq"]) == ("too_large", "a")
    before = service.settled_stats()
    encode = json.dumps if as_json else msgspec.msgpack.encode
    bodies = [encode(huge), encode(GOOD)]
    service.ingested(*(body.encode() if isinstance(body, str) else body for body in bodies))
    wait_until(lambda: service.request("stats")["accepted"] == before["accepted"] + 1, what="the one after it")
    (letter,) = wait_until(
        lambda: service.request("dead.list", error_class="too_large")["items"], what="its dead letter"
    )
    assert len(json.dumps(letter["notification"])) < 10_000
    assert service.request("dead.purge", error_class="too_large")["count"] >= 1


@pytest.mark.parametrize(
    "message", [b'{"a' + b'""' * 10_000_000, b'{"a":NaN' + b",NaN" * 5_000_000, b"\x81\xa1a" * 7_000_000]
)
def test_what_is_slow_to_read_is_not_read(service: RunningDispatcher, message: bytes) -> None:
    with SubmitClient(service.submit, timeout_s=30.0) as client:
        answer = client.exchange_bytes(message)
    document = json.loads(answer) if answer[:1] == b"{" else msgspec.msgpack.decode(answer)
    assert document["error"]["code"] == "too_large"


def test_a_message_that_zeromq_refuses_harms_nobody_else(service: RunningDispatcher) -> None:
    huge = b"x" * 70 * 2**20
    with dealer(service.submit) as client:
        client.send_multipart([b"", huge], copy=False)
        assert service.request("ping")["ok"]
        assert not client.poll(500)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.PUSH) as pushing:
        pushing.set(zmq.LINGER, 0)
        pushing.connect(service.ingest)
        pushing.send(huge, copy=False)
        assert service.request("ping")["ok"]
    context.term()


@pytest.mark.parametrize(
    "opening", [b"[", b'{"op":"submit","notifications":[', b'{"a":', b"\x91", b"\x81\xa1a", b"\x81\x91"]
)
def test_nesting_without_end_is_too_deep(service: RunningDispatcher, opening: bytes) -> None:
    message = opening * (200_000 // len(opening) if len(opening) > 5 else 200_000)
    answer = service.client.exchange_bytes(message)
    document = json.loads(answer) if answer[:1] == b"{" else msgspec.msgpack.decode(answer)
    assert document["error"]["code"] == "too_deep"
    before = letters(service)
    service.ingested(message)
    wait_until(lambda: letters(service) == before + 1, what="its dead letter")


def deepest_decoded() -> int:
    def is_decoded(levels: int) -> bool:
        try:
            msgspec.json.decode(nested(levels).as_json)
        except RecursionError:
            return False
        return True

    return bisect.bisect_left(range(100_000), True, key=lambda levels: not is_decoded(levels)) - 1


def test_no_depth_is_too_deep_for_one_process_only(service: RunningDispatcher) -> None:
    """Around the depth at which the router refuses: what it lets pass must not raise behind it."""
    before = service.settled_stats()
    deepest = deepest_decoded()  # a thousand in Python 3.11, ten thousand after it
    for levels in (*range(600, 1_010, 2), *range(700, 760), *range(deepest - 40, deepest + 15)):
        deep = nested(levels).as_json
        notification = b'{"user_id":"u","title":"t","payload":%b}' % deep
        fanned = b'{"recipients":["u","v","w","x"],"title":"t","payload":%b}' % deep
        for message in (
            b'{"op":"submit","notifications":[%b]}' % notification,
            b'{"op":"submit","notifications":[%b]}' % fanned,
            b'{"op":"user.put","user_id":"u","user":%b}' % deep,
        ):
            answer = json.loads(service.client.exchange_bytes(message))
            errors = [one["error"] for one in answer["rejected"]] if answer["ok"] else [answer["error"]]
            assert {error["code"] for error in errors} == {"too_deep"}, (levels, answer)
        service.ingested(notification, b"[%b,%b]" % (fanned, notification))
    for as_json in (True, False):
        assert service.client.exchange({"op": "dead.list", "limit": 1_000}, as_json=as_json)["ok"]
    after = service.settled_stats()
    assert after["accepted"] == before["accepted"]


def test_recipients_are_bounded_in_number_and_in_bytes(service: RunningDispatcher) -> None:
    crowd = [f"u{number}" for number in range(100_000)]
    answer = service.client.submit(GOOD, {"recipients": crowd, "title": "t"}, GOOD)
    assert (answer["accepted"], answer["rejected"][0]["error"]["code"]) == (2, "too_many")
    heavy = {"recipients": crowd[:1_000], "title": "t", "body": "x" * 40_000}
    answer = service.client.submit(GOOD, heavy, {**heavy, "category": "nope"}, GOOD)
    assert answer["accepted"] == 1_002
    assert [(one["index"], one["error"]["code"], one["error"]["field"]) for one in answer["rejected"]] == [
        (2, "too_many", "recipients")
    ]
    before = letters(service)
    service.ingested(msgspec.msgpack.encode([{**heavy, "category": "nope"}, {**heavy, "nope": 1}]))
    wait_until(lambda: letters(service) == before + 1_001, what="a letter for each, and one for what was too many")


def test_a_page_of_large_items_ends_early_and_goes_on(service: RunningDispatcher) -> None:
    for number in range(10):
        title = f"{number}"
        large = {"user_id": "reader", "title": title, "body": "x" * 900_000}
        assert service.client.submit(large)["accepted"] == 1
        service.ingested(msgspec.msgpack.encode({**large, "category": "large"}))
    for op in ("inbox.list", "dead.list"):

        def listed(op: str = op) -> bool:
            titles: list[str] = []
            place: dict[str, Any] = {}
            while True:
                page = service.request(op, user_id="reader", limit=1_000, **place)
                assert len(page["items"]) <= 4
                titles += [item.get("notification", item)["title"] for item in page["items"]]
                if page["next"] is None:
                    return titles == [str(number) for number in range(10)]
                place = {"cursor": page["next"]}

        wait_until(listed, what="all items, page by page")


# --- clients that do not read, or are gone ----------------------------------------------------------------------------


def test_clients_that_vanish_before_their_answer_leave_nothing(service: RunningDispatcher) -> None:
    """More of them than may wait at once; what they sent is done."""
    before = service.settled_stats()
    descriptors = Path(f"/proc/{before['router']['pid']}/fd")
    open_before = len(list(descriptors.iterdir()))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    for number in range(4 * REQUESTS):
        with context.socket(zmq.DEALER) as client:
            client.set(zmq.LINGER, 10_000)
            client.connect(service.submit)
            notification = {"user_id": "vanished", "title": "t", "idempotency_key": str(number)}
            for request in (
                {"op": "submit", "notifications": [notification]},
                {"op": "inbox.list", "user_id": "vanished"},
            ):
                client.send_multipart([b"", msgspec.msgpack.encode(request)])
        if number % (REQUESTS // 4) == 0:  # so that no more of them wait than may
            wait_until(lambda upto=number: done(service, before) > upto, what=f"{number} taken")  # type: ignore[misc]
    context.term()
    wait_until(lambda: done(service, before) == 4 * REQUESTS, what="the work of all")
    wait_until(lambda: len(list(descriptors.iterdir())) <= open_before + 2, what="their descriptors")
    for answer in service.client.pipelined(*[{"op": "submit", "notifications": [GOOD]}] * REQUESTS):
        assert answer["ok"], answer
    for answer in service.client.pipelined(*[{"op": "user.get", "user_id": "nobody"}] * REQUESTS):
        assert answer["error"]["code"] == "not_found", answer


def done(service: RunningDispatcher, before: dict[str, Any]) -> int:
    return int(service.request("stats")["accepted"] - before["accepted"])


def test_a_client_that_never_reads_its_answers(service: RunningDispatcher) -> None:
    before = service.settled_stats()
    batch = [{"user_id": "slow", "title": "t", "idempotency_key": str(number)} for number in range(100)]
    message = msgspec.msgpack.encode({"op": "submit", "notifications": batch})
    with dealer(service.submit, RCVHWM=1, SNDHWM=10) as client:
        for number in range(1, 3_001):  # 12 MB of answers
            client.send_multipart([b"", message])
            if number % (REQUESTS // 2) == 0:  # so that no more of them wait than may
                wait_until(lambda upto=number: taken(service, before) == upto * len(batch))  # type: ignore[misc]


def taken(service: RunningDispatcher, before: dict[str, Any]) -> int:
    stats = service.request("stats")
    return int(sum(stats[name] - before[name] for name in ("accepted", "duplicates")))


def test_a_subscriber_that_never_reads(service: RunningDispatcher) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.SUB) as slow, service.subscribed(b"inapp.watched\0") as other:
        slow.set(zmq.RCVHWM, 1)
        slow.set(zmq.LINGER, 0)
        slow.subscribe(b"")
        slow.connect(service.stream)
        for _ in range(50):  # 25 MB of documents
            service.client.submit(*[{"user_id": "crowd", "title": "t", "body": "x" * 1_000}] * 500)

        def read() -> Any:
            service.client.submit({"user_id": "watched", "title": "t"})
            return other.read(0.1)

        wait_until(read, what="a document for another")
    context.term()
