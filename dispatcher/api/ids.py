"""The ids of a batch, as they came: decoded when they are looked at, as a million of them take a hundred megabytes."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import overload

import msgspec

Id = str | list[str | None] | None  # of a notification; a list where it has recipients; None where it was rejected
_read = msgspec.msgpack.Decoder(list[Id]).decode


class Ids(Sequence[Id]):
    """Of ``length`` notifications. ``parts`` have the ids of some in a row, by the place of the first."""

    def __init__(self, length: int, parts: dict[int, msgspec.Raw]) -> None:
        self._length = length
        self._parts = parts
        self._firsts = sorted(parts)
        self._last: tuple[int, list[Id]] = (-1, [])  # the part that was read last

    def _part(self, first: int) -> list[Id]:
        last, found = self._last
        if last != first:
            found = _read(self._parts[first])
            self._last = first, found
        return found

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Id]:
        at = 0
        for first in self._firsts:
            yield from (None for _ in range(at, first))
            found = _read(self._parts[first])
            yield from found
            at = first + len(found)
        yield from (None for _ in range(at, self._length))

    @overload
    def __getitem__(self, at: int) -> Id: ...
    @overload
    def __getitem__(self, at: slice) -> list[Id]: ...
    def __getitem__(self, at: int | slice) -> Id | list[Id]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(self._length))]
        place = at + self._length if at < 0 else at
        if not 0 <= place < self._length:
            raise IndexError(f"{at}: there are {self._length} ids")
        number = bisect.bisect_right(self._firsts, place) - 1
        if number < 0:
            return None
        first = self._firsts[number]
        part = self._part(first)
        return part[place - first] if place - first < len(part) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(map(str, self)))

    def __repr__(self) -> str:
        return repr(list(self))
