"""``explain``, ``cancel`` and the decisions of ``status``, as a shell runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from dispatcher.cli import main
from tests.support.service import RunningDispatcher


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher('[channels.email]\nprovider = "simulated"\n', shards=2) as running:
        yield running


def run(service: RunningDispatcher, *args: str, stdin: str = "", expect: int = 0) -> Result:
    result = CliRunner().invoke(main, [*args, "--submit", service.submit], input=stdin)
    assert result.exit_code == expect, result.output
    return result


def lines_of(result: Result) -> list[str]:
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_explain_shows_every_decision(service: RunningDispatcher) -> None:
    service.request("user.put", user_id="ada", user={"preferences": {"channels": {"email": False}}})
    result = run(service, "explain", "ada", "--title", "Hello", "--category", "transaction", "--expires-at", "+10m")
    lines = lines_of(result)
    assert lines[0] == "✓ accept"
    assert lines[1] == "- duplicate no_key"
    assert re.fullmatch(r"✓ expiry expires_at \S+ \S+ \(in (10 min|9 min \d+ s)\)", lines[4])
    email = lines.index("email")
    assert lines[email + 1 : email + 3] == ["✗ preference key channels.email", "→ outcome SUPPRESSED (preference)"]
    assert lines[lines.index("push") + 2] == "✗ channel channel_not_configured: table channels.push"
    assert lines[-1] == "→ outcome PENDING"
    assert service.request("inbox.list", user_id="ada")["items"] == []


def test_explain_takes_a_notification_as_json(service: RunningDispatcher) -> None:
    notification = {"recipients": ["ada", "bob"], "title": "Hello", "channels": ["email"]}
    result = run(service, "explain", "--file", "-", stdin=json.dumps(notification))
    lines = lines_of(result)
    assert lines.index("to ada") < lines.index("→ outcome SUPPRESSED (preference)") < lines.index("to bob")
    as_json = json.loads(run(service, "explain", "--file", "-", "--json", stdin=json.dumps(notification)).stdout)
    assert {decision["user_id"] for decision in as_json["decisions"]} == {"ada", "bob"}
    assert "- duplicate" in run(service, "explain", "--topic", "*", "--title", "t").stdout
    many = json.dumps({**notification, "recipients": [str(number) for number in range(25)]})
    assert lines_of(run(service, "explain", "--file", "-", stdin=many))[-1] == "and 5 recipients more"
    for wrong in ("[]", "{", '"x"'):
        assert run(service, "explain", "--file", "-", stdin=wrong, expect=2).stderr.startswith("error: --file: ")
    hostile = json.dumps({"user_id": "ada", "title": "t", "\x1b[2J": 1})
    lines = lines_of(run(service, "explain", "--file", "-", stdin=hostile))
    assert lines[0].startswith("✗ accept unknown_key: message unknown key '\\x1b[2J'")


def test_what_was_sent_with_all_options_is_what_was_asked(service: RunningDispatcher) -> None:
    options = (
        "--title", "t", "--type", "warning", "--metadata", "trace=a=b", "--metadata", "x=", "--payload", '{"n": 1}',
        "--channel", "inapp", "--expires-at", "2100-01-01T00:00:00Z", "--send-at", "5",
    )  # fmt: skip
    run(service, "send", "cy", *options)
    service.settled_stats()
    (item,) = service.request("inbox.list", user_id="cy")["items"]
    assert (item["type"], item["metadata"], item["payload"]) == ("warning", {"trace": "a=b", "x": ""}, {"n": 1})


def test_what_is_scheduled_is_shown_and_cancelled(service: RunningDispatcher) -> None:
    id_ = run(service, "send", "ada", "--title", "t", "--key", "later", "--send-at", "+10m").stdout.strip()
    told = run(service, "status", id_)
    assert re.search(r"(?m)^inapp +deferred +send_at ", told.stdout)
    assert re.search(r"(?m)^  … schedule +send_at: until \S+ \S+ \(in (10 min|9 min \d+ s)\)$", told.stdout)
    assert run(service, "cancel", "--user", "ada", "--key", "later").stdout == "cancelled 1 delivery\n"
    assert lines_of(run(service, "status", id_))[-1] == "→ outcome CANCELLED"
    again = run(service, "cancel", id_, expect=1)
    assert again.stderr.startswith("error: already_final")
    assert run(service, "cancel", "no-such-id", expect=1).stderr.startswith("error: not_found")
    id_ = run(service, "send", "ada", "--title", "t", "--send-at", "+10m").stdout.strip()
    assert json.loads(run(service, "cancel", id_, "--json").stdout) == {"cancelled": 1}
