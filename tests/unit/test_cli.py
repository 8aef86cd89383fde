"""The command line: what it says to wrong usage, to silence, and to a place that is taken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import zmq
from click.testing import CliRunner, Result

from dispatcher import __version__
from dispatcher.cli import main
from tests.support.service import ROOT, RunningDispatcher, free_endpoints

COMMANDS = (
    "serve", "simulate", "send", "explain", "status", "cancel", "stats", "top", "user", "topic", "inbox", "dead",
    "channel", "template", "config", "keys", "check", "backup", "completion",
)  # fmt: skip
GROUPS = {
    "user": ("put", "get", "delete", "import"),
    "topic": ("subscribe", "unsubscribe"),
    "dead": ("list", "show", "replay", "purge"),
    "channel": ("list", "pause", "resume", "test"),
    "template": ("list", "check", "preview"),
    "config": ("check", "show", "reload"),
    "keys": ("new", "vapid"),
}
ASKING = (
    ["send", "user-1", "--title", "x"], ["explain", "user-1", "--title", "x"], ["status", "some-id"],
    ["cancel", "some-id"], ["stats"],
    ["user", "get", "ada"], ["user", "delete", "ada"], ["user", "put", "ada", "--off", "sms"],
    ["topic", "subscribe", "news", "ada"], ["topic", "unsubscribe", "news", "ada"], ["send", "--topic", "*"],
    ["inbox", "ada"], ["inbox", "ada", "--mark", "read", "some-id"],
    ["top", "--once"], ["channel", "list"], ["channel", "pause", "email"], ["channel", "resume", "email"],
    ["dead", "list"], ["dead", "show", "some-id"], ["dead", "replay"], ["dead", "purge", "--all"],
)  # fmt: skip
QUICK_S = 5.0


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DISPATCHER_"):
            monkeypatch.delenv(name)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def run_process(*args: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The real thing, for what starts processes or ends them."""
    return subprocess.run(
        [sys.executable, "-m", "dispatcher", *args], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


# --- help and version ---------------------------------------------------------------------------------------------


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"dispatcher, version {__version__}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_command(flag: str) -> None:
    result = run(flag)
    assert result.exit_code == 0
    assert list(main.commands) == list(COMMANDS)
    for command in COMMANDS:
        assert re.search(rf"(?m)^  {command} +[A-Z]", result.stdout), f"{command} has no line of help"


@pytest.mark.parametrize(
    "words",
    [[name] for name in COMMANDS] + [[group, name] for group, names in GROUPS.items() for name in names],
    ids=" ".join,
)
def test_every_command_has_its_help(words: list[str]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"{' '.join(words)} [OPTIONS]" in result.stdout
    if words[0] in GROUPS:
        group = main.commands[words[0]]
        assert isinstance(group, click.Group)
        assert tuple(group.commands) == GROUPS[words[0]]
    if words[0] not in GROUPS or len(words) > 1:
        told = set(re.findall(r"--[a-z-]+", result.stdout))
        assert {"--config", "--json"} & told or words in (
            ["completion"],
            ["config", "check"],
            ["template", "check"],
            ["keys", "new"],
            ["keys", "vapid"],
        )


def test_the_module_runs_as_a_program() -> None:
    result = run_process("--version")
    assert (result.returncode, result.stdout) == (0, f"dispatcher, version {__version__}\n")


# --- wrong usage is exit code 2, with the remedy ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["serve", "--shard", "2"], "--shards"),
        (["--shard", "2"], "--shards"),
        (["sned"], "No such command 'sned'. Did you mean 'send'?"),
        (["dead", "lst"], "No such command 'lst'. Did you mean 'list'?"),
        (["dead", "list", "--chanel", "x"], "--channel"),
        (["dead", "list", "--since", "soon"], "'soon' is not a duration such as"),
        (["dead", "list", "--since", "2026-01-31"], 'is not RFC 3339 with an offset ("2026-01-31T08:00:00Z")'),
        (["dead", "list", "--limit", "0"], "1<=x<=1000"),
        (["dead", "show"], "Missing argument 'ID'"),
        (["dead", "purge"], "no filter is given; name one (see --help), or say --all"),
        (["dead", "purge", "--limit", "5"], "no filter is given"),
        (["dead", "purge", "--yes"], "no filter is given"),
        (["channel", "paus"], "No such command 'paus'. Did you mean 'pause'?"),
        (["channel", "pause"], "Missing argument 'NAME'"),
        (["channel", "test", "email"], "unknown channel 'email'; known: none; it needs a table [channels.email]"),
        (["user", "put"], "Missing argument 'USER_ID'"),
        (["user", "put", "ada"], "give one of --document and the options"),
        (["user", "import"], "Missing argument 'FILE'"),
        (["user", "import", "absent.jsonl"], "No such file or directory"),
        (["user", "import", "-"], "Say --format jsonl or --format csv"),
        (["user", "import", "-", "--format", "csv", "--dry-run"], "line 1: there is no column user_id"),
        (["user", "put", "ada", "--document", "-", "--off", "sms"], "give one of"),
        (["user", "put", "ada", "--document", "absent.json"], "No such file or directory"),
        (["user", "put", "ada", "--document", "-"], "--document: not a JSON object"),
        (["inbox", "ada", "some-id"], "IDS are for --mark"),
        (["inbox", "ada", "--mark", "read"], "--mark needs the IDS"),
        (["inbox", "ada", "--mark", "lost", "some-id"], "'seen', 'read', 'archived'"),
        (["completion", "tcsh"], "'bash', 'zsh', 'fish'"),
        (["status"], "give the ID that `send` or a receipt had, or --user and --key"),
        (["status", "--user", "ada"], "or --user and --key"),
        (["cancel"], "give the ID that `send` or a receipt had, or --user and --key"),
        (["cancel", "some-id", "--user", "ada", "--key", "k"], "or --user and --key"),
        (["explain"], "give a USER_ID or a --topic and what is to be said, or --file"),
        (["explain", "ada", "--topic", "t"], "give a USER_ID or a --topic and what is to be said"),
        (["explain", "--file", "README.md", "--title", "x"], "--file has all of the notification"),
        (["explain", "--file", "README.md"], "--file: not JSON: "),
        (["send", "ada", "--send-at", "soon"], '"2026-01-31T08:00:00Z"), nor a duration from now on'),
        (["send", "ada", "--send-at", "+soon"], "'soon' is not a duration such as"),
        (["send", "ada", "--expires-at", "2026-01-31T08:00:00"], "is not RFC 3339 with an offset"),
        (["send", "ada", "--metadata", "trace"], "'trace' is not like trace=abc"),
        (["send", "ada", "--payload", "{"], "--payload is not JSON: "),
        (["status", "some-id", "--user", "ada", "--key", "k"], "or --user and --key"),
        (["user", "get", "\udcff"], "an argument is not UTF-8"),
        (["serve", "--shards", "0"], "1<=x<=256"),
        (["serve", "--shards", "257"], "1<=x<=256"),
        (["--shards", "many"], "'many' is not a valid integer"),
        (["serve", "--durability", "none"], "'power', 'process'"),
        (["serve", "--config", "absent.toml"], "absent.toml: cannot be read: No such file or directory"),
        (["simulate", "--events", "0"], "x>=1"),
        (["simulate", "--retry-base", "5x"], 'is not a duration such as "50ms"'),
        (["simulate", "--failure-rate", "2"], "0<=x<=1"),
        (["send"], "give a USER_ID or a --topic"),
        (["send", "user-1", "--priority", "urgent"], "'low', 'normal', 'high', 'critical'"),
        (["send", "user-1", "--payload", "{"], "--payload is not JSON"),
        (["stats", "--timeout", "soon"], 'is not a duration such as "50ms"'),
        (["stats", "--submit", "127.0.0.1"], "an endpoint is like tcp://127.0.0.1:7712"),
    ],
)
def test_wrong_usage(args: list[str], says: str) -> None:
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [["serve"], ["config", "show"], *ASKING], ids=" ".join)
def test_a_bad_configuration_file_is_named_with_the_line(command: list[str], tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[dispatcher]\ndurability = "power"\nshard = 2\n')
    result = run(*command, "--config", str(config))
    assert result.exit_code == 2
    assert result.stderr == f"error: {config}, line 3: dispatcher.shard: unknown key 'shard'; did you mean shards?\n"


def test_a_bad_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPATCHER_RETRY__BASE", "soon")
    result = run("serve")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: DISPATCHER_RETRY__BASE: retry.base: 'soon' is not a duration")


# --- nobody there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_without_a_dispatcher_commands_say_so_soon(command: list[str]) -> None:
    (endpoint,) = free_endpoints(1)
    before = time.monotonic()
    result = run(*command, "--submit", endpoint, "--timeout", "200ms")
    assert time.monotonic() - before < QUICK_S
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"error: unavailable: no answer from {endpoint} within 0.2 s; is the dispatcher running there? "
        "(`python -m dispatcher` starts one; --submit or --config names another; --timeout waits longer)\n"
    )


