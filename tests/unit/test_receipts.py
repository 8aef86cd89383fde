"""The answer to a submit, gathered from frames."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from dispatcher.router.receipts import Receipt, ToTopic, frame_ids
from shards.wire.errors import Error
from shards.wire.ids import make_id
from shards.wire.link import Duplicate, Rejection, Verdict

BAD = Error("bad_value", "no")


@pytest.mark.parametrize("first", [0, 5, 19_999, 50_000])
def test_ids_are_those_that_shards_make(first: int) -> None:
    hashes = array("Q", [0, 1, 2**64 - 1])
    assert frame_ids("gen", hashes, 77, first) == [
        make_id("gen", value, 77, first + at) for at, value in enumerate(hashes)
    ]


def test_accepted_in_the_order_of_the_request() -> None:
    receipt = Receipt([], True, 9, 4, 0.0, None, None)
    receipt.waiting = 2
    receipt.settle([1, 3], ["b", "d"], 0, None)
    receipt.settle([0, 2], ["a", "c"], 10, None)
    assert receipt.waiting == 0
    answer = receipt.document()
    assert (answer["ids"], answer["accepted"], answer["seq"]) == (["a", "b", "c", "d"], 4, 9)


def test_exceptions_are_mapped_to_their_positions() -> None:
    receipt = Receipt([], True, None, 4, 0.0, None, None)
    verdict = Verdict([Duplicate(6, "original", True)], [Rejection(5, BAD), Rejection(9, BAD)])
    receipt.settle([3, 1, 0], ["x", "y", "z"], 5, verdict)  # 9 is another submit's
    receipt.settle(range(2, 3), ["w"], 0, None)
    answer = receipt.document()
    assert answer["ids"] == ["z", "original", "w", None]
    assert answer["duplicate"] == [{"index": 1, "mismatch": True}]
    assert answer["rejected"] == [{"index": 3, "error": BAD}]
    assert (answer["accepted"], answer["duplicates"]) == (2, 1)
    assert "seq" not in answer


def test_recipients_answer_as_a_list_in_their_order() -> None:
    shape: list[tuple[int, int | None]] = [(0, None), (1, 0), (1, 1)]
    receipt = Receipt([], True, None, 3, 0.0, shape, [None, 2])
    receipt.settle([2, 0], ["second", "single"], 0, None)
    receipt.settle([1], ["-"], 0, Verdict([], [Rejection(0, BAD)]))
    answer = receipt.document()
    assert answer["ids"] == ["single", [None, "second"]]
    assert answer["rejected"] == [{"index": 1, "error": BAD}]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([None, None], (1, 0, None)),
        ([None, "unknown_topic"], (1, 0, None)),
        (["duplicate", "unknown_topic"], (0, 1, None)),
        (["duplicate", None], (0, 1, None)),
        (["unknown_topic", "unknown_topic"], (0, 0, "unknown_topic")),
        ([None, "overloaded"], (0, 0, "overloaded")),
        (["unknown_topic", "overloaded"], (0, 0, "overloaded")),
        (["bad_value", "bad_value"], (0, 0, "bad_value")),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_topics_verdict_is_that_of_all_shards(
    verdicts: list[Any], expected: tuple[int, int, str | None], order: int
) -> None:
    receipt = Receipt([], True, None, 1, 0.0, [(0, None)], [None], {0: ToTopic("news", "b-1", b"")}, 2)
    receipt.waiting = 2
    for number, said in enumerate(verdicts[::order]):
        verdict = Verdict([], [])
        if said == "duplicate":
            verdict.duplicates.append(Duplicate(0, "b-1", True))
        elif said:
            verdict.rejected.append(Rejection(0, Error(said, "no", "topic"), [f"new{number}"]))
        receipt.settle([0], ["an id of a user"], 0, verdict)
    answer = receipt.document()
    assert (answer["accepted"], answer["duplicates"]) == expected[:2]
    assert [one["error"].code for one in answer["rejected"]] == ([expected[2]] if expected[2] else [])
    assert answer["ids"] == [None if expected[2] else "b-1"]
    if expected[2] == "unknown_topic":
        assert answer["rejected"][0]["error"].message == "unknown topic 'news'; did you mean new1 or new0?"
