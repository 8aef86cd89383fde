"""Nearly right messages over the sockets of a running service, and an account of every one of them.

Each round sends the same lists by ``submit`` and by ``ingest``, which must agree on what is acceptable, then spoiled
operations and mutilated bytes. A round is made by its seed alone: the failing one is printed, and replays.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any, get_args

import msgspec

from shards.wire.errors import Code
from tests.fuzz.documents import OPERATIONS, Map, encoded, mapped, mutilated, notification, spoiled
from tests.support.service import RunningDispatcher, wait_until

CONFIG = """
[retry]
max_retries = 0
[channels.webhook]
provider = "simulated"
failure_rate = 1.0
[channels.email]
provider = "simulated"
"""
LISTS = 40  # of a round, and as many operations and mutilated messages
GROWTH_MB = 200  # of any process; the bodies of the last frames are kept in memory
GOOD = Map([("user_id", "neighbour"), ("title", "good")])
SUBMIT_JSON = b'{"op":"submit","seq":7,"notifications":LIST}'
SUBMIT_MSGPACK = b"\x83\xa2op\xa6submit\xa3seq\x07\xadnotificationsLIST"
CODES = frozenset(get_args(Code))


def fuzz_round(service: RunningDispatcher, seed: int) -> None:
    """Raises ``AssertionError`` where an answer, or the account, is not as it must be."""
    random = Random(seed)
    expected: Counter[str] = Counter()
    messages = []
    before = service.settled_stats(30.0)
    for _ in range(LISTS):
        as_json = random.random() < 0.5
        spoils = [notification(random) for _ in range(random.choice((1, 1, 2, 5, 120)))]
        for at in range(len(spoils)):
            for _ in range(random.choice((0, 0, 0, 1, 1, 2, 3))):
                spoils[at] = spoiled(random, spoils[at])
        entries = [GOOD, *spoils, GOOD]
        body = encoded(entries, as_json, random)
        request = (SUBMIT_JSON if as_json else SUBMIT_MSGPACK).replace(b"LIST", body)
        expected += account(entries, ask(service, request))
        messages.append(body)
    service.ingested(*messages)
    wait_until(lambda: balance(service, before, expected), 30.0, f"submit and ingest agree on {dict(expected)}")
    for _ in range(LISTS):
        as_json = random.random() < 0.5
        request = mapped(random.choice(OPERATIONS))
        for _ in range(random.choice((0, 1, 1, 2))):
            request = spoiled(random, request)
        message = encoded(request, as_json, random)
        ask(service, message)
        strange = mutilated(random, random.choice((message, random.choice(messages), random.randbytes(30))))
        ask(service, strange)
        service.ingested(strange)
    read_back(service)


def ask(service: RunningDispatcher, message: bytes) -> dict[str, Any]:
    """The answer, which must be well-formed whatever was asked."""
    answer = service.client.exchange_bytes(message)
    document = json.loads(answer) if answer[:1] == b"{" else msgspec.msgpack.decode(answer)
    assert (answer[:1] == b"{") == (message[:1] in (b"{", b"[", b" ", b"\t", b"\r", b"\n") and message != b""), message
    if not document["ok"]:
        error = document["error"]
        assert error["code"] in CODES - {"internal", "unavailable"}, (error, message[:500])
        assert 0 < len(error["message"]) <= 400, (error, message[:500])
        assert len(error.get("field") or "") <= 200, error
    return dict(document)


def account(entries: list[Any], answer: dict[str, Any]) -> Counter[str]:
    """What both ways of sending the list come to; the good neighbours are taken, unless it is refused as a whole."""
    if not answer["ok"]:
        assert answer["error"]["code"] in ("bad_encoding", "too_deep", "bad_value"), answer["error"]
        return Counter(rejected=1)
    ids = answer["ids"]
    assert answer["seq"] == 7
    assert len(ids) == len(entries)
    assert isinstance(ids[0], str)
    assert isinstance(ids[-1], str)
    positions = sum(len(one) if isinstance(one, list) else 1 for one in ids)
    nothing = sum(one.count(None) if isinstance(one, list) else one is None for one in ids)
    assert nothing == len(answer["rejected"]), answer
    assert answer["accepted"] + answer["duplicates"] + len(answer["rejected"]) == positions, answer
    assert len(answer["duplicate"]) == answer["duplicates"]
    for one in answer["rejected"]:
        assert 0 < one["index"] < len(entries) - 1
        assert one["error"]["code"] in CODES - {"internal", "unavailable", "overloaded"}
    taken = answer["accepted"] + answer["duplicates"]
    return Counter(taken=taken, rejected=len(answer["rejected"]))


def balance(service: RunningDispatcher, before: dict[str, Any], expected: Counter[str]) -> bool:
    """Whether ``ingest`` has taken and buried what ``submit`` took and rejected."""
    stats = service.request("stats")
    taken = sum(stats[name] - before[name] for name in ("accepted", "duplicates"))
    letters = stats["dead_letters"].get("rejected", 0) - before["dead_letters"].get("rejected", 0)
    assert taken <= 2 * expected["taken"], (taken, expected)
    assert letters <= expected["rejected"], (letters, expected)
    return bool(taken == 2 * expected["taken"] and letters == expected["rejected"] and stats["conserved"])


def read_back(service: RunningDispatcher) -> None:
    """What was kept can be shown, in both encodings; then the dead letters go."""
    for as_json in (True, False):
        for request in ({"op": "inbox.list", "user_id": "ann", "limit": 100}, {"op": "dead.list", "limit": 500}):
            answer = service.client.exchange(request, as_json=as_json)
            assert answer["ok"], answer
    while service.request("dead.purge")["count"]:
        pass


def memory_mb(pids: dict[str, int]) -> dict[str, float]:
    return {name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4_096 / 2**20 for name, pid in pids.items()}


def main() -> None:
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long; by default 60")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each one after it has the next")
    chosen = parser.parse_args()
    deadline = time.monotonic() + chosen.seconds
    seed = chosen.seed
    with RunningDispatcher(CONFIG, shards=2) as service:
        pids = service.child_pids()
        start_mb = memory_mb(pids)
        while True:
            try:
                fuzz_round(service, seed)
                assert service.child_pids() == pids, "a process was restarted"
                grown = {name: round(mb - start_mb[name]) for name, mb in memory_mb(pids).items()}
                assert max(grown.values()) < GROWTH_MB, f"memory grew: {grown}"
            except (AssertionError, LookupError, TypeError, ValueError) as error:
                print(f"{service.log()}\nfailed: {error!r}\nreplay: python -m tests.fuzz --seconds 0 --seed {seed}")
                sys.exit(1)
            seed += 1
            if time.monotonic() > deadline:
                break
    print(f"{seed - chosen.seed} rounds, seeds {chosen.seed} to {seed - 1}; memory grew by {grown} MB")


if __name__ == "__main__":
    main()
