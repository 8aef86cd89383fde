"""docs/: each block is true as it stands, each link leads somewhere, each generated page is what is generated."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jinja2
import msgspec
import pytest

from dispatcher.cli import main
from dispatcher.settings import load
from shards.preferences import parse_document
from shards.wire.notification import Notification
from shards.wire.requests import OPERATIONS
from tests.support import snippets
from tests.support.needs import needs
from tests.support.push.settings import write_secrets
from tests.support.service import ROOT
from tests.support.snippets import DOCS, PAGES, Snippet
from tools.reference import PAGES as GENERATED

OF_EXAMPLES = [page for page in sorted((ROOT / "examples").rglob("README.md")) if "node_modules" not in page.parts]
WRITTEN = [ROOT / "README.md", *PAGES, ROOT / "bench" / "README.md", *OF_EXAMPLES]
PICTURES = {"", "text", "http"}  # nothing to run: diagrams, layouts of files, what goes over a wire
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def of(*languages: str) -> list[object]:
    return [
        pytest.param(one, id=str(one))
        for one in snippets.every()
        if one.language in languages and one.mark not in ("not run", "file")
    ]


# --- every block is held to the truth by something -------------------------------------------------------------------


@pytest.mark.parametrize("snippet", snippets.every(), ids=str)
def test_something_holds_it_to_the_truth(snippet: Snippet) -> None:
    assert snippet.mark in ("", *snippets.MARKS), f"{snippet.mark} is none of {snippets.MARKS}"
    if snippet.mark == "tested":
        file, _, name = snippet.said.partition("::")
        tests = [one.name for one in ast.parse((ROOT / file).read_text()).body if isinstance(one, ast.FunctionDef)]
        assert name in tests
        assert f"{snippet.page}" in (ROOT / file).read_text(), f"{file} does not read {snippet.page}"
    elif snippet.mark == "file":
        assert snippet.text in (ROOT / snippet.said).read_text(), f"{snippet.said} says something else"
    elif snippet.mark == "not run":
        assert len(snippet.said) > 10
    else:
        assert snippet.language in PICTURES | {"toml", "sh", "console", "json", "jinja", "python"}, (
            "say which test runs it, or why none does: see tests/support/snippets.py"
        )
        assert snippet.language != "sh" or str(snippet) in CHECKED, "nothing in it is checked: mark it"
        assert snippet.language or not re.search(r"(?m)^dispatcher ", snippet.text), "commands are `sh`"
        assert "$ " not in snippet.text or snippet.language == "console", "commands with their output are `console`"


# --- blocks, by their language ---------------------------------------------------------------------------------------


SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"  # Apprise looks at the shape


@pytest.mark.parametrize("snippet", of("toml"))
def test_a_configuration_is_accepted(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for places of secrets, which are made here, and for tables that show some of their keys only."""
    text = snippet.text
    if text.startswith("[project"):
        assert "entry-points" in text
        return
    write_secrets(tmp_path)
    for name in set(re.findall(r"file:/etc/dispatcher/([\w.-]+)", text)):
        path = tmp_path / name
        if not path.exists():
            path.touch(0o600)
            path.write_text(SLACK if "slack" in name else SECRET)
    for name in re.findall(r"env:(\w+)", text):
        monkeypatch.setenv(name, SLACK)
    for one in snippets.of(DOCS / snippet.page):
        if one.title.endswith(".py"):
            (tmp_path / one.title).write_text(one.text)
    monkeypatch.syspath_prepend(ROOT / "examples" / "plugins" / "pager")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "mine.toml"
    path.touch(0o600)
    text = text.replace("/etc/dispatcher", str(tmp_path)).replace('"whsec_..."', f'"{SECRET}"')
    path.write_text(text)
    load(path, {}, {})


@pytest.mark.parametrize("snippet", of("json"))
def test_a_document_is_valid(snippet: Snippet) -> None:
    """A notification, a user's document or a request where it is one; anything else is JSON."""
    try:
        documents = [json.loads(snippet.text)]
    except json.JSONDecodeError:  # JSON Lines
        documents = [json.loads(line) for line in snippet.text.splitlines()]
    for document in documents:
        if isinstance(document, dict) and snippet.title != "answer":
            check_document(document)


def check_document(document: dict[str, Any]) -> None:
    if "op" in document:
        assert document["op"] in {"submit", *OPERATIONS}
    elif "contacts" in document and "user_id" not in document:
        parse_document(document)
    elif document.keys() & {"title", "template", "payload"}:
        msgspec.convert(document, Notification)


@pytest.mark.parametrize("snippet", of("jinja"))
def test_a_template_is_one(snippet: Snippet) -> None:
    jinja2.Environment(autoescape=True).parse(snippet.text)


