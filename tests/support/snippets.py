"""The fenced blocks of docs/, and what holds each of them to the truth.

A comment on the line above a block says what a block of its kind would not do by itself:

    <!-- tested: tests/unit/test_mail.py::test_name -->     that test runs it
    <!-- file: examples/deploy/Dockerfile -->               it is that file, or a part of it
    <!-- not run: it needs a broken disk -->                nothing does; the reason

Blocks within a comment are not shown, and run all the same: they arrange what a session finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.service import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
MARKS = ("tested", "file", "not run")


class Snippet(NamedTuple):
    page: str
    line: int
    language: str
    title: str
    text: str
    mark: str  # one of MARKS, or nothing
    said: str  # what stands behind the mark

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def of(page: Path) -> Iterator[Snippet]:
    """The blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    fences = r"(?ms)^(?:<!-- ([^\n]*?) -->\n)?(?P<indent> *)```(\w*)([^\n]*)\n(.*?)^(?P=indent)```$"
    for found in re.finditer(fences, text):
        comment, indent, language, options, body = found.groups()
        mark, _, said = (comment or "").partition(": ")
        title = re.search(r'title="([^"]*)"', options)
        body = re.sub(rf"(?m)^{indent}", "", body)
        line = text.count("\n", 0, found.start(3)) + 1
        yield Snippet(page.name, line, language, title[1] if title else "", body, mark, said)


def every() -> list[Snippet]:
    return [snippet for page in PAGES for snippet in of(page)]
