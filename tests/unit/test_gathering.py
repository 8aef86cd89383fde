"""Pieces of messages become frames, in their order."""

from __future__ import annotations

import msgspec
import pytest

from dispatcher.router.gathering import FRAME_NOTIFICATIONS, Frame, Gatherer, Gathering
from dispatcher.router.splitter import WHOLE_MIN, Limits, split
from shards.wire.ids import hash_user
from shards.wire.link import SUBMIT

SHARDS = 3
SAME = [f"user-{number}" for number in range(400) if hash_user(f"user-{number}") % SHARDS == 0]
LIMITS = Limits(SHARDS, 1_000, 1_000_000, "".__str__)


@pytest.mark.parametrize("as_json", [True, False])
def test_gathered_pieces_make_one_frame(as_json: bool) -> None:
    gatherer = Gatherer(0, as_json, 0)
    encode = msgspec.json.encode if as_json else msgspec.msgpack.encode
    messages = [[{"user_id": SAME[0], "title": "one"}], [{"user_id": SAME[1], "title": "two"}]]
    for message in messages:
        (piece,) = split(encode(message), LIMITS).pieces
        assert gatherer.add(piece, None) == []
    (frame,) = gatherer.flush()
    decode = msgspec.json.decode if as_json else msgspec.msgpack.decode
    assert decode(frame.body) == [message[0] for message in messages]
    assert gatherer.flush() == []


def test_a_whole_list_does_not_overtake() -> None:
    gatherer = Gatherer(0, False, 0)
    (small,) = split(msgspec.msgpack.encode([{"user_id": SAME[0]}]), LIMITS).pieces
    (whole,) = split(msgspec.msgpack.encode([{"user_id": SAME[0]}] * WHOLE_MIN), LIMITS).pieces
    gatherer.add(small, None)
    first, second = gatherer.add(whole, None)
    assert (len(first.parts[0].hashes), second.body) == (1, whole.whole)


def test_what_a_turn_has_begun_is_kept_when_it_is_full_or_the_turn_ends() -> None:
    kept: list[Frame] = []
    gathering = Gathering(SHARDS, kept.append)
    small = split(msgspec.msgpack.encode([{"user_id": user} for user in SAME[:50]]), LIMITS)
    for _ in range(FRAME_NOTIFICATIONS // 50):
        assert not kept
        gathering.add(small, False, SUBMIT, None)
    (full,) = kept
    assert sum(len(part.hashes) for part in full.parts) == FRAME_NOTIFICATIONS
    assert gathering.size(0, False, SUBMIT) == 0
    gathering.add(small, False, SUBMIT, None)
    assert gathering.size(0, False, SUBMIT) > 0
    gathering.flush()
    gathering.flush()
    assert [frame.shard for frame in kept] == [0, 0]
