"""docs/operations.md: the commands and options that it tells people to type exist."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from dispatcher.cli import main
from tests.support.service import ROOT

GUIDE = (ROOT / "docs" / "operations.md").read_text()
LINES = sorted(set(re.findall(r"(?m)^(?:\$ )?(?:[A-Z_]+=\S+ )?(dispatcher .*)$", GUIDE)))


@pytest.mark.parametrize("line", LINES)
def test_a_line_to_type_is_understood(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0], comments=True)[1:]
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]}"
        command, words = found, words[1:]
    _, left, _ = command.make_parser(click.Context(command)).parse_args(words)
    assert not left


def test_there_are_such_lines() -> None:
    commands = {" ".join(line.split()[1:3]) for line in LINES}
    assert {
        "user put",
        "user get",
        "user delete",
        "user import",
        "dead list",
        "dead show",
        "dead replay",
        "dead purge",
    } <= commands


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", GUIDE))))
def test_links_lead_somewhere(link: str) -> None:
    file, _, heading = link.partition("#")
    text = (ROOT / "docs" / file).read_text() if file else GUIDE
    headings = {re.sub(r"[^\w -]", "", line).replace(" ", "-").lower() for line in re.findall(r"(?m)^#+ (.*)$", text)}
    assert not heading or heading in headings
