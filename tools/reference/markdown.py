"""Markdown for the pages that are generated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

GENERATED = "<!-- Written by `make reference`; do not edit. -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    escaped = [re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells]
    return f"| {' | '.join(escaped)} |".replace("|  |", "| |")


def prose(text: str) -> str:
    """A comment as a paragraph: pages are links, tables of the configuration are code."""
    text = re.sub(r"docs/(\w[\w-]*\.md)", r"[\1](\1)", text).replace("*", r"\*")
    return re.sub(r"(?<![`\w\]])(\[\[?[A-Za-z_]+(?:\.[\w\\*]+)*\]\]?)(?![(`])", lambda found: _code(found[1]), text)


def _code(text: str) -> str:
    return f"`{text.replace(chr(92), '')}`"
