"""``config`` and ``completion``: what needs no running dispatcher."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dispatcher.cli import main
from dispatcher.commands.config import _toml, _without_secrets
from dispatcher.settings import load, to_document
from tests.support.service import ROOT

MINE = """\
[dispatcher]
shards = 3
[categories.marketing]
channels = ["email"]
[rate_limits]
email = "5/minute"
[channels.email]
provider = "simulated"
[categories.promo]
extends = "marketing"
[[rules]]
name = "first"
when = "title == 'x'"
priority = "low"
[[rules]]
name = "second"
channels = ["email"]
"""


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DISPATCHER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


# --- check --------------------------------------------------------------------------------------------------------


def test_a_right_configuration_is_one_line(mine: Path) -> None:
    result = run("config", "check", str(mine))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"{mine}: ok: shards 3, durability power, submit tcp://127.0.0.1:7712, channels inapp, email\n"
    )
    assert run("config", "check").stdout.startswith("the environment: ok: shards as the data directory has, ")


def test_all_problems_are_told_each_with_its_place(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.write_text(
        '[retry]\nbsae = "1s"\nfactor = 0.5\n[channels.fax]\nprovider = "smpt"\n'
        '[channels.pager]\nprovider = "simulated"\nconcurency = 1\n'
    )
    monkeypatch.setenv("DISPATCHER_LIMITS__BATCH", "0")
    result = run("config", "check", str(mine))
    assert (result.exit_code, result.stdout) == (2, "")
    assert set(result.stderr.splitlines()) == {
        "error: DISPATCHER_LIMITS__BATCH: limits.batch: Expected `int` >= 1",
        f"error: {mine}, line 2: retry.bsae: unknown key 'bsae'; did you mean base?",
        f"error: {mine}, line 3: retry.factor: factor is 0.5; it must be at least 1",
        f"error: {mine}, line 5: channels.fax.provider: unknown provider 'smpt'; did you mean smtp?",
        f"error: {mine}, line 8: channels.pager.concurency: unknown key 'concurency'; did you mean concurrency?",
    }


def test_a_file_that_is_not_there_is_exit_code_2(tmp_path: Path) -> None:
    result = run("config", "check", str(tmp_path / "absent.toml"))
    assert result.exit_code == 2
    assert result.stderr.endswith("absent.toml: cannot be read: No such file or directory\n")


# --- show ---------------------------------------------------------------------------------------------------------


def test_what_is_shown_is_a_configuration_with_the_same_meaning(mine: Path, tmp_path: Path) -> None:
    shown = run("config", "show", "--config", str(mine))
    assert shown.exit_code == 0
    again = tmp_path / "again.toml"
    again.write_text(shown.stdout)
    assert to_document(load(again, {}, {})) == to_document(load(mine, {}, {}))  # rules stand in other lines


def test_every_value_has_its_source(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_RETRY__BASE", "2s")
    lines = run("config", "show", "--config", str(mine)).stdout.splitlines()
    for line in (
        f"shards = 3  # {mine}, line 2",
        'durability = "power"  # default',
        'base = "2s"  # DISPATCHER_RETRY__BASE',
        f'rate = "5/minute"  # {mine}, line 6',
        "# burst is not set",
        f'provider = "simulated"  # {mine}, line 8',
        f'extends = "marketing"  # {mine}, line 10',
        f"when = \"title == 'x'\"  # {mine}, line 13",
    ):
        assert line in lines
    sources = json.loads(run("config", "show", "--config", str(mine), "--json").stdout)["sources"]
    assert sources["categories.marketing.channels"] == f"{mine}, line 4"
    assert sources["categories.marketing.priority"] == "default"
    assert sources["retry.base"] == "DISPATCHER_RETRY__BASE"
    assert sources["rules.1.name"] == f"{mine}, line 16"


def test_as_json_it_is_one_object(mine: Path) -> None:
    document = json.loads(run("config", "show", "--config", str(mine), "--json").stdout)
    assert set(document) == {"settings", "sources"}
    assert document["settings"] == json.loads(json.dumps(to_document(load(mine, {}, {}))))


def test_secrets_are_not_shown() -> None:
    document = {
        "channels": {"x.y": {"password": "hunter2", "api_token": "t", "secret": None, "secret_file": "/k", "tokens": 5}}
    }
    hidden = _without_secrets(document)
    assert hidden["channels"]["x.y"] == {
        "password": "***",
        "api_token": "***",
        "secret": None,
        "secret_file": "/k",
        "tokens": 5,
    }
    text = "\n".join(_toml(hidden, lambda _: "a\nb"))
    assert tomllib.loads(text)["channels"]["x.y"]["password"] == "***"


# --- completion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_DISPATCHER_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["st"], ["stats", "status"]),
        (["dead", "re"], ["replay"]),
        (["dead", "list", "--cha"], ["--channel"]),
        (["inbox", "ada", "--mark", ""], ["archived", "read", "seen"]),
    ],
    ids=" ".join,
)
def test_bash_completes_with_it(words: list[str], completed: list[str], tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash, "no bash"
    program = tmp_path / "dispatcher"
    program.write_text(f"#!{sys.executable}\nfrom dispatcher.cli import main\nmain()\n")
    program.chmod(0o755)
    typed = " ".join(f"'{word}'" for word in ["dispatcher", *words])
    script = f"""
        source <(dispatcher completion bash)
        COMP_WORDS=({typed}); COMP_CWORD={len(words)}
        _dispatcher_completion dispatcher  # what `complete` has bash call
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    ended = subprocess.run(
        [bash, "--norc", "-c", script],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert sorted(ended.stdout.split()) == completed


# --- what is right, and yet hardly meant --------------------------------------------------------------------------

UNSUBSCRIBABLE = """\
[categories.marketing]
channels = ["email"]
unsubscribable = true
[channels.email]
host = "127.0.0.1"
sender = "shop@shop.example"
"""


def test_a_category_that_nobody_can_unsubscribe_from_is_warned_of(mine: Path) -> None:
    mine.write_text(UNSUBSCRIBABLE)
    result = run("config", "check", str(mine))
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: categories.marketing is unsubscribable, but its e-mails do not say how; "
        "set channels.email.unsubscribe_url\n"
    )
    url = 'unsubscribe_url = "https://shop.example/u/{token}"\nunsubscribe_secret = "abcdefgh"\n'
    mine.write_text(UNSUBSCRIBABLE + url)
    mine.chmod(0o600)
    assert run("config", "check", str(mine)).stderr == ""
    mine.write_text(UNSUBSCRIBABLE.replace("unsubscribable = true\n", ""))
    assert run("config", "check", str(mine)).stderr == ""


def test_channels_that_there_is_no_table_for_are_warned_of_where_the_configuration_names_them(mine: Path) -> None:
    mine.write_text(
        '[categories.orders]\nchannels = ["inapp", "sms"]\n[categories.marketing]\nchannels = ["email", "inapp"]\n'
        '[[rules]]\nname = "large"\nchannels = ["push"]\n'
    )
    result = run("config", "check", str(mine))
    assert result.exit_code == 0
    assert [line.split(", ")[0] for line in result.stderr.splitlines()] == [
        "warning: categories.orders.channels names sms",
        "warning: rules.0.channels names push",
    ]
