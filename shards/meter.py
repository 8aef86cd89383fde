"""What a template may take of time and memory: a price for everything, and a bound on how large a value becomes.

- A body (of a loop, a macro, a block) costs as many steps as it has nodes, each time that it is entered; a loop as many
  as it has items; a value that is made, compared, read through or written one per 16 characters.
- What makes something much larger than what it is given is measured before it is done.
- A list is as large as all that is in it, so that lists of lists of lists do not multiply when they are written.

No value is larger than ``VALUE_MAX``, and no rendering takes more than ``STEPS_MAX``, a tenth of a second at the worst.
What renders many things within another ``Meter`` sees what they have taken together.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Sequence, ValuesView
from contextvars import ContextVar
from string import Formatter
from typing import Any, Self

STEPS_MAX = 100_000
VALUE_MAX = 2 * 2**20  # characters; a payload has at most half as many
ITEM = 8  # an item of a list is as much as so many characters
CHARACTERS_SHIFT = 4  # of a step
INTEGER_BITS_MAX = 4_096
LABORIOUS_MAX = 65_536  # characters of what takes longer than linear time


class TooMuchError(Exception):
    """A rendering takes more than it may."""


class Meter:
    """What one rendering may still take, while it is entered; below 0, it was too much."""

    __slots__ = ("left", "outer", "token")

    def __enter__(self) -> Self:
        self.left = STEPS_MAX
        self.outer = _meter.get(None)
        self.token = _meter.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _meter.reset(self.token)
        if self.outer is not None:
            self.outer.left -= STEPS_MAX - self.left


_meter: ContextVar[Meter | None] = ContextVar("meter")


def spend(steps: int) -> None:
    meter = _meter.get()
    assert meter is not None
    meter.left -= steps
    if meter.left < 0:
        raise TooMuchError(f"it takes more than {STEPS_MAX} steps; make its loops and macros smaller")


def refuse_above(size: int, most: int = VALUE_MAX) -> None:
    if size > most:
        raise TooMuchError(f"a value would have more than {most} characters, or as much in a list")


def check_bits(bits: int) -> None:
    if bits > INTEGER_BITS_MAX:
        raise TooMuchError(f"a number would have more than {INTEGER_BITS_MAX} bits")


def size_of(value: Any) -> int:
    """In characters, all that is in it included; counting ends where it is too large."""
    if isinstance(value, str):
        return len(value)
    size, pending = 0, [value]
    while pending and size <= VALUE_MAX:
        one = pending.pop()
        size += ITEM
        if isinstance(one, str):
            size += len(one)
        elif isinstance(one, int | float):
            continue
        elif isinstance(one, dict):
            pending += one
            pending += one.values()
        elif isinstance(one, list | tuple | KeysView | ValuesView | ItemsView):
            pending += one
        elif isinstance(one, range):
            size += ITEM * len(one)
    return size


def checked(value: Any) -> Any:
    """The value, paid for."""
    kind = type(value)
    if kind is bool or kind is float or value is None:
        spend(1)
        return value
    if kind is int:
        check_bits(value.bit_length())
        spend(1)
        return value
    size = size_of(value)
    refuse_above(size)
    spend(1 + (size >> CHARACTERS_SHIFT))
    return value


def each(items: Any) -> Any:
    """What a loop goes over, paid for; a generator becomes a list."""
    items = items if hasattr(items, "__len__") else list(_one_by_one(items))
    spend(len(items))
    return items


def _one_by_one(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        spend(1)
        yield item


def joined(pieces: Iterable[str]) -> str:
    """The text that a macro or ``{% set %}`` has gathered."""
    texts = list(pieces)
    size = sum(map(len, texts))
    refuse_above(size)
    spend(1 + (size >> CHARACTERS_SHIFT))
    return "".join(texts)


# --- what grows: an upper bound of the result's size ---------------------------------------------------------------


def size_multiplied(value: Any, count: int) -> int:
    return size_of(value) * abs(count)


def size_joined(separator: Any, items: Any) -> int:
    return size_of(items) + size_of(separator) * (len(items) if hasattr(items, "__len__") else 0)


def size_formatted(text: str, arguments: Sequence[Any], marker: str) -> int:
    """``marker`` begins the places of ``text`` where arguments are put.

    Every number in it may be a width, and so may every argument where the text takes widths from them.
    """
    refuse_above(len(text), LABORIOUS_MAX)
    widths = sum(map(int, re.findall(r"\d{1,9}", text)))
    if re.search(r"%[#0\- +\d.]*\*", text) if marker == "%" else _has_nested(text):
        widths += sum(abs(one) for one in arguments if isinstance(one, int))
    return len(text) + widths + text.count(marker) * max(map(size_of, arguments), default=0)


def _has_nested(text: str) -> bool:
    """Whether ``{:{width}}`` is in it."""
    return any("{" in (spec or "") for _, _, spec, _ in Formatter().parse(text))


def size_grown(name: str, value: Any, arguments: Sequence[Any]) -> int:
    """Of a method of texts, or of the filter of that name."""
    numbers = [abs(int(one)) for one in arguments if isinstance(one, int)]
    texts = [one for one in arguments if isinstance(one, str)]
    match name:
        case "center" | "ljust" | "rjust" | "zfill":
            return max(numbers, default=0)
        case "replace" if len(texts) >= 2:
            return size_of(value) + str(value).count(texts[0]) * len(texts[1])
        case "indent":
            return size_of(value) + (str(value).count("\n") + 1) * max([4, *numbers, *map(len, texts)])
        case "wordwrap":
            refuse_above(size_of(value), LABORIOUS_MAX)
            return size_multiplied(value, max([1, *map(len, texts)]))
        case "tojson":
            return size_multiplied(value, max([1, *numbers]))
        case "sum" if any(isinstance(one, list | tuple) for one in arguments):
            return size_multiplied(value, size_of(value))
        case "join":
            return size_joined(arguments[0] if arguments else "", value)
        case "format":
            return size_formatted(str(value), arguments, "%")
    return 0
