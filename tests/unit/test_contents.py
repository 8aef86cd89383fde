"""What notifications say, by their place."""

from __future__ import annotations

import msgspec
import pytest

from shards.contents import BYTES_KEPT, FRAMES_KEPT, Content, Contents

PLAIN = msgspec.msgpack.encode([{"user_id": "ann", "title": "one"}, 5, {"user_id": "bob", "title": "two"}])


def test_an_item_is_decoded_by_its_position() -> None:
    user_id, notification = Content(PLAIN, False, None).item(2)
    assert (user_id, notification.title) == ("bob", "two")


@pytest.mark.parametrize("index", [1, 3])
def test_what_is_undecodable_or_not_there(index: int) -> None:
    with pytest.raises(LookupError):
        Content(PLAIN, False, None).item(index)


def test_fanned_entries_count_each_recipient() -> None:
    body = msgspec.json.encode([(["ann", "bob"], {"title": "both"}), {"user_id": "cid", "title": "one"}])
    content = Content(body, True, None)
    assert [content.item(index)[0] for index in range(3)] == ["ann", "bob", "cid"]


def test_a_digest_is_found_at_its_position_only() -> None:
    digests = bytes(range(16)) + bytes(range(8, 24))
    content = Content(b"", False, digests)
    assert content.find(bytes(range(8, 24))) == 1
    assert content.find(digests[8:24]) is None  # stands across two


def test_other_frames_are_read_from_the_journal() -> None:
    asked: list[int] = []

    def read(seq: int) -> tuple[bytes, bool, bytes | None] | None:
        asked.append(seq)
        return (PLAIN, False, None) if seq == 1 else None

    contents = Contents(read)
    assert contents.notification(1, 0).title == "one"
    assert contents.notification(1, 2).title == "two"
    assert contents.get(2) is None
    assert asked == [1, 2]


def test_the_frames_used_last_are_kept() -> None:
    asked: list[int] = []

    def read(seq: int) -> tuple[bytes, bool, bytes | None]:
        asked.append(seq)
        return PLAIN, False, None

    contents = Contents(read)
    for seq in range(FRAMES_KEPT):
        contents.get(seq)
    contents.get(0)
    contents.get(FRAMES_KEPT)  # drops 1, the one that was used longest ago
    asked.clear()
    contents.get(0)
    contents.get(1)
    assert asked == [1]


def test_large_frames_are_kept_up_to_a_bound_in_bytes() -> None:
    asked: list[int] = []

    def read(seq: int) -> tuple[bytes, bool, bytes | None]:
        asked.append(seq)
        return bytes(BYTES_KEPT // 2 if seq < 4 else BYTES_KEPT + 1), False, None

    contents = Contents(read)
    for seq in (1, 2, 1, 3, 1, 2, 4, 4):  # the third takes the second's place
        contents.get(seq)
    assert asked == [1, 2, 3, 2, 4]
