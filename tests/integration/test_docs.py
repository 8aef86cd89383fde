"""docs/: the sessions and programs that its pages show do what they show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import snippets
from tests.support.session import Session
from tests.support.snippets import Snippet


def of(language: str) -> dict[Path, list[Snippet]]:
    """The pages that have something to run in it, each with all of its blocks."""
    found = {page: [one for one in snippets.of(page) if not one.mark] for page in snippets.PAGES}
    return {page: blocks for page, blocks in found.items() if any(is_run(one, language) for one in blocks)}


def is_run(snippet: Snippet, language: str) -> bool:
    return snippet.language == language and not (snippet.title and language == "python")


@pytest.mark.parametrize("page", of("console"), ids=lambda page: page.name)
def test_a_session_prints_what_is_shown(page: Path, tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        for snippet in of("console")[page]:
            session.run(snippet)


@pytest.mark.parametrize("page", of("python"), ids=lambda page: page.name)
def test_the_programs_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """One after the other in one interpreter, each with the names of those before it."""
    with Session(tmp_path) as session:
        session.program("\n\n".join(one.text for one in of("python")[page] if is_run(one, "python")))