def test_the_longest_timeout_is_one() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as other:
        other.bind("tcp://127.0.0.1:*")
        endpoint = other.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        answering = threading.Thread(target=lambda: other.send_multipart([other.recv_multipart()[0], b"", b"\x01"]))
        answering.start()
        result = run("stats", "--submit", endpoint, "--timeout", "9999d")
        answering.join()
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: unavailable: {endpoint} does not answer as a dispatcher: ")
    assert "--submit or --config names another" in result.stderr


def test_contacts_that_do_not_work_are_told_beside_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = {"channel": "sms", "contact": "+33612340000", "since_ms": 1_795_342_234_431, "error": "21610: STOP\x1b"}
    answer = {"user": {"contacts": {"phone": "+33612340000"}}, "not_used": [dead]}
    monkeypatch.setattr("dispatcher.client.Client.request", lambda *_args, **_fields: answer)
    shown = run("user", "get", "ada")
    assert json.loads(shown.stdout) == answer["user"]
    assert re.fullmatch(r"sms \+33612340000: not used since \S+ \S+: 21610: STOP\\x1b; .*user put.*\n", shown.stderr)
    as_json = run("user", "get", "ada", "--json")
    assert (json.loads(as_json.stdout), as_json.stderr) == (answer, "")


# --- a running service --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(shards=1) as running:
        yield running


