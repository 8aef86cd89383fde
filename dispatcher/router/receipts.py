"""A submit that waits for its receipt: which shards still have to journal which of its notifications."""

from __future__ import annotations

from array import array
from typing import Any

from shards.nearest import unknown
from shards.wire.errors import Error
from shards.wire.link import Duplicate, Rejection, Verdict

_SUFFIXES = [f"-{index:x}" for index in range(20_000)]


def frame_ids(generation: str, hashes: array[int], seq: int, first: int) -> list[str]:
    """The ids of consecutive notifications of a frame, the first at position ``first``; see ``wire.make_id``."""
    swapped = array("Q", hashes)
    swapped.byteswap()  # most significant byte first, so that the bytes read as hexadecimal
    text = swapped.tobytes().hex()
    prefix, middle = f"{generation}-", f"-{seq:x}"
    if first + len(hashes) > len(_SUFFIXES):
        return [f"{prefix}{text[16 * at : 16 * at + 16]}{middle}-{first + at:x}" for at in range(len(hashes))]
    suffixes = _SUFFIXES[first : first + len(hashes)]
    return [
        prefix + text[at : at + 16] + middle + suffix
        for at, suffix in zip(range(0, len(text), 16), suffixes, strict=True)
    ]


class ToTopic:
    """What all shards say of one notification to a topic. It is unknown if nobody in any shard is subscribed to it."""

    __slots__ = ("duplicates", "id", "raw", "rejections", "topic")

    def __init__(self, topic: str, id_: str, raw: bytes) -> None:
        self.topic = topic
        self.id = id_
        self.raw = raw
        self.duplicates: list[Duplicate] = []
        self.rejections: list[Rejection] = []

    def error(self, shards: int) -> Error | None:
        """Why it is rejected; where one shard could not take it, sending it again completes what others have."""
        for rejection in self.rejections:
            if rejection.error.code != "unknown_topic":
                return rejection.error
        if len(self.rejections) < shards:
            return None
        near = {name for rejection in self.rejections for name in rejection.near}
        return Error("unknown_topic", unknown("topic", self.topic, near), "topic")


class Receipt:
    """Gathers the verdicts of one submit. Positions are those after fan-out; ``shape`` maps them back.

    ``shape`` is None where every notification has one recipient, else ``(index, recipient or None)`` by position.
    """

    __slots__ = (
        "as_json", "deadline", "duplicates", "envelope", "ids", "rejected", "seq", "shape", "shards", "sizes", "topics",
        "waiting",
    )  # fmt: skip

    def __init__(
        self,
        envelope: list[bytes],
        as_json: bool,
        seq: int | str | None,
        positions: int,
        deadline: float,
        shape: list[tuple[int, int | None]] | None,
        sizes: list[int | None] | None,
        topics: dict[int, ToTopic] | None = None,
        shards: int = 0,
    ) -> None:
        self.envelope = envelope
        self.as_json = as_json
        self.seq = seq
        self.deadline = deadline
        self.ids: list[str | None] = [None] * positions
        self.duplicates: list[tuple[int, bool]] = []
        self.rejected: list[tuple[int, Error]] = []
        self.shape = shape
        self.sizes = sizes  # by notification: None for a single recipient, else how many
        self.topics = topics or {}  # by position; each is in the frames of all ``shards`` shards
        self.shards = shards
        self.waiting = 0

    def settle(self, positions: list[int] | range, ids: list[str], first: int, verdict: Verdict | None) -> None:
        """One frame's part is on disk: its notifications at ``positions`` stand from ``first`` on in the frame."""
        mine = self.ids
        if type(positions) is range:
            mine[positions.start : positions.stop] = ids
        else:
            for position, text in zip(positions, ids, strict=True):
                mine[position] = text
        if verdict is not None:
            end = first + len(positions)
            for duplicate in verdict.duplicates:
                if first <= duplicate.index < end:
                    position = positions[duplicate.index - first]
                    if position in self.topics:
                        self.topics[position].duplicates.append(duplicate)
                        continue
                    mine[position] = duplicate.id
                    self.duplicates.append((position, duplicate.mismatch))
            for rejection in verdict.rejected:
                if first <= rejection.index < end:
                    position = positions[rejection.index - first]
                    if position in self.topics:
                        self.topics[position].rejections.append(rejection)
                        continue
                    mine[position] = None
                    self.rejected.append((position, rejection.error))
        self.waiting -= 1

    def document(self) -> dict[str, Any]:
        """The answer, once nothing is waited for."""
        for position, to_topic in self.topics.items():
            error = to_topic.error(self.shards)
            self.ids[position] = to_topic.id if error is None else None
            if error is not None:
                self.rejected.append((position, error))
            elif to_topic.duplicates:
                self.duplicates.append((position, any(one.mismatch for one in to_topic.duplicates)))
        duplicates, rejected = sorted(self.duplicates), sorted(self.rejected, key=lambda pair: pair[0])
        shape = self.shape
        if shape is not None:  # what could not be routed has its positions at the end
            rejected.sort(key=lambda pair: shape[pair[0]][0])
        answer: dict[str, Any] = {
            "ok": True,
            "accepted": len(self.ids) - len(duplicates) - len(rejected),
            "duplicates": len(duplicates),
            "ids": self.ids if shape is None else self._nested_ids(shape),
            "duplicate": [
                {"index": shape[position][0] if shape else position, "mismatch": mismatch}
                for position, mismatch in duplicates
            ],
            "rejected": [
                {"index": shape[position][0] if shape else position, "error": error} for position, error in rejected
            ],
        }
        if self.seq is not None:
            answer["seq"] = self.seq
        return answer

    def _nested_ids(self, shape: list[tuple[int, int | None]]) -> list[Any]:
        nested: list[Any] = [None if size is None else [None] * size for size in self.sizes or ()]
        for (index, recipient), text in zip(shape, self.ids, strict=True):
            if recipient is None:
                nested[index] = text
            else:
                nested[index][recipient] = text
        return nested
