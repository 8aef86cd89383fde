"""The commands of an operator, as a shell runs them, against one running service."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import zmq
from click.testing import CliRunner

from dispatcher.cli import main
from tests.support.service import ROOT, RunningDispatcher, wait_until

CONFIG = """
[retry]
max_retries = 0
[channels.email]
provider = "simulated"
[channels.webhook]
provider = "simulated"
failure_rate = 1.0
"""
HOSTILE = "\x1b]0;owned\x07\nSecond line"
TIMEOUT_S = 60
MANY = 1_100  # dead letters, more than one call of dead.replay or dead.purge does


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=2) as running:
        yield running


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user of the test's own."""
    return re.sub(r"\W", "-", request.node.name)


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    return kept | {"PYTHONPATH": str(ROOT), **more}


def run(
    service: RunningDispatcher, *args: str | Path, stdin: str | int = "", expect: int = 0
) -> subprocess.CompletedProcess[str]:
    """The command with its exit code, without a traceback; ``stdin`` is text or a descriptor."""
    given: dict[str, Any] = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin}
    ended = subprocess.run(
        [sys.executable, "-m", "dispatcher", *args],
        env=environment(DISPATCHER_SUBMIT=service.submit),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **given,
    )
    assert ended.returncode == expect, f"{args}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr
    return ended


def answer(service: RunningDispatcher, *args: str | Path, stdin: str = "", expect: int = 0) -> dict[str, Any]:
    """Standard output with --json, which is exactly one object."""
    shown = run(service, *args, "--json", stdin=stdin, expect=expect).stdout
    assert shown.count("\n") == 1
    return dict(json.loads(shown))


def killed(service: RunningDispatcher, user: str, count: int = 1, **more: Any) -> list[str]:
    """Ids of notifications whose webhook delivery is a dead letter that ``dead list`` shows."""
    notifications = [{"user_id": user, "title": "hello", "channels": ["webhook"], **more} for _ in range(count)]
    ids: list[str] = service.client.submit(*notifications)["ids"]

    service.settled_stats(30.0)
    shown = min(count, 1_000)
    wait_until(lambda: len(service.request("dead.list", user_id=user, limit=shown)["items"]) == shown, 30.0)
    return ids


# --- user ---------------------------------------------------------------------------------------------------------


def test_a_document_is_stored_shown_and_deleted(service: RunningDispatcher, user: str, tmp_path: Path) -> None:
    document = {"contacts": {"email": "ada@example.org"}, "preferences": {"channels": {"sms": False}}}
    stored = run(service, "user", "put", user, "--email", "ada@example.org", "--off", "sms")
    assert stored.stdout == f"stored the document of {user}\n"
    shown = run(service, "user", "get", user).stdout
    assert json.loads(shown) == document
    assert shown.startswith('{\n  "contacts"')
    assert answer(service, "user", "put", user, "--document", "-", stdin=shown) == {"user": document}
    (tmp_path / "document.json").write_text('{"timezone": "Europe/Paris"}')
    run(service, "user", "put", user, "--document", tmp_path / "document.json")
    assert answer(service, "user", "get", user) == {"user": {"timezone": "Europe/Paris"}}
    assert json.loads(run(service, "user", "delete", user).stdout) == {"timezone": "Europe/Paris"}
    gone = run(service, "user", "get", user, expect=1)
    assert (gone.stdout, gone.stderr) == (
        "", f"error: not_found (user_id): no document is stored for '{user}'\n"
    )  # fmt: skip
    refused = run(service, "user", "put", user, "--document", "-", "--json", stdin='{"contact": {}}', expect=1)
    assert (refused.stdout, refused.stderr[:38]) == ("", "error: unknown_key (user.contact): unk")


USERS = [
    json.dumps({"user_id": "good-1", "user": {"contacts": {"email": "one@example.org"}}}),
    json.dumps({"user_id": "bad-1", "user": {"contact": {}}}),
    "",
    "nonsense",
    json.dumps({"user_id": "bad-2", "contacts": {"phone": "0033612345678"}}),
    '{"user_id": "bad-3", "user": {}, "\\u001b": 1}',
    json.dumps({"user_id": "good-2", "timezone": "Europe/Paris"}),
    json.dumps({"user_id": "good-1", "locale": "fr"}),
]
BAD = [  # line, field, code
    (2, "user.contact", "unknown_key"),
    (4, None, "bad_encoding"),
    (5, "user.contacts.phone", "bad_value"),
    (6, "\x1b", "unknown_key"),
]


