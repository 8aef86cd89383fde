"""A frame taken apart by users: what each of several shards gets of it.

Positions stay: in a part, a notification of somebody else leaves an empty place, so that ids and inbox entries, which
name positions, keep their meaning. Parts of one frame come together again where their shards do.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec
import xxhash

from shards import ledger, validation
from shards.changes import Note
from shards.dedupe import DIGEST_BYTES, NO_DIGEST
from shards.wire.encoding import is_json
from shards.wire.ids import hash_user
from shards.wire.notification import UserRoute

RULE_BYTES = 2

_users_msgpack = msgspec.msgpack.Decoder(list[UserRoute | None])
_users_json = msgspec.json.Decoder(list[UserRoute | None])


class Part(NamedTuple):
    """A frame with its ledger, as far as one journal has it. ``slots`` are the words of its deliveries."""

    at_us: int
    source: int
    fanned: bool
    inbox: bool
    widths: bytes
    verdict: bytes | None
    digests: bytes | None
    body: bytes
    updated_ms: int
    slots: array[int]
    notes: dict[int, Note]
    config: int = 0
    rules: bytes | None = None  # 16 bits by position


class Cut:
    """``parts`` by shard; ``place`` says where a delivery went."""

    def __init__(self, parts: dict[int, Part], owners: list[dict[int, int]], before: list[list[int]]) -> None:
        self.parts = parts
        self._owners = owners  # of each part that was cut: position -> shard
        self._before = before
        self._after = {shard: _offsets(part.widths) for shard, part in parts.items()}

    def place(self, number: int, slot: int) -> tuple[int, int]:
        """Shard and slot there of a delivery of the part ``number`` that was cut."""
        if not self._owners:
            return next(iter(self.parts)), slot
        position = bisect_right(self._before[number], slot) - 1
        shard = self._owners[number][position]
        return shard, self._after[shard][position] + slot - self._before[number][position]


def cut(parts: Sequence[Part], shards: int) -> Cut:
    """The parts of one frame, which different journals had, for ``shards`` shards."""
    first = parts[0]
    if len(parts) == 1 and (shards == 1 or not first.widths):  # what nobody could take apart stays with shard 0
        return Cut({0: first}, [], [])
    before = [_offsets(part.widths) for part in parts]
    owners = [{at: number % shards for at, number in enumerate(_hashes(part)) if part.widths[at]} for part in parts]
    entries: list[Sequence[msgspec.Raw]] = [] if first.fanned else [validation.raw_entries(one.body) for one in parts]
    mine: dict[int, list[tuple[int, int]]] = {}  # shard -> (position, which part has it)
    for number, owned in enumerate(owners):
        for position, shard in owned.items():
            mine.setdefault(shard, []).append((position, number))
    found: dict[int, Part] = {}
    for shard, places in mine.items():
        if len(parts) > 1:
            places.sort()
        length = places[-1][0] + 1
        widths, digests = bytearray(length), bytearray(length * DIGEST_BYTES)
        rules = bytearray(length * RULE_BYTES)
        slots = array("I")
        raws: list[bytes | msgspec.Raw] = [b"null" if is_json(first.body) else b"\xc0"] * length
        for position, number in places:
            part = parts[number]
            widths[position] = part.widths[position]
            start = before[number][position]
            slots.extend(part.slots[start : start + part.widths[position]])
            if part.digests:
                at = position * DIGEST_BYTES
                digests[at : at + DIGEST_BYTES] = part.digests[at : at + DIGEST_BYTES] or NO_DIGEST
            if part.rules:
                at = position * RULE_BYTES
                rules[at : at + RULE_BYTES] = part.rules[at : at + RULE_BYTES] or bytes(RULE_BYTES)
            if entries:
                raws[position] = entries[number][position]
        found[shard] = first._replace(
            inbox=any(part.inbox for part in parts),
            widths=bytes(widths),
            verdict=None,
            digests=bytes(digests) if any(part.digests for part in parts) else None,
            body=first.body if first.fanned else _listed(raws, is_json(first.body)),
            updated_ms=max(part.updated_ms for part in parts),
            slots=slots,
            notes={},
            rules=bytes(rules) if any(part.rules for part in parts) else None,
        )
    whole = Cut(found, owners, before)
    for number, part in enumerate(parts):
        for slot, note in part.notes.items():
            shard, there = whole.place(number, slot)
            found[shard].notes[there] = note
    return whole


def _offsets(widths: bytes) -> list[int]:
    """Of each position, its first slot."""
    return list(accumulate(widths, initial=0))


def _hashes(part: Part) -> list[int]:
    """Of each position, the hash of its user; 0 where there is none."""
    if part.fanned:
        items = validation.decode_items(part.body, True)
        return [0 if isinstance(item, validation.RejectedItem) else hash_user(item[0]) for item in items][
            : len(part.widths)
        ]
    try:
        users = (_users_json if is_json(part.body) else _users_msgpack).decode(part.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # of an entry that was rejected
        return [hash_user(validation.user_of(raw)) for raw in validation.raw_entries(part.body)]
    return [xxhash.xxh3_64_intdigest(user.user_id.encode()) if user else 0 for user in users]


def _listed(raws: list[bytes | msgspec.Raw], as_json: bool) -> bytes:
    if as_json:
        return b"[" + b",".join(raws) + b"]"
    count = len(raws)
    header = (
        bytes((0x90 | count,))
        if count < 16
        else b"\xdc" + count.to_bytes(2, "big")
        if count < 2**16
        else b"\xdd" + count.to_bytes(4, "big")
    )
    return header + b"".join(raws)


def counted(slots: array[int]) -> tuple[int, int, Counter[int]]:
    """How many deliveries are open, the lanes of these, and how often each word occurs."""
    words = Counter(slots)
    still_open = mask = 0
    for value, count in words.items():
        if ledger.outcome_of(value) in ledger.OPEN:
            still_open += count
            mask |= ledger.lane_bit(ledger.lane_of(ledger.channel_of(value), ledger.priority_of(value)))
    return still_open, mask, words
