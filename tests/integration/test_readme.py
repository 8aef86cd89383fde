"""What README.md tells people to do works as it stands there."""

from __future__ import annotations

import ast
import datetime
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from dispatcher.cli import main
from dispatcher.settings import Settings, load
from tests.support.service import ROOT, RunningDispatcher

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return [text for of, text in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README) if of == language]


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(shards=2) as running:
        yield running


def test_the_python_example(dispatcher: RunningDispatcher) -> None:
    (program,) = blocks("python")
    assert Settings().dispatcher.submit in program
    program = program.replace(Settings().dispatcher.submit, dispatcher.submit)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    receipt, status = map(ast.literal_eval, ended.stdout.splitlines())
    (shown,) = map(ast.literal_eval, re.findall(r"(?m)^\{'ok'.*\}$", README))
    assert receipt | {"ids": []} == shown | {"ids": []}
    assert status["id"] == receipt["ids"][0]
    assert [delivery["channel"] for delivery in status["deliveries"]] == ["email", "push", "inapp"]


def test_the_shell_lines(dispatcher: RunningDispatcher) -> None:
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    commands = [words[1:] for words in lines if words[0] == "dispatcher"]
    assert [words[0] for words in commands] == ["send", "status", "stats", "config", "channel", "user"]
    id = ""
    for words in commands:
        if words[0] in {"config", "channel"}:  # their file is tested below
            continue
        args = [id if re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{16}-\w+-\w+", word) else word for word in words]
        ended = CliRunner().invoke(main, [*args, "--submit", dispatcher.submit])
        assert ended.exit_code == 0, ended.output
        id = id or ended.stdout.strip()


def test_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = blocks("toml")
    secret = tmp_path / "smtp"
    secret.write_text("a password")
    secret.chmod(0o600)
    for name in re.findall(r"env:(\w+)", text):
        monkeypatch.setenv(name, "a secret")
    (tmp_path / "mine.toml").write_text(text.replace("/etc/dispatcher/smtp", str(secret)))
    channels = load(tmp_path / "mine.toml", {}, {}).channels
    assert [len(channels[name].providers) for name in ("email", "webhook", "sms")] == [1, 1, 2]


def test_the_explanation() -> None:
    """But for the times, and for the quiet hours, which depend on them: here they begin now."""
    _, config = blocks("toml")
    (shown,) = [block for block in blocks("") if "dispatcher explain" in block]
    _, document, _, command, *expected = shown.splitlines()
    ada = json.loads(document)
    start = datetime.datetime.now(ZoneInfo(ada["timezone"]))
    end = start + datetime.timedelta(hours=10)
    with RunningDispatcher(config, shards=2) as service:
        hours = {"start": f"{start:%H:%M}", "end": f"{end:%H:%M}"}
        ada["preferences"]["quiet_hours"] = hours
        service.request("user.put", user_id="ada", user=ada)
        words = [*shlex.split(command)[2:], "--submit", service.submit]
        explained = CliRunner().invoke(main, words)
        assert explained.exit_code == 0, explained.output
        urgent = ["--category", "transaction", "--payload", '{"amount": 1200}']
        assert f"`{shlex.join(urgent)}`" in README
        at_once = CliRunner().invoke(main, [*words, *urgent]).stdout
    told = [re.sub(r"\d\d:\d\d, end \d\d:\d\d", "22:00, end 08:00", line) for line in explained.stdout.splitlines()]
    assert [_timeless(line) for line in told] == [_timeless(line) for line in expected]
    assert "priority critical" in at_once
    assert "DEFERRED" not in at_once


def _timeless(line: str) -> str:
    return line.partition("until")[0]


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?m)^make ([a-z]+)", README)) == {"demo", "test"}
    assert {"demo", "test", "lint", "chaos", "bench", "clients"} <= targets


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
