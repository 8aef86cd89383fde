"""From the answer to a frame to receipts: of each notification in it, or of a batch that has many frames.

A key that was made for a notification only serves to send it again. So where a frame was sent more than once, a
duplicate with such a key is the notification itself, and was accepted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from dispatcher.api.errors import DispatcherError, RejectedError, RequestError
from dispatcher.api.frames import Single
from dispatcher.api.ids import Id, Ids
from dispatcher.api.results import BatchReceipt, Duplicate, Receipt, Rejection
from shards.wire.errors import Error


class Answered(msgspec.Struct):
    """A receipt as it comes, of one frame, but for its ids."""

    accepted: int
    duplicates: int
    ids: msgspec.Raw
    duplicate: list[Duplicate]
    rejected: list[Rejection]


read_receipt = msgspec.msgpack.Decoder(Answered).decode
_read_ids = msgspec.msgpack.Decoder(list[Id]).decode


def handed_out(
    singles: Sequence[Single], message: bytes | None, error: DispatcherError | None, was_repeated: bool
) -> None:
    """Tell each notification of a frame what became of it."""
    if message is None:
        if isinstance(error, RequestError) and error.code not in ("internal", "unsupported"):  # such as too_large
            error = RejectedError(error.error)
        for single in singles:
            single.sink(None, error)
        return
    answered = read_receipt(message)
    all_ids = _read_ids(answered.ids)
    if len(all_ids) != len(singles):
        raise msgspec.ValidationError(f"{len(all_ids)} ids for {len(singles)} notifications")
    if not answered.duplicate and not answered.rejected:
        for single, ids in zip(singles, all_ids, strict=True):
            single.sink(Receipt(ids, [ids]) if type(ids) is str else _receipt(ids, False, False, []), None)
        return
    mismatches: dict[int, bool] = {}
    for one in answered.duplicate:
        mismatches[one.index] = mismatches.get(one.index, False) or one.mismatch
    rejections: dict[int, list[Rejection]] = {}
    for other in answered.rejected:
        rejections.setdefault(other.index, []).append(other)
    for at, (single, ids) in enumerate(zip(singles, all_ids, strict=True)):
        is_known = at in mismatches and not (single.is_made and was_repeated)
        rejected = rejections.get(at, [])
        if rejected and not (isinstance(ids, list) and any(ids)):
            single.sink(None, RejectedError(rejected[0].error))
        else:
            single.sink(_receipt(ids, is_known, is_known and mismatches[at], rejected), None)


def _receipt(ids: Id, duplicate: bool, mismatch: bool, rejected: list[Rejection]) -> Receipt:
    listed = ids if isinstance(ids, list) else [ids]
    missing = [at for at, id in enumerate(listed) if id is None]
    places = [Rejection(at, one.error) for at, one in zip(missing, rejected, strict=False)]
    return Receipt(next(id for id in listed if id is not None), listed, duplicate, mismatch, places)


def flattened(receipt: BatchReceipt, sizes: Sequence[int]) -> Receipt:
    """Of a notification that was sent in parts, each with so many of its recipients."""
    ids: list[str | None] = []
    rejected: list[Rejection] = []
    errors: dict[int, list[Error]] = {}
    for one in receipt.rejected:
        errors.setdefault(one.index, []).append(one.error)
    for at, (part, size) in enumerate(zip(receipt.ids, sizes, strict=True)):
        found = part if isinstance(part, list) else [part] * size  # None: it was rejected as a whole
        missing = [place for place, id in enumerate(found, len(ids)) if id is None]
        told = errors.get(at, [])
        told = told * len(missing) if len(told) == 1 else told
        rejected += [Rejection(place, error) for place, error in zip(missing, told, strict=False)]
        ids += found
    mismatch = any(one.mismatch for one in receipt.duplicate)
    first = next(id for id in ids if id is not None)
    return Receipt(first, ids, bool(receipt.duplicates), mismatch, rejected)


class Gathering:
    """Makes one receipt of the answers to a batch's frames, in any order."""

    def __init__(self) -> None:
        self._accepted = 0
        self._duplicates = 0
        self._length = 0
        self._ids: dict[int, msgspec.Raw] = {}
        self._duplicate: list[Duplicate] = []
        self._rejected: list[Rejection] = []

    def expect(self, count: int) -> int:
        """More notifications come: the place of the first one."""
        first = self._length
        self._length += count
        return first

    def take(self, first: int, answered: Answered, made: Collection[int], was_repeated: bool) -> None:
        """Of a frame whose notifications begin at ``first``; ``made``: the places of those with a key made for them."""
        self._ids[first] = answered.ids
        self._accepted += answered.accepted
        for one in answered.duplicate:
            if was_repeated and first + one.index in made:
                self._accepted += 1
            else:
                self._duplicates += 1
                self._duplicate.append(Duplicate(first + one.index, one.mismatch))
        for other in answered.rejected:
            self.reject(first + other.index, other.error)

    def reject(self, index: int, error: Error) -> None:
        self._rejected.append(Rejection(index, error))

    def receipt(self) -> BatchReceipt:
        return BatchReceipt(
            self._accepted,
            self._duplicates,
            Ids(self._length, self._ids),
            sorted(self._duplicate, key=_index),
            sorted(self._rejected, key=_index),
        )


def _index(one: Duplicate | Rejection) -> int:
    return one.index
