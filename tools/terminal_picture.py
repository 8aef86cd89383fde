"""What an emulated terminal shows, as an SVG: a dark window, readable on light and dark pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from xml.sax.saxutils import escape

import pyte
from pyte.screens import Char

LETTER, LINE, MARGIN, BAR = 8.4, 18, 16, 34  # pixels; the width of a letter is held by textLength
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
PAPER, FRAME, INK, TITLE = "#0d1117", "#30363d", "#c9d1d9", "#8b949e"
COLOURS = {"default": INK, "red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341", "cyan": "#79c0ff"}


def picture(screen: pyte.Screen, title: str) -> str:
    """All lines down to the last one that is not empty, in a window of that title."""
    rows = [[screen.buffer[row][column] for column in range(screen.columns)] for row in range(screen.lines)]
    while rows and not "".join(letter.data for letter in rows[-1]).strip():
        rows.pop()
    width = round(2 * MARGIN + LETTER * screen.columns)
    height = BAR + MARGIN + LINE * len(rows)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    told = f'role="img" aria-label="{escape(title)}"'
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" font-size="14" {told}>',
            f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="{PAPER}" stroke="{FRAME}"/>',
            f'<text x="{MARGIN}" y="22" fill="{TITLE}">{escape(title)}</text>',
            *(text for number, row in enumerate(rows) for text in _line(row, BAR + LINE * number + 14)),
            "</svg>\n",
        )
    )


def _line(row: list[Char], y: int) -> Iterator[str]:
    """A text for each run of letters in one style."""
    column = 0
    for (colour, is_bold), run in itertools.groupby(row, lambda letter: (letter.fg, letter.bold)):
        letters = "".join(letter.data for letter in run)
        text = letters.rstrip()
        blank = len(text) - len(text.lstrip())
        if text.strip():
            weight = ' font-weight="bold"' if is_bold else ""
            length = LETTER * (len(text) - blank)
            yield (
                f'<text x="{MARGIN + LETTER * (column + blank):.1f}" y="{y}" fill="{COLOURS.get(colour, INK)}"{weight} '
                f'textLength="{length:.1f}" xml:space="preserve">{escape(text.lstrip())}</text>'
            )
        column += len(letters)