def test_a_file_of_users_is_stored_but_for_its_bad_lines(service: RunningDispatcher, tmp_path: Path) -> None:
    path = tmp_path / "users.jsonl"
    path.write_text("\n".join(USERS))
    result = answer(service, "user", "import", path, expect=1)
    assert (result["stored"], result["failed"], result["repeated"]) == (3, 4, 1)
    assert [(error["line"], error["field"], error["code"]) for error in result["errors"]] == BAD
    told = run(service, "user", "import", path, expect=1)
    assert told.stdout == "3 stored, 4 bad lines\n"
    assert "line 5: user.contacts.phone: bad_value: '0033612345678' is not" in told.stderr
    assert "line 6: \\x1b: unknown_key: " in told.stderr
    assert "line 8: user_id: good-1 was on an earlier line; this one replaces it\n" in told.stderr
    assert service.request("user.get", user_id="good-1")["user"] == {"locale": "fr"}
    assert service.request("user.get", user_id="good-2")["user"] == {"timezone": "Europe/Paris"}
    assert service.client.refused("user.get", user_id="bad-2")["code"] == "not_found"


def test_a_file_is_checked_without_a_dispatcher(service: RunningDispatcher, tmp_path: Path) -> None:
    path = tmp_path / "users.ndjson"
    path.write_text("\n".join(USERS).replace("good-", "dry-"))
    result = answer(service, "user", "import", path, "--dry-run", expect=1)
    assert (result["stored"], result["failed"], result["repeated"]) == (0, 4, 1)
    assert [(error["line"], error["field"], error["code"]) for error in result["errors"]] == BAD
    told = run(service, "user", "import", path, "--dry-run", "--submit", "tcp://127.0.0.1:9", expect=1)
    assert told.stdout == "3 good, 4 bad lines\n"
    assert service.client.refused("user.get", user_id="dry-1")["code"] == "not_found"


def test_a_spreadsheet_of_users(service: RunningDispatcher, tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    rows = [
        "user_id;email;timezone;quiet_start;quiet_end;channels.sms",
        "csv-1;one@example.org;Europe/Paris;22:00;08:00;false",
        "csv-2;two@example.org;Europe/Pariss;;;",
        "csv-3;three@example.org;;22:00;;",
        "csv-4;four@\udcff.org;;;;",
        "csv-5;five@example.org;;;;maybe",
    ]
    path.write_text("\ufeff" + "\r\n".join(rows), errors="surrogateescape")
    result = answer(service, "user", "import", path, expect=1)
    assert (result["stored"], result["failed"]) == (1, 4)
    assert [(error["line"], error["field"]) for error in result["errors"]] == [
        (3, "user.timezone"),
        (4, "user.preferences.quiet_hours"),
        (5, "email"),
        (6, "channels.sms"),
    ]
    assert service.request("user.get", user_id="csv-1")["user"] == {
        "contacts": {"email": "one@example.org"},
        "timezone": "Europe/Paris",
        "preferences": {"channels": {"sms": False}, "quiet_hours": {"start": "22:00", "end": "08:00"}},
    }


def test_many_users_from_standard_input(service: RunningDispatcher, user: str) -> None:
    lines = [json.dumps({"user_id": f"{user}-{n}", "user": {"locale": f"de-{n:04}"}}) for n in range(2_000)]
    lines.append(json.dumps({"user_id": f"{user}-0", "user": {"locale": "fr"}}))
    shown = run(service, "user", "import", "-", "--format", "jsonl", stdin="\n".join(lines)).stdout
    assert shown == "2,001 stored, 0 bad lines\n"
    for n, locale in ((0, "fr"), (1_999, "de-1999")):
        assert service.request("user.get", user_id=f"{user}-{n}")["user"] == {"locale": locale}


def test_an_import_shows_its_progress_on_a_terminal(service: RunningDispatcher, user: str, tmp_path: Path) -> None:
    path = tmp_path / "users.jsonl"
    path.write_text(f'{{"user_id": "{user}"}}\nnonsense\n')
    controller, terminal = pty.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "dispatcher", "user", "import", str(path)],
            env=environment(DISPATCHER_SUBMIT=service.submit),
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        shown = os.read(controller, 65_536).decode()
    finally:
        os.close(controller)
        os.close(terminal)
    assert (ended.returncode, ended.stdout) == (1, "1 stored, 1 bad lines\n")
    assert re.search(r"\r\x1b\[K1 stored, 1 bad lines, [\d,]+/s", shown)
    assert shown.endswith("\r\x1b[K")


def test_errors_are_counted_beyond_those_that_are_told(service: RunningDispatcher) -> None:
    result = answer(service, "user", "import", "-", "--format", "jsonl", stdin="x\n" * 1_500, expect=1)
    assert (result["failed"], len(result["errors"]), result["errors"][-1]["line"]) == (1_500, 1_000, 1_000)
    told = run(service, "user", "import", "-", "--format", "jsonl", "--dry-run", stdin="x\n" * 1_500, expect=1).stderr
    assert told.endswith("and 500 more bad lines\n")