def test_send_status_and_stats(dispatcher: RunningDispatcher) -> None:
    sent = run("send", "user-1", "--title", "hello", "--key", "k1", "--submit", dispatcher.submit)
    assert sent.exit_code == 0, sent.output
    id = sent.stdout.strip()
    again = run("send", "user-1", "--title", "hello", "--key", "k1", "--submit", dispatcher.submit)
    assert again.stdout == f"{id}  (a duplicate: this is the first one's id)\n"
    dispatcher.settled_stats()
    shown = run("status", id, "--submit", dispatcher.submit)
    assert shown.stdout.startswith(f"{id}\n")
    assert re.search(r"(?m)^inapp +delivered ", shown.stdout)
    as_json = run("status", id, "--json", "--submit", dispatcher.submit)
    assert json.loads(as_json.stdout)["deliveries"][0]["outcome"] == "delivered"
    table = run("stats", "--submit", dispatcher.submit)
    assert "conserved yes" in table.stdout
    assert json.loads(run("stats", "--json", "--submit", dispatcher.submit).stdout)["conserved"] is True


def test_who_asks_need_not_have_the_secrets_of_the_channels(dispatcher: RunningDispatcher, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(
        f'[dispatcher]\nsubmit = "{dispatcher.submit}"\n[channels.webhook]\nsecret = "env:ONLY_THE_SERVICE_HAS_IT"\n'
    )
    asked = run("stats", "--config", str(config))
    assert (asked.exit_code, asked.stderr) == (0, "")
    assert run("config", "check", str(config)).exit_code == 2


def test_what_is_rejected_is_exit_code_1_with_the_reason(dispatcher: RunningDispatcher) -> None:
    result = run("send", "user-1", "--title", "x", "--category", "sytem", "--submit", dispatcher.submit)
    assert result.exit_code == 1
    assert result.stderr == ("error: unknown_category (category): unknown category 'sytem'; did you mean system?\n")
    result = run("status", "no-such-id", "--submit", dispatcher.submit)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: not_found")


def test_a_second_instance_on_a_data_directory_is_refused(dispatcher: RunningDispatcher) -> None:
    before = dispatcher.child_pids()
    result = run_process("serve", "--data-dir", str(dispatcher.data_dir))
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {dispatcher.data_dir} is in use by another instance; stop it, or use another data_dir\n"
    )
    assert dispatcher.child_pids() == before
    assert dispatcher.request("stats")["conserved"] is True


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as holder:
        holder.bind("tcp://127.0.0.1:*")
        taken = holder.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        ingest, stream = free_endpoints(2)
        config = tmp_path / "mine.toml"
        config.write_text(f'[dispatcher]\nshards = 1\ningest = "{ingest}"\nsubmit = "{taken}"\nstream = "{stream}"\n')
        result = run_process("serve", "--config", str(config), "--data-dir", str(tmp_path / "data"))
    assert result.returncode == 2
    assert result.stderr.endswith(
        f"\nerror: the router does not start: exit code 2: cannot bind submit to {taken}: Address already in use; "
        "stop what listens there, or set dispatcher.submit to another address\n"
    )
    assert result.stdout == ""
