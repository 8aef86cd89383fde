"""How text from outside is shown on a terminal: it cannot control it, and tables fit its width."""

from __future__ import annotations

import datetime
import shutil
import sys
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

PROGRESS_EVERY_S = 0.1
FLEXIBLE_MIN = 12  # columns that are cut are still so wide
CELL_MAX = 1_000  # characters: every row is as wide as the widest, and a title may have a million
GAP = "  "  # between columns


def plain(text: str) -> str:
    """The text on one line, with escapes such as ``\\x1b`` for what is not a visible character.

    Without them a title could move the cursor, set colours, or (U+202E) turn the direction of what follows.
    """
    return _escaped(text, lambda character: character.encode("unicode_escape").decode())


def json_text(document: Any, indent: bool = False) -> str:
    """JSON as orjson writes it, with JSON's escapes for what is not a visible character."""
    import orjson

    text = orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else None).decode()
    return "\n".join(_escaped(line, _json_escape) for line in text.split("\n"))


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else escape(character) for character in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def instant(milliseconds: int) -> str:
    """Local time with its offset."""
    return datetime.datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec="milliseconds")


def second(milliseconds: int | None) -> str:
    """Local time, short enough for a table; empty for None."""
    if milliseconds is None:
        return ""
    return datetime.datetime.fromtimestamp(milliseconds // 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def relative(milliseconds: int, now_ms: int) -> str:
    """How far a time is from now, in its largest unit or two, such as "in 9 h 46 min"."""
    left_s = abs(milliseconds - now_ms) // 1000
    parts: list[str] = []
    for name, size_s in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left_s = divmod(left_s, size_s)
        if count or parts:
            parts.append(f"{count} {name}" if count else "")
    span = " ".join(filter(None, parts[:2]))
    if not span:
        return "now"
    return f"in {span}" if milliseconds > now_ms else f"{span} ago"


def shown(text: str, instead: str) -> str:
    """A mark that standard output may not be able to show."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return instead
    return text


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], flexible: Collection[str] = ()) -> str:
    """A line per row, without the columns that are empty in all of them.

    On a terminal that is too narrow the columns ``flexible`` are cut; where that is not enough, each row becomes a
    block of lines. Elsewhere only texts beyond ``CELL_MAX`` are cut.
    """
    used = [at for at in range(len(headers)) if any(row[at] not in (None, "") for row in rows)]
    headers = [headers[at] for at in used]
    rows = [[row[at] for at in used] for row in rows]
    cells = [["" if value is None else _cell(str(value)) for value in row] for row in rows]
    sizes = [max(map(width, column)) for column in zip(headers, *cells, strict=True)]
    if sys.stdout.isatty():
        over = sum(sizes) + len(GAP) * (len(sizes) - 1) - shutil.get_terminal_size().columns
        for at in sorted(range(len(sizes)), key=lambda at: -sizes[at]):
            if headers[at] in flexible and over > 0:
                spared = min(over, max(0, sizes[at] - FLEXIBLE_MIN))
                sizes[at] -= spared
                over -= spared
        if over > 0:
            return "\n\n".join(fields(list(zip(headers, row, strict=True))) for row in cells)
    numbers = [all(isinstance(value, int | float | None) for value in column) for column in zip(*rows, strict=True)]
    lines = (headers, ["-" * size for size in sizes], *cells)
    return "\n".join(GAP.join(map(fit, line, sizes, numbers)).rstrip() for line in lines)


def _cell(text: str) -> str:
    return plain(text) if len(text) <= CELL_MAX else plain(text[:CELL_MAX]) + "…"


def width(text: str) -> int:
    """Columns of the terminal: a letter may take two, or none."""
    from wcwidth import wcswidth

    return len(text) if text.isascii() else int(wcswidth(text))


def fit(text: str, size: int, to_the_right: bool = False) -> str:
    """Exactly so many columns: cut, or with blanks."""
    if width(text) > size:
        while width(text) >= size:
            text = text[:-1]
        text += "…"
    blank = " " * (size - width(text))
    return blank + text if to_the_right else text + blank


def fields(pairs: Sequence[tuple[str, Any]]) -> str:
    """A line for each name and its value; none for what is empty."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name:<{width}}  {plain(str(value))}" for name, value in pairs if value not in (None, ""))


class Progress:
    """A line on standard error that changes, where that is a terminal; elsewhere one in ``elsewhere_s``, or none."""

    def __init__(self, elsewhere_s: float = float("inf")) -> None:
        self.changes = sys.stderr.isatty()
        self._every_s = PROGRESS_EVERY_S if self.changes else elsewhere_s
        self._next = time.monotonic() + (0.0 if self.changes else elsewhere_s)
        self._shown = False

    def show(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._every_s
            self._shown = True
            if self.changes:  # a line that is torn would stay
                room = shutil.get_terminal_size().columns - 1
                text = text if width(text) <= room else fit(text, room)
            sys.stderr.write(f"\r\x1b[K{text}" if self.changes else f"{text}\n")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown and self.changes:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