# --- inbox --------------------------------------------------------------------------------------------------------


def test_an_inbox_is_paged_and_marked(service: RunningDispatcher, user: str) -> None:
    notifications = [{"user_id": user, "title": f"title {n}"} for n in range(5)]
    ids = service.client.submit(*notifications)["ids"]
    wait_until(lambda: len(service.request("inbox.list", user_id=user)["items"]) == len(ids))
    shown = run(service, "inbox", user, "--limit", "2").stdout
    assert re.findall(r"title \d", shown) == ["title 0", "title 1"]
    assert shown.endswith("\n5 unread; more: the same with --cursor 2\n")
    assert [item["cursor"] for item in answer(service, "inbox", user, "--cursor", "2")["items"]] == [3, 4, 5]
    marked = run(service, "inbox", user, *ids[:3], "--mark", "read").stdout
    assert re.findall(r"read +(\S+)$", marked, re.MULTILINE) == ids[:3]
    assert marked.endswith("\n2 unread\n")
    unread = answer(service, "inbox", user, "--unread", "--limit", "1")
    assert ([item["cursor"] for item in unread["items"]], unread["next"], unread["unread"]) == ([4], 4, 2)
    unread = answer(service, "inbox", user, "--unread", "--limit", "1", "--cursor", "4")
    assert ([item["cursor"] for item in unread["items"]], unread["next"]) == ([5], None)
    assert run(service, "inbox", "nobody").stdout == "nothing\n\n0 unread\n"
    assert "not in this user's inbox" in run(service, "inbox", user, "x-1-1-1", "--mark", "read", expect=1).stderr


def test_a_hostile_title_does_not_reach_the_terminal(service: RunningDispatcher, user: str) -> None:
    id = killed(service, user, title=HOSTILE, channels=["inapp", "webhook"])[0]
    wait_until(lambda: service.request("inbox.list", user_id=user)["items"])
    for args in (["inbox", user], ["dead", "show", id], ["dead", "list", "--user", user]):
        for as_json in ([], ["--json"]):
            shown = run(service, *args, *as_json).stdout
            assert all(line.isprintable() for line in shown.split("\n"))
    assert "\\x1b]0;owned\\x07\\nSecond line" in run(service, "inbox", user).stdout
    assert answer(service, "inbox", user)["items"][0]["title"] == HOSTILE


# --- dead ---------------------------------------------------------------------------------------------------------


