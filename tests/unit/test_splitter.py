"""From messages to frames: bytes, order and positions are kept."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.splitter import WHOLE_MIN, Gatherer, Split, split
from shards.wire import RequestError, hash_user

SHARDS = 3
FANOUT_BYTES = 1_000_000
SAME = [f"user-{number}" for number in range(400) if hash_user(f"user-{number}") % SHARDS == 0]

entries = st.fixed_dictionaries(
    {}, optional={"user_id": st.sampled_from([*SAME[:2], "x", "y", "z"]), "title": st.text(max_size=3)}
) | st.fixed_dictionaries({"recipients": st.lists(st.sampled_from(["x", "y", "z", *SAME[:2]]), max_size=3)})


def encoder(as_json: bool) -> Any:
    return msgspec.json.encode if as_json else msgspec.msgpack.encode


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(entries, max_size=8), st.booleans())
def test_every_recipient_gets_its_notification_at_its_position(frame: list[dict[str, Any]], as_json: bool) -> None:
    done = split(encoder(as_json)(frame), SHARDS, 100, FANOUT_BYTES)
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
    assert {
        bytes(raw)
        for piece in split(encoder(as_json)(frame), SHARDS, 100, FANOUT_BYTES).pieces
        for raw in piece.entries
    } == raws


def test_a_list_for_one_shard_is_passed_on_whole() -> None:
    message = msgspec.msgpack.encode([{"user_id": SAME[number % 5]} for number in range(WHOLE_MIN)])
    (piece,) = split(message, SHARDS, 1_000, FANOUT_BYTES).pieces
    assert (piece.whole, piece.positions) == (message, range(WHOLE_MIN))


def test_nothing_is_nothing() -> None:
    assert split(b"[]", SHARDS, 10, FANOUT_BYTES) == Split([], 0, None, None, [])


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
        split(message, SHARDS, 2, FANOUT_BYTES)
    assert caught.value.error.code == code


@pytest.mark.parametrize(
    ("entry", "code", "field"),
    [
        ({}, "bad_value", "user_id"),
        ({"recipients": []}, "bad_value", "recipients"),
        ({"topic": "t"}, "unsupported", "topic"),
        ({"user_id": 5}, "bad_value", "user_id"),
        ({"recipients": ["x", 5]}, "bad_value", "recipients[1]"),
        ({"recipients": ["x"], "topic": "t"}, "bad_value", "user_id"),
        (7, "bad_request", None),
    ],
)
def test_what_cannot_be_routed_is_an_error_of_its_own(entry: object, code: str, field: str | None) -> None:
    done = split(msgspec.json.encode([{"user_id": "x"}, entry]), SHARDS, 10, FANOUT_BYTES)
    ((index, error, raw),) = done.errors
    assert (index, error.code, error.field, raw) == (1, code, field, msgspec.json.encode(entry))
    assert len(done.pieces) == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_gathered_pieces_make_one_frame(as_json: bool) -> None:
    gatherer = Gatherer(0, as_json, 0)
    messages = [[{"user_id": SAME[0], "title": "one"}], [{"user_id": SAME[1], "title": "two"}]]
    for message in messages:
        (piece,) = split(encoder(as_json)(message), SHARDS, 10, FANOUT_BYTES).pieces
        assert gatherer.add(piece, None) == []
    (frame,) = gatherer.flush()
    decode = msgspec.json.decode if as_json else msgspec.msgpack.decode
    assert decode(frame.body) == [message[0] for message in messages]
    assert gatherer.flush() == []


def test_a_whole_list_does_not_overtake() -> None:
    gatherer = Gatherer(0, False, 0)
    (small,) = split(msgspec.msgpack.encode([{"user_id": SAME[0]}]), SHARDS, 1_000, FANOUT_BYTES).pieces
    (whole,) = split(msgspec.msgpack.encode([{"user_id": SAME[0]}] * WHOLE_MIN), SHARDS, 1_000, FANOUT_BYTES).pieces
    gatherer.add(small, None)
    first, second = gatherer.add(whole, None)
    assert (len(first.parts[0].hashes), second.body) == (1, whole.whole)
