"""From messages to pieces: bytes, order and positions are kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.router.splitter import WHOLE_MIN, Limits, Split, split
from shards.wire.errors import RequestError
from shards.wire.ids import hash_user, is_broadcast

SHARDS = 3
FANOUT_BYTES = 1_000_000
SAME = [f"user-{number}" for number in range(400) if hash_user(f"user-{number}") % SHARDS == 0]

entries = st.fixed_dictionaries(
    {}, optional={"user_id": st.sampled_from([*SAME[:2], "x", "y", "z"]), "title": st.text(max_size=3)}
) | st.fixed_dictionaries({"recipients": st.lists(st.sampled_from(["x", "y", "z", *SAME[:2]]), max_size=3)})


def limits(batch_max: int) -> Limits:
    return Limits(SHARDS, batch_max, FANOUT_BYTES, iter(["b-first", "b-second"]).__next__)


def encoder(as_json: bool) -> Any:
    return msgspec.json.encode if as_json else msgspec.msgpack.encode


@settings(max_examples=150)
@given(st.lists(entries, max_size=8), st.booleans())
def test_every_recipient_gets_its_notification_at_its_position(frame: list[dict[str, Any]], as_json: bool) -> None:
    done = split(encoder(as_json)(frame), limits(100))
    addressed = [
        (index, recipient if "recipients" in entry else None, user_id)
        for index, entry in enumerate(frame)
        for recipient, user_id in enumerate(entry.get("recipients", [entry["user_id"]] if "user_id" in entry else []))
    ]
    shape = done.shape or [(index, None) for index in range(done.positions)]
    found = {}
    for piece in done.pieces:
        assert list(piece.positions) == sorted(piece.positions)
        for position, hashed in zip(piece.positions, piece.hashes, strict=True):
            assert hashed % SHARDS == piece.shard
            found[position] = hashed
    assert [(*shape[position], found[position]) for position in sorted(found)] == [
        (index, recipient, hash_user(user_id)) for index, recipient, user_id in addressed
    ]
    assert {index for index, _, _ in done.errors} == {
        index for index, entry in enumerate(frame) if not entry.get("recipients", entry.get("user_id"))
    }
    assert done.positions == len(found) + len(done.errors)


@pytest.mark.parametrize("as_json", [True, False])
def test_bytes_are_passed_on_as_they_came(as_json: bool) -> None:
    frame = [{"user_id": name, "title": name} for name in ("x", "y", "z")]
    raws = {encoder(as_json)(entry) for entry in frame}
    assert {bytes(raw) for piece in split(encoder(as_json)(frame), limits(100)).pieces for raw in piece.entries} == raws


def test_a_list_for_one_shard_is_passed_on_whole() -> None:
    message = msgspec.msgpack.encode([{"user_id": SAME[number % 5]} for number in range(WHOLE_MIN)])
    (piece,) = split(message, limits(1_000)).pieces
    assert (piece.whole, piece.positions) == (message, range(WHOLE_MIN))


def test_nothing_is_nothing() -> None:
    assert split(b"[]", limits(10)) == Split([], 0, None, None, [], {})


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"[1", "bad_encoding"),
        (b'{"user_id": "x"}', "bad_request"),
        (b"[{},{},{}]", "too_many"),
        (b'[{"user_id":"x"},{"user_id":"x"},{"user_id":"x"}]', "too_many"),
        (b"\xc1", "bad_encoding"),
    ],
)
def test_a_list_that_is_not_acceptable(message: bytes, code: str) -> None:
    with pytest.raises(RequestError) as caught:
        split(message, limits(2))
    assert caught.value.error.code == code


@pytest.mark.parametrize(
    ("entry", "code", "field"),
    [
        ({}, "bad_value", "user_id"),
        ({"recipients": []}, "bad_value", "recipients"),
        ({"user_id": 5}, "bad_value", "user_id"),
        ({"recipients": ["x", 5]}, "bad_value", "recipients[1]"),
        ({"recipients": ["x"], "topic": "t"}, "bad_value", "user_id"),
        (7, "bad_request", None),
    ],
)
def test_what_cannot_be_routed_is_an_error_of_its_own(entry: object, code: str, field: str | None) -> None:
    done = split(msgspec.json.encode([{"user_id": "x"}, entry]), limits(10))
    ((index, error, raw),) = done.errors
    assert (index, error.code, error.field, raw) == (1, code, field, msgspec.json.encode(entry))
    assert len(done.pieces) == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_a_notification_to_a_topic_goes_to_every_shard_under_one_id(as_json: bool) -> None:
    frame = [{"topic": "news", "title": "a"}, {"user_id": "x"}, {"topic": "news", "title": "a"}]
    done = split(encoder(as_json)(frame), limits(100))
    assert done.positions == 3
    assert {position: (one.topic, one.id) for position, one in done.topics.items()} == {
        0: ("news", "b-first"),
        2: ("news", "b-second"),
    }
    assert sorted(piece.shard for piece in done.pieces) == list(range(SHARDS))
    decode = msgspec.json.decode if as_json else msgspec.msgpack.decode
    for piece in done.pieces:
        mine = dict(zip(piece.positions, map(decode, piece.entries), strict=True))
        assert (mine[0], mine[2]) == ([["b-first"], frame[0]], [["b-second"], frame[2]])
        assert (1 in mine) == (piece.shard == hash_user("x") % SHARDS)


def test_a_key_names_a_broadcast_the_same_every_time() -> None:
    def id_of(**keys: str) -> str:
        entry = {"topic": "news", "title": "a", **keys}
        return split(msgspec.json.encode([entry]), limits(1)).topics[0].id

    assert id_of(idempotency_key="k") == id_of(id="k") == id_of(id="other", idempotency_key="k") != id_of(id="l")
    assert is_broadcast(id_of(id="k"))
    assert id_of(id="k", topic="olds") != id_of(id="k")
