"""Tables for a screen of any width: what matters least is left out where there is no room for all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dispatcher.screen import Line, Style
from dispatcher.terminal import fit, plain, width

NAME_MAX = 12  # columns of the terminal


class Column(NamedTuple):
    """Those of the highest ``rank`` are left out first, those of rank 0 never."""

    header: str
    rank: int = 0
    is_text: bool = False


class Row(NamedTuple):
    cells: Sequence[str]
    style: Style = ""


def grid(columns: Sequence[Column], rows: Sequence[Row], room: int) -> Iterator[Line]:
    """A line for the headers and one for each row, of at most ``room`` columns if what must be shown fits."""
    cells = [[plain(cell) for cell in row.cells] for row in rows]
    headers = [column.header for column in columns]
    sizes = [max(map(width, column)) for column in zip(headers, *cells, strict=True)]
    sizes[0] = min(sizes[0], NAME_MAX)
    shown = _shown(columns, sizes, room)
    styles: list[Style] = ["bold", *(row.style for row in rows)]
    for line, style in zip((headers, *cells), styles, strict=True):
        yield " ".join(fit(line[at], sizes[at], not columns[at].is_text) for at in shown).rstrip(), style


def _shown(columns: Sequence[Column], sizes: Sequence[int], room: int) -> list[int]:
    """The places of the columns that there is room for."""
    shown = list(range(len(columns)))
    while sum(sizes[at] + 1 for at in shown) - 1 > room:
        least = max(shown, key=lambda at: (columns[at].rank, at))
        if not columns[least].rank:
            break
        shown.remove(least)
    return shown


def flow(items: Sequence[str], room: int) -> Iterator[str]:
    """The items on as few lines as hold them, none of them torn."""
    line = ""
    for item in items:
        if line and width(line) + 2 + width(item) > room:
            yield line
            line = item
        else:
            line = f"{line}  {item}" if line else item
    yield line
