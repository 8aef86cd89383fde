"""What README.md tells people to do works as it stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from dispatcher.cli import main
from tests.support.service import ROOT, RunningDispatcher

README = (ROOT / "README.md").read_text()
RUN_ELSEWHERE = {  # how else they are tested
    "make": "CI, and below",
    "pip": "CI installs the wheel into an environment of its own",
    "python": "every test of a running service",
}


def blocks(language: str) -> list[str]:
    return [text for of, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README) if of == language]


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(shards=2) as running:
        yield running


def test_the_python_example_prints_what_is_shown(tmp_path: Path) -> None:
    (program,), (shown,) = blocks("python"), blocks("")
    (tmp_path / "example.py").write_text(program)
    ended = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout == shown, ended.stderr
    assert (tmp_path / ".dispatcher").is_dir(), "where it keeps everything"


def test_the_shell_lines(dispatcher: RunningDispatcher) -> None:
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    commands = [words[1:] for words in lines if words[0] == "dispatcher"]
    assert [words[0] for words in commands] == ["send", "status", "explain", "top"]
    assert {words[0] for words in lines} == {"dispatcher", *RUN_ELSEWHERE}
    for words in commands:
        ended = CliRunner().invoke(main, [*words, "--submit", dispatcher.submit])
        assert ended.exit_code == 0, ended.output
        assert ended.stdout
    dispatcher.settled_stats()
    stored = dispatcher.request("status", user_id="ada", idempotency_key="hello-1")
    assert [delivery["outcome"] for delivery in stored["deliveries"]] == ["delivered"]


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?m)^make ([a-z]+)", README)) == {"demo", "test"}
    assert {"demo", "test", "lint", "chaos", "bench", "clients"} <= targets


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("image", re.findall(r"!\[[^]]+\]\(([^)]+)\)", README))
def test_pictures_are_whole_and_need_nothing_from_elsewhere(image: str) -> None:
    text = (ROOT / image).read_text()
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in text
    assert "@import" not in text


def test_it_is_read_in_minutes() -> None:
    assert len(README.split()) < 1_300