def test_dead_letters_are_listed_and_shown(service: RunningDispatcher, user: str) -> None:
    ids = killed(service, user, 3, category="marketing", payload={"order": 17})
    shown = run(service, "dead", "list", "--user", user, "--limit", "2").stdout
    listed = re.findall(r"^(\S+) .* webhook +marketing +max_retries +1 +simulated failure$", shown, re.MULTILINE)
    assert len(listed) == 2
    (cursor,) = re.findall(r"^more: the same with --cursor (\d+)$", shown, re.MULTILINE)
    rest = answer(service, "dead", "list", "--user", user, "--cursor", cursor)
    assert sorted([*listed, *(letter["id"] for letter in rest["items"])]) == sorted(ids)
    assert rest["next"] is None
    letter = run(service, "dead", "show", ids[0]).stdout
    assert re.search(r"^last error +simulated failure$", letter, re.MULTILINE)
    assert json.loads(letter.partition("notification\n")[2])["payload"] == {"order": 17}
    assert answer(service, "dead", "show", ids[0])["items"][0]["id"] == ids[0]
    missing = run(service, "dead", "show", "no-such-id", expect=1)
    assert "no dead letter has the id 'no-such-id'; `status` says" in missing.stderr


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        (["--channel", "webhook"], True),
        (["--channel", "email"], False),
        (["--category", "system"], True),
        (["--category", "marketing"], False),
        (["--reason", "max_retries"], True),
        (["--reason", "permanent"], False),
        (["--error-class", "transient"], True),
        (["--error-class", "permanent"], False),
        (["--since", "1h"], True),
        (["--since", "2020-01-31T08:00:00Z"], True),
        (["--since", "1500000000000"], True),
        (["--since", "2200-01-31T08:00:00Z"], False),
        (["--channel", "webhook", "--category", "marketing"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_filter_filters(service: RunningDispatcher, filters: list[str], matches: bool) -> None:
    user = "filtered"
    if not service.request("dead.list", user_id=user)["items"]:
        killed(service, user)
    asked = ["dead", "list", "--user", user, *filters, "--json", "--submit", service.submit]
    ended = CliRunner().invoke(main, asked)
    assert ended.exit_code == 0, ended.output
    assert bool(json.loads(ended.stdout)["items"]) is matches


def test_replay_and_purge_take_filters_and_a_limit(service: RunningDispatcher, user: str) -> None:
    first, second, *_ = killed(service, user, 4)
    assert run(service, "dead", "replay", "--id", first).stdout == "replayed 1\n"
    service.settled_stats()
    assert answer(service, "dead", "replay", "--user", user, "--limit", "3") == {"count": 3}
    service.settled_stats()
    assert answer(service, "dead", "purge", "--id", second) == {"count": 1}
    assert answer(service, "dead", "purge", "--user", user, "--limit", "2") == {"count": 2}
    assert run(service, "dead", "purge", "--user", user, "--yes").stdout == "purged 1\n"
    assert run(service, "dead", "purge", "--user", user).stdout == "purged 0\n"
    wait_until(lambda: not service.request("dead.list", user_id=user)["items"])
    assert run(service, "dead", "list", "--user", user).stdout == "no dead letter matches\n"


def test_a_purge_asks_a_person_first(service: RunningDispatcher, user: str) -> None:
    killed(service, user)
    controller, terminal = pty.openpty()
    try:
        os.write(controller, b"n\n")
        refused = run(service, "dead", "purge", "--user", user, stdin=terminal, expect=1)
        assert refused.stderr == (f"Forget the dead letters with user_id '{user}'? [y/N]: error: nothing was purged\n")
        os.write(controller, b"y\n")
        assert run(service, "dead", "purge", "--user", user, stdin=terminal).stdout == "purged 1\n"
        assert run(service, "dead", "purge", "--user", user, "--yes", stdin=terminal).stderr == ""
    finally:
        os.close(controller)
        os.close(terminal)


def test_more_than_one_call_does_and_what_cannot_be_replayed_is_passed_over(
    service: RunningDispatcher, user: str
) -> None:
    run(service, "dead", "purge", "--all")
    service.client.submit(*({"user_id": user, "title": "t", "channels": ["push"]} for _ in range(MANY)))
    killed(service, user, MANY)
    assert answer(service, "dead", "replay", "--user", user, "--limit", "1050") == {"count": 1050}
    service.settled_stats()
    # at least those; at most as many as there are letters, though all of them die again at once
    assert MANY <= answer(service, "dead", "replay", "--channel", "webhook")["count"] <= 2 * MANY
    service.settled_stats()
    assert run(service, "dead", "purge", "--channel", "push").stdout == f"purged {MANY:,}\n"
    assert run(service, "dead", "purge", "--all").stdout == f"purged {MANY:,}\n"
    assert service.settled_stats()["dead_letters"].get("max_retries", 0) == 0


# --- the shell ----------------------------------------------------------------------------------------------------


def test_status_by_the_producers_key(service: RunningDispatcher, user: str) -> None:
    id = run(service, "send", user, "--title", "t", "--key", "k").stdout.strip()
    assert answer(service, "status", "--user", user, "--key", "k")["id"] == id


def test_the_reader_may_leave(service: RunningDispatcher, user: str) -> None:
    notifications = [{"user_id": user, "title": "x" * 1_000} for _ in range(200)]
    service.client.submit(*notifications)
    wait_until(lambda: service.request("inbox.list", user_id=user, limit=200)["unread"] == len(notifications))
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "dispatcher", "inbox", user, "--limit", "200"],
            env=environment(DISPATCHER_SUBMIT=service.submit),
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_an_error(service: RunningDispatcher) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "dispatcher", "stats", "--json"],
            env=environment(DISPATCHER_SUBMIT=service.submit),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == b"error: the output: No space left on device\n"


def test_a_locale_without_the_letters_shows_escapes(service: RunningDispatcher, user: str) -> None:
    run(service, "send", user, "--title", "日本語")
    wait_until(lambda: service.request("inbox.list", user_id=user)["items"])
    ended = subprocess.run(
        [sys.executable, "-m", "dispatcher", "inbox", user],
        env=environment(DISPATCHER_SUBMIT=service.submit, PYTHONIOENCODING="latin-1"),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert b"\\u65e5\\u672c\\u8a9e" in ended.stdout


def test_ctrl_c_ends_it_quietly() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:
        silent.bind("tcp://127.0.0.1:*")
        endpoint = silent.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        with subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "stats", "--submit", endpoint, "--timeout", "60s"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                assert silent.poll(30_000), "it asks nothing"
                process.send_signal(signal.SIGINT)
                output, errors = process.communicate(timeout=TIMEOUT_S / 2)
            finally:
                process.kill()
    assert (process.returncode, output, errors) == (130, b"", b"\n")


def test_an_answer_is_the_same_as_json_and_on_the_wire(service: RunningDispatcher, user: str) -> None:
    run(service, "user", "put", user, "--phone", "+33612345678")
    asked = service.request("user.get", user_id=user)
    del asked["ok"]
    assert run(service, "user", "get", user, "--json").stdout == orjson.dumps(asked).decode() + "\n"
