"""A frame is taken apart by users, and put together again."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest

from shards import ledger
from shards.changes import Note
from shards.contents import Content
from shards.cutting import Part, cut
from shards.dedupe import NO_DIGEST
from shards.wire.ids import hash_user

USERS = [f"user-{number}" for number in range(40)]


def entry(number: int) -> dict[str, Any]:
    return {"user_id": USERS[number], "title": f"title {number}"}


def part(entries: list[Any], widths: bytes, as_json: bool, fanned: bool = False) -> Part:
    encode = msgspec.json.encode if as_json else msgspec.msgpack.encode
    slots = array("I", [ledger.word(at % 5, 1, attempts=at % 200) for at in range(sum(widths))])
    digests = b"".join(bytes((number + 1,)) * 16 if width else NO_DIGEST for number, width in enumerate(widths))
    notes: dict[int, Note] = {slot: (slot, "transient", "x") for slot in range(0, len(slots), 3)}
    return Part(1, 0, fanned, True, widths, b"verdict", digests, encode(entries), 5, slots, notes)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("fanned", [False, True])
@pytest.mark.parametrize("shards", [2, 3, 7])
def test_every_shard_gets_its_users_and_all_together_are_the_frame(as_json: bool, fanned: bool, shards: int) -> None:
    entries: list[Any] = [entry(number) for number in range(40)]
    if fanned:  # some to one, some to several
        entries = [[USERS[:25], {"title": "all"}], *entries[25:]]
    widths = bytes([1, 2, 0, 3] * 10)  # a position without deliveries is nobody's
    whole = part(entries, widths, as_json, fanned)
    pieces = cut([whole], shards)
    for shard, piece in pieces.parts.items():
        content = Content(piece.body, fanned, piece.digests)
        assert sum(piece.widths) == len(piece.slots)
        for position, width in enumerate(piece.widths):
            if not width:
                assert piece.digests is not None
                assert piece.digests[16 * position : 16 * position + 16] == NO_DIGEST
                continue
            user_id, _ = content.item(position)
            assert (user_id, hash_user(user_id) % shards) == (USERS[position], shard)
            assert content.find(bytes((position + 1,)) * 16) == position
            if not fanned:
                assert content.raw(position) == Content(whole.body, False, None).raw(position)
    for slot, value in enumerate(whole.slots):
        shard, there = pieces.place(0, slot)
        assert pieces.parts[shard].slots[there] == value
        assert pieces.parts[shard].notes.get(there) == whole.notes.get(slot)
    (again,) = cut([pieces.parts[shard] for shard in sorted(pieces.parts)], 1).parts.values()
    assert (again.widths, again.slots, again.notes) == (whole.widths, whole.slots, whole.notes)
    assert again.digests == whole.digests


def test_an_entry_that_was_rejected_goes_nowhere() -> None:
    """It is in its answer, or in a dead letter."""
    pieces = cut([part([entry(0), {"user_id": 5}, "what", entry(3)], bytes([1, 0, 0, 1]), True)], 2)
    assert sorted(at for piece in pieces.parts.values() for at, width in enumerate(piece.widths) if width) == [0, 3]


def test_what_nobody_could_take_apart_stays_with_the_first_shard() -> None:
    raw = Part(1, 2, False, False, b"", None, None, b"\xff\xfe", 5, array("I"), {})
    assert cut([raw], 3).parts == {0: raw}


def test_one_shard_gets_the_frame_as_it_is() -> None:
    whole = part([entry(0)], b"\1", False)
    assert cut([whole], 1).parts == {0: whole}
