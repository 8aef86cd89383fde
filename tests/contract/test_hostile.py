"""Input that must be answered by name, and bring down no process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest

from tests.support.client import SubmitClient
from tests.support.service import RunningDispatcher, wait_until

HUGE = 10**40  # JSON can say it; 64 bits cannot


class Victim:
    """A running dispatcher, and a new one after one that was brought down."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.service = self._start()

    def _start(self) -> RunningDispatcher:
        return self._stack.enter_context(RunningDispatcher(shards=2))

    def replace(self) -> None:
        self.service.kill()
        self.service = self._start()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    victim = Victim()
    yield victim
    victim.close()


@pytest.fixture
def service(victim: Victim) -> Iterator[RunningDispatcher]:
    """Checks that the same processes live on after the test."""
    before = victim.service.child_pids()
    yield victim.service
    try:
        with SubmitClient(victim.service.submit, timeout_s=3.0) as client:
            client.request("stats")
            assert victim.service.child_pids() == before, victim.service.log()
    except AssertionError:
        log = victim.service.log()
        victim.replace()
        pytest.fail(f"a process went down:\n{log}")


def ask(service: RunningDispatcher, document: dict[str, Any], as_json: bool = True) -> dict[str, Any]:
    with SubmitClient(service.submit, timeout_s=3.0) as client:
        return client.exchange(document, as_json=as_json)


def code_of(answer: dict[str, Any]) -> str:
    assert not answer["ok"]
    return str(answer["error"]["code"])


@pytest.mark.parametrize("seq", [HUGE, -HUGE, 2**64, -(2**63) - 1])
@pytest.mark.parametrize("op", ["ping", "submit", "stats", "no such"])
def test_a_seq_beyond_64_bits(service: RunningDispatcher, op: str, seq: int) -> None:
    request = {"op": op, "seq": seq, **({"notifications": []} if op == "submit" else {})}
    assert code_of(ask(service, request)) in ("bad_value", "unknown_op")


@pytest.mark.parametrize(
    "payload",
    [
        {"n": HUGE},
        {"n": -HUGE},
        {"n": [HUGE]},
        {"n": {"m": HUGE}},
        {"n": 2**64},
        {"n": -(2**63) - 1},
        {"message": 1, "n": HUGE},
    ],
)
def test_a_payload_with_an_integer_beyond_64_bits(service: RunningDispatcher, payload: dict[str, Any]) -> None:
    good = {"user_id": "u", "title": "t"}
    request = {"op": "submit", "notifications": [good, {**good, "payload": payload}, good]}
    answer = ask(service, request)
    assert answer["ok"]
    assert (answer["accepted"], [one["error"]["code"] for one in answer["rejected"]]) == (2, ["bad_value"])


@pytest.mark.parametrize(
    "notification",
    [
        {"user_id": "poison", "title": "t", "payload": {"n": HUGE}},
        {"user_id": "poison", "title": "t", "priority": HUGE},
        {"user_id": "poison", "title": "t", "expires_at": HUGE},
        {"user_id": "poison", "title": "t", "send_at": -HUGE},
        {"user_id": "poison", "title": "t", "expires_at": "0001-01-01T00:00:00+23:59"},
        {"user_id": "poison", "title": "t", "nope": HUGE},
        {"user_id": HUGE, "title": "poison"},
        {"recipients": ["poison"], "title": "t", "payload": {"n": HUGE}},
    ],
)
def test_a_poisonous_notification_on_ingest(service: RunningDispatcher, notification: dict[str, Any]) -> None:
    before = service.settled_stats()
    after_it = {"user_id": "u", "title": "t", "idempotency_key": json.dumps(notification, sort_keys=True)[:250]}
    service.ingested(json.dumps([notification, after_it]).encode())

    def settled() -> bool:
        stats = service.request("stats")
        letters = stats["dead_letters"].get("rejected", 0) - before["dead_letters"].get("rejected", 0)
        outcomes = sum(stats["outcomes"].values()) - sum(before["outcomes"].values())
        return bool(letters + outcomes >= 2 and not stats["pending"])

    wait_until(settled, 5.0, "one rejection or outcome, and one outcome")
    if notification.get("expires_at") != "0001-01-01T00:00:00+23:59":  # that one is only expired
        stats = service.request("stats")
        assert stats["dead_letters"]["rejected"] == before["dead_letters"].get("rejected", 0) + 1


