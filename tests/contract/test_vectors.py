"""tests/vectors/protocol.json, which clients in other languages test themselves with, is true of this dispatcher."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shards.wire.ids import hash_user
from tests.support.service import RunningDispatcher, wait_until

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "protocol.json").read_text(encoding="utf-8"))
FRAMES = [pytest.param(frame, id=frame["name"]) for frame in VECTORS["frames"]]


@pytest.fixture(scope="module")
def fresh() -> Iterator[RunningDispatcher]:
    """With the default configuration, and without any notification."""
    with RunningDispatcher(shards=2) as running:
        yield running


@pytest.mark.parametrize("vector", VECTORS["users"], ids=lambda vector: vector["hex"])
def test_the_hash_of_a_user(vector: dict[str, Any]) -> None:
    user_id = vector["user_id"]
    assert len(user_id.encode()) == vector["utf8_bytes"] <= 256
    hashed = hash_user(user_id)
    assert (str(hashed), f"{hashed:016x}") == (vector["hash"], vector["hex"])
    assert {int(shards): hashed % int(shards) for shards in vector["shard"]} == {
        int(shards): shard for shards, shard in vector["shard"].items()
    }


def test_the_vectors_cover_what_they_should() -> None:
    users = [vector["user_id"] for vector in VECTORS["users"]]
    assert max(len(user.encode()) for user in users) == 256
    assert all(set(vector["shard"]) == {"1", "2", "4", "8"} for vector in VECTORS["users"])
    assert {vector["shard"]["8"] for vector in VECTORS["users"]} == set(range(8))
    names = Counter(frame["name"] for frame in VECTORS["frames"])
    assert names.most_common(1)[0][1] == 1
    assert {frame["encoding"] for frame in VECTORS["frames"]} == {"json", "msgpack"}


@pytest.mark.parametrize("frame", [frame for frame in FRAMES if "document" in frame.values[0]])  # type: ignore[operator]
def test_a_frame_decodes_to_its_document(frame: dict[str, Any]) -> None:
    message = bytes.fromhex(frame["hex"])
    decoded = json.loads(message) if frame["encoding"] == "json" else msgspec.msgpack.decode(message)
    assert decoded == frame["document"]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_is_answered_as_it_says(fresh: RunningDispatcher, frame: dict[str, Any]) -> None:
    message, expected = bytes.fromhex(frame["hex"]), frame["answer"]
    if frame["socket"] == "ingest":
        check_ingest(fresh, message, expected)
        return
    body = fresh.client.exchange_bytes(message)
    answer: dict[str, Any] = json.loads(body) if frame["encoding"] == "json" else msgspec.msgpack.decode(body)
    assert answer["ok"] is expected["ok"]
    if not expected["ok"]:
        assert answer["error"]["code"] == expected["code"]
        assert answer["error"].get("field") == expected["field"]
        return
    for name in expected.keys() & {"accepted", "duplicates", "duplicate"}:
        assert answer[name] == expected[name]
    for rejection, wanted in zip(answer.get("rejected", ()), expected.get("rejected", ()), strict=True):
        error = rejection["error"]
        found = {"index": rejection["index"], "code": error["code"], "field": error.get("field")}
        assert {name: found[name] for name in wanted} == wanted


def check_ingest(dispatcher: RunningDispatcher, message: bytes, expected: dict[str, Any]) -> None:
    def totals() -> tuple[int, int, int]:
        stats = dispatcher.request("stats")
        return stats["accepted"], stats["duplicates"], stats["dead_letters"].get("rejected", 0)

    def letters() -> Counter[str]:
        items = dispatcher.request("dead.list", reason="rejected", limit=1000)["items"]
        return Counter(letter["error_class"] for letter in items)

    before, codes_before = totals(), letters()
    dispatcher.ingested(message)
    wanted = (expected["accepted"], expected["duplicates"], len(expected["rejected"]))
    goal = tuple(value + more for value, more in zip(before, wanted, strict=True))
    wait_until(lambda: totals() == goal, what=f"accepted, duplicates and dead letters {goal}")
    wait_until(lambda: letters() - codes_before == Counter(expected["rejected"]), what="the dead letters' codes")
