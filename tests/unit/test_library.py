"""What ``import dispatcher`` gives: every name that is promised, and nothing before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import dispatcher
from tests.support.service import ROOT

HEAVY = ("asyncio", "jinja2", "aiohttp", "sqlite3", "rich", "zmq", "dispatcher.api.engine")
TREE = ast.parse((ROOT / "dispatcher" / "__init__.py").read_text())
PROMISED = [
    (alias.name, node.module or "")
    for block in TREE.body
    if isinstance(block, ast.If)
    for node in block.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", [name for name, _ in PROMISED])
def test_every_name_is_there(name: str) -> None:
    assert getattr(dispatcher, name).__name__ == name
    assert name in dir(dispatcher)


def test_type_checkers_are_told_the_same_as_the_interpreter() -> None:
    assert dict(PROMISED) == dispatcher._PLACES


def test_a_star_import_needs_no_extras() -> None:
    missing = "sys.modules.update(cryptography=None, dbus_fast=None)"
    ended = run("-c", f"import sys; {missing}\nfrom dispatcher import *\nprint(NotificationService, Secret)")
    assert ended.returncode == 0, ended.stderr


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = dispatcher.Nothing


@pytest.mark.parametrize(
    ("imported", "heavy"),
    [
        ("dispatcher", HEAVY),
        ("dispatcher.client", HEAVY[:5]),
        ("dispatcher.service", HEAVY[:5]),
        (
            "dispatcher.supervisor",
            ("asyncio", "jinja2", "aiohttp", "rich", "zmq", "shards.journal", "dispatcher.router"),
        ),
        ("dispatcher.router.router", (*HEAVY[:5], "dispatcher.settings")),
        ("dispatcher.collector", ("asyncio", "jinja2", "aiohttp", "rich", "dispatcher.settings")),
        ("shards.worker", ("asyncio", "jinja2", "aiohttp", "rich", "phonenumbers", "shards.rebuild")),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(imported: str, heavy: tuple[str, ...]) -> None:
    ended = run("-c", f"import sys, {imported}; print(*(name for name in {heavy} if name in sys.modules))")
    assert (ended.stdout, ended.stderr) == ("\n", "")


def test_the_package_says_that_it_is_typed() -> None:
    for package in ("dispatcher", "shards"):
        assert (ROOT / package / "py.typed").exists()