@pytest.mark.parametrize(
    ("op", "fields", "code"),
    [
        ("user.put", {"user_id": "u", "user": {"locale": HUGE}}, "bad_value"),
        ("user.put", {"user_id": "u", "user": {"preferences": {"channels": {"email": HUGE}}}}, "bad_value"),
        ("inbox.list", {"user_id": "u", "cursor": HUGE}, "bad_value"),
        ("inbox.list", {"user_id": "u", "cursor": str(HUGE)}, "bad_value"),
        ("inbox.list", {"user_id": "u", "cursor": 2**63}, "bad_value"),
        ("inbox.list", {"user_id": "u", "limit": HUGE}, "bad_value"),
        ("dead.list", {"cursor": HUGE}, "bad_value"),
        ("dead.list", {"cursor": str(2**64)}, "bad_value"),
        ("dead.list", {"since": HUGE}, "bad_value"),
        ("dead.list", {"since": 2**53}, "bad_value"),
        ("dead.replay", {"since": 2**63}, "bad_value"),
        ("status", {"id": "0-0-" + "f" * 40 + "-0"}, "not_found"),
        ("status", {"user_id": "u", "idempotency_key": "x" * 100_000}, "not_found"),
        ("inbox.mark", {"user_id": "u", "ids": ["0-0-" + "f" * 40 + "-0"], "state": "read"}, "not_found"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_operations_with_extreme_values(
    service: RunningDispatcher, op: str, fields: dict[str, Any], code: str, as_json: bool
) -> None:
    if not as_json:  # MessagePack ends at 64 bits
        fields = json.loads(json.dumps(fields).replace(str(HUGE), str(2**64 - 1)))
    assert code_of(ask(service, {"op": op, **fields}, as_json)) == code


@pytest.mark.parametrize("place", [lambda seq, _: seq * 2**60, lambda seq, _: 2**47 - seq, lambda _, __: 2**63])
def test_an_id_that_points_far_beyond_the_journal(service: RunningDispatcher, place: Callable[[int, int], int]) -> None:
    id_ = service.client.submit({"user_id": "u", "title": "t"})["ids"][0]
    parts = id_.split("-")  # opaque to clients; this one is up to no good
    parts[2] = f"{place(int(parts[2], 16), 0):x}"
    forged = "-".join(parts)
    assert code_of(ask(service, {"op": "status", "id": forged})) == "not_found"
    assert code_of(ask(service, {"op": "inbox.mark", "user_id": "u", "ids": [forged], "state": "read"})) == "not_found"
    parts = id_.split("-")
    parts[3] = "f" * 30
    assert code_of(ask(service, {"op": "status", "id": "-".join(parts)})) == "not_found"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x82\xa2op\xa4ping\x01\x01",  # a key that is a number
        b"\x82\xa2op\xa4ping\x91\x01\x01",  # a list
        b"\x82\xa2op\xa4ping\x81\x01\x02\x01",  # a map
        b"\x82\xa2op\xa4ping\xd4\x05\x01\x01",  # an extension
        b"\x82\xa2op\xa4ping\xd6\xff\x00\x00\x00\x00\x01",  # a timestamp
        b"\x82\xa2op\xa4ping\xa3\xed\xa0\x80\x01",  # a lone surrogate
        b"\x82\xa2op\xa8user.get\xa7user_id\xd6\xff\x00\x00\x00\x00",
        b'{"op":"ping","\\ud800":1}',
        b'{"op":"ping","a\\u0000b":1}',
        b'{"op":"user.put","user_id":"u","user":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
        b"\xdd\xff\xff\xff\xff",  # a list of 4 G entries, which are not there
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x82\xa2op\xa6submit\xadnotifications\xdd\xff\xff\xff\xff",
        b"\x82\xa2op\xa6submit\xadnotifications\x91\x82\x01\x02\x03\x04",
        b"\x82\xa2op\xa6submit\xadnotifications\x91\xd4\x05\x01",
        b"\x82\xa1a\xa1\xff\xa1b" + b"\x91" * 100_000,  # a bad text, and then no end of lists
        b'"' * 100_000,
        b'{"' + b'\\"' * 400_000,
        b"{NaN" * 100_000,
    ],
)
def test_strange_bytes(service: RunningDispatcher, request_bytes: bytes) -> None:
    with SubmitClient(service.submit, timeout_s=5.0) as client:
        answer = client.exchange_bytes(request_bytes)
    document = json.loads(answer) if answer[:1] == b"{" else msgspec.msgpack.decode(answer)
    assert document["ok"] is False or document["accepted"] == 0
    service.ingested(request_bytes)