def commands() -> Iterator[tuple[str, list[str]]]:
    """What is to be typed: where it stands, and the words of each call of ours."""
    for snippet in snippets.every():
        if snippet.language not in ("sh", "console"):
            continue
        text = re.sub(r"(?s)<<'?(\w+)'?\n.*?^\1$", "", snippet.text, flags=re.MULTILINE)
        for line in text.replace("\\\n", " ").splitlines():
            if snippet.language == "console" and not line.startswith("$ "):
                continue
            for words in calls(line.removeprefix("$ ")):
                yield str(snippet), words


def calls(line: str) -> Iterator[list[str]]:
    """The words of each program of a line of the shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            if words[:1] == ["dispatcher"]:
                yield words[1:]
            elif words[:3] in (["python", "-m", "dispatcher"], ["python3", "-m", "dispatcher"]):
                yield words[3:]
            words = [] if set(word) & set(";|&(") else ["to a file"]
        elif words or not re.fullmatch(r"[A-Z_]+=\S*", word):
            words.append(word)


COMMANDS = list(commands())
INSTALLED = re.compile(r"pip install .*notification-dispatcher\[(\w+)\]")
CHECKED = {where for where, _ in COMMANDS} | {str(one) for one in snippets.every() if INSTALLED.match(one.text)}


@pytest.mark.parametrize(
    ("where", "words"), COMMANDS, ids=[f"{where} {shlex.join(words)}" for where, words in COMMANDS]
)
def test_a_command_is_understood(where: str, words: list[str]) -> None:
    if not words or words[0].startswith("-"):
        words = ["serve", *words] if words != ["--help"] else ["stats", "--help"]
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0]) if words else None
        assert found is not None, f"no command {words}"
        command, words = found, words[1:]
    _, left, _ = command.make_parser(click.Context(command)).parse_args(words)
    assert not left


def test_every_command_is_shown() -> None:
    shown = {" ".join(words[:count]) for _, words in COMMANDS for count in (1, 2)}
    every = {
        f"{name} {inner}" if inner else name
        for name, command in main.commands.items()
        for inner in (command.commands if isinstance(command, click.Group) else [""])
    }
    assert not every - shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_extra_that_is_to_be_installed_exists(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(INSTALLED.findall(page.read_text(encoding="utf-8"))) <= set(extras)


# --- links, names of files, and pages that are generated -------------------------------------------------------------


def links() -> list[tuple[Path, str]]:
    """Those within this repository, of all that is written for people, outside of code."""
    found = []
    for page in WRITTEN:
        text = re.sub(r"(?ms)^ *```.*?^ *```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
        found += [(page, link) for link in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", text) if "://" not in link]
    return list(dict.fromkeys(found))


@functools.cache
def anchors(page: Path) -> set[str]:
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.*?)\s*$", text)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "link"), links(), ids=[f"{page.name} {link}" for page, link in links()])
def test_a_link_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), f"{target} is not there"
    assert page.parent != DOCS or target.is_relative_to(DOCS), (
        "the site has only what is in docs/: name the file instead"
    )
    assert not anchor or anchor in anchors(target), f"{target.name} has no heading {anchor}"


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_that_is_named_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:bench|config|dispatcher|examples|shards|tests|tools)/[\w./-]+)", text):
        assert (ROOT / path).exists(), f"there is no {path}"


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_what_is_generated(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == GENERATED[name](), "run `make reference`"


# --- the site --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it: a warning, such as a link to a page or a heading that is not there, fails."""
    if importlib.util.find_spec("zensical") is None:
        needs(False, "zensical is not installed (the extra docs)")
    copy = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, copy / "docs")
    shutil.copy(ROOT / "mkdocs.yml", copy)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    ended = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, re.sub(r"\x1b\[[\d;]*m", "", ended.stdout + ended.stderr)
    return copy / "site"


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    named = re.findall(r"\S+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(named) == [page.name for page in PAGES]
    for page in PAGES:
        assert (site / page.with_suffix(".html").name).exists()


def test_a_reader_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        for tag in re.findall(r"<(?:script|img|iframe|source|link)\b[^>]*>", page.read_text()):
            if 'rel="canonical"' not in tag:
                assert not re.search(r'(?:src|href|srcset)="?(?:https?:)?//', tag), f"{page.name}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text()), style.name


# --- figures ---------------------------------------------------------------------------------------------------------


FIGURES = re.findall(r"(?m)^\| [^|]+ \| ([^|]+) \| `(python -m bench\.\w+)` \|$", (DOCS / "performance.md").read_text())


def test_there_are_figures() -> None:
    assert len(FIGURES) > 10


@pytest.mark.parametrize(("figure", "command"), FIGURES)
def test_a_figure_is_the_measured_one(figure: str, command: str) -> None:
    """It stands in a row of bench/README.md that names the command, or that refers to the row above."""
    named = ""
    found = []
    for row in (ROOT / "bench" / "README.md").read_text().splitlines():
        named = row if "python -m bench." in row else named
        if f"{command}" in named and figure in row:
            found.append(row)
    assert found, f"bench/README.md has no {figure} by {command}"
