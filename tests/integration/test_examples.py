"""Every program in examples/python runs by itself, ends with exit code 0, and prints what its first lines say."""

from __future__ import annotations

import re

import pytest

from tests.support.examples import EXAMPLES, Ran, described, run_all
from tests.support.service import ROOT

LIST = (ROOT / "examples" / "README.md").read_text()


@pytest.fixture(scope="module")
def all_of_them() -> dict[str, Ran]:
    return {ran.name: ran for ran in run_all()}


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_it_prints_what_it_says(all_of_them: dict[str, Ran], name: str) -> None:
    assert not all_of_them[name].problem, all_of_them[name].problem


@pytest.mark.parametrize("name", [path.stem for path in EXAMPLES])
def test_it_is_listed_and_says_what_it_prints(name: str) -> None:
    (path,) = (path for path in EXAMPLES if path.stem == name)
    _, prints = described(path)
    assert prints.strip()
    assert f"(python/{name}.py)" in LIST


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", LIST):
        assert (ROOT / "examples" / link).exists(), link


def test_most_need_no_guard() -> None:
    """Embedded use needs none; two are also modules that other programs import."""
    guarded = [path.stem for path in EXAMPLES if "\nif __name__" in path.read_text()]
    assert guarded == ["channel_by_import_path", "in_fastapi"]
