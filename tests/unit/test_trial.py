"""``channel test``: one message over a channel, by its own classes, against servers of its kind."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner, Result

from dispatcher.cli import main
from dispatcher.trial import MEANING
from dispatcher.trial_message import TrialError, recipient
from shards.answers import ErrorClass
from shards.contacts import Contacts, PushContact
from shards.hidden import disguised
from shards.settings import ProviderSettings
from tests.support.endpoint import Endpoint, answer
from tests.support.service import ROOT
from tests.support.smtp import EXTENSIONS, ScriptedServer

KEYS = {
    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
}
SUBSCRIPTION = json.dumps({"endpoint": "https://push.example.org/1", "keys": KEYS})
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOKEN = 'p"ss wörd/+&=%'
LEAKY = '[channels.pager]\nclass = "tests.support.leaky:Leaky"\n'


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DISPATCHER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        yield running


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer((*EXTENSIONS, "AUTH PLAIN LOGIN")) as running:
        yield running


def run(directory: Path, config: str, *args: str) -> Result:
    """``channel test`` with this configuration, which only its owner can read."""
    path = directory / "dispatcher.toml"
    path.write_text(config)
    path.chmod(0o600)
    return CliRunner().invoke(main, ["channel", "test", *args, "--config", str(path)])


def as_json(result: Result) -> dict[str, object]:
    assert result.stdout.count("\n") == 1
    return dict(json.loads(result.stdout))


def webhook(endpoint: Endpoint) -> str:
    return f'[channels.webhook]\nallow_private = ["127.0.0.0/8"]\nports = [{endpoint.port}]\nsecret = "{SECRET}"\n'


def smtp(server: ScriptedServer, port: int | None = None) -> str:
    return (
        f'provider = "smtp"\nhost = "127.0.0.1"\nport = {port or server.port}\ntls = "none"\n'
        'sender = "shop@shop.example"\nusername = "shop"\npassword = "open sesame"\n'
    )


# --- what is sent, and told ---------------------------------------------------------------------------------------


def test_a_webhook_is_posted_signed_and_told_step_by_step(endpoint: Endpoint, tmp_path: Path) -> None:
    result = run(tmp_path, webhook(endpoint), "webhook", "--to", endpoint.url, "--title", "Hello\x1b")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert f"  > POST {endpoint.url}" in lines
    assert "  < HTTP 200" in lines
    assert lines[-1].startswith("✓ delivered by webhook, ")
    (request,) = endpoint.taken
    assert json.loads(request.body)["data"]["title"] == "Hello\x1b"
    assert request.headers["webhook-signature"] not in result.stdout
    assert result.stdout.replace("\n", "").isprintable()


def test_a_secret_of_the_receiver_may_be_named_and_is_not_shown(endpoint: Endpoint, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("whsec_" + "B" * 32)
    key.chmod(0o600)
    both = [
        run(tmp_path, webhook(endpoint), "webhook", "--to", endpoint.url, *more)
        for more in ([], ["--secret", f"file:{key}"])
    ]
    assert [one.exit_code for one in both] == [0, 0]
    first, second = (one.headers["webhook-signature"] for one in endpoint.taken)
    assert first != second
    assert not any(secret in one.output for secret in (SECRET, "B" * 32) for one in both)


def test_a_template_is_rendered_as_for_a_real_delivery(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "t" / "order").mkdir(parents=True)
    (tmp_path / "t" / "order" / "webhook.body").write_text('{"said": "order {{ order }} for {{ user_id }}"}')
    config = webhook(endpoint) + '[templates]\ndirectory = "t"\n'
    args = ["webhook", "--to", endpoint.url, "--template", "order"]
    assert run(tmp_path, config, *args, "--payload", '{"order": 17}').exit_code == 0
    assert json.loads(endpoint.taken[0].body) == {"said": "order 17 for channel-test"}
    missing = run(tmp_path, config, *args)
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "--template: template 'order', webhook.body, line 1: 'order' is undefined" in missing.stderr
    unknown = run(tmp_path, config, "webhook", "--to", endpoint.url, "--template", "oder")
    assert unknown.exit_code == 2
    assert "did you mean order?" in unknown.stderr


def test_as_json_it_is_one_object(endpoint: Endpoint, tmp_path: Path) -> None:
    found = as_json(run(tmp_path, webhook(endpoint), "webhook", "--to", endpoint.url, "--json"))
    assert (found["outcome"], found["error_class"], found["provider"]) == ("delivered", None, "webhook")
    steps = found["steps"]
    assert isinstance(steps, list)
    assert steps[0] == f"> POST {endpoint.url}"


def test_a_failure_says_what_it_means_and_what_to_do(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.then(answer(410, "gone for good"))
    result = run(tmp_path, webhook(endpoint), "webhook", "--to", endpoint.url)
    assert result.exit_code == 1
    told = dict(line.split("  ", 1) for line in result.stdout.splitlines()[-4:])
    assert {name.strip(): text.strip() for name, text in told.items()} == {
        "error class": "bad_address",
        "message": "HTTP 410: gone for good",
        "a real delivery": MEANING["bad_address"][0],
        "what to do": MEANING["bad_address"][1],
    }


def test_every_class_of_errors_has_its_meaning() -> None:
    assert set(MEANING) == set(get_args(ErrorClass))


def test_what_the_operator_has_changed_of_the_table_holds(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.then(answer(410, "gone"))
    config = webhook(endpoint) + '[errors.webhook]\n"410" = "transient"\n'
    found = as_json(run(tmp_path, config, "webhook", "--to", endpoint.url, "--json"))
    assert found["error_class"] == "transient"


# --- several providers --------------------------------------------------------------------------------------------


def test_an_email_goes_out_by_the_first_provider_that_takes_it(server: ScriptedServer, tmp_path: Path) -> None:
    nobody = Endpoint()
    nobody.open()
    port = nobody.port
    nobody.close()
    config = f"[[channels.email.providers]]\n{smtp(server, port)}[[channels.email.providers]]\n{smtp(server)}"
    server.on("AUTH", "235 2.7.0 ok")
    result = run(tmp_path, config, "email", "--to", "ada@example.org", "--text", "Hi Ada", "--html", "<p>Hi Ada</p>")
    assert result.exit_code == 0, result.output
    assert "  provider 1 of 2: smtp" in result.stdout
    assert "  provider 2 of 2: smtp" in result.stdout
    (mail,) = server.mails
    assert {part.get_content_type() for part in mail.walk()} >= {"text/plain", "text/html"}
    assert mail["To"] == "ada@example.org"
    only = run(tmp_path, config, "email", "--to", "ada@example.org", "--provider", "1")
    assert only.exit_code == 1
    assert "error class      transient" in only.stdout
    wrong = run(tmp_path, config, "email", "--to", "ada@example.org", "--provider", "3")
    assert wrong.exit_code == 2
    assert wrong.stderr == "error: --provider: the channel has no '3'; it has 1 (smtp), 2 (smtp)\n"


def test_what_may_have_arrived_is_not_sent_by_another(server: ScriptedServer, tmp_path: Path) -> None:
    config = f"[[channels.email.providers]]\n{smtp(server)}" * 2
    server.on("AUTH", "235 2.7.0 ok")
    server.on(".", "drop")
    result = run(tmp_path, config, "email", "--to", "ada@example.org")
    assert result.exit_code == 1
    assert "error class      ambiguous" in result.stdout
    assert "provider 2 of 2" not in result.stdout


def test_a_wrong_password_is_told_and_not_shown(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("AUTH", "535 5.7.8 no, not with open sesame")
    found = run(tmp_path, f"[channels.email]\n{smtp(server)}", "email", "--to", "ada@example.org", "--json")
    assert found.exit_code == 1
    assert as_json(found)["error_class"] == "misconfigured"
    assert "535 5.7.8 no, not with ***" in found.stdout
    assert not [form for form in disguised(["open sesame"]) if form in found.output]


# --- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["true", "false"])
@pytest.mark.parametrize("more", [["--json"], []], ids=["json", "people"])
def test_no_form_of_a_secret_is_shown(fails: str, more: list[str], tmp_path: Path) -> None:
    config = f"{LEAKY}token = '{TOKEN}'\nfails = {fails}\n"
    result = run(tmp_path, config, "pager", "--to", "ada", *more)
    assert result.exit_code == (fails == "true")
    assert result.stdout.count("***") > 10
    for form in (TOKEN, *disguised([TOKEN]), json.dumps(json.dumps(TOKEN))[3:-3]):
        assert form not in result.output


# --- wrong usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["webhok"], "unknown channel 'webhok'; did you mean webhook?; it needs a table [channels.webhok]"),
        (["inapp"], "dispatcher send USER --channel inapp"),
        (["fax"], "whoever attaches to it while the service runs; try it with: dispatcher send USER --channel fax"),
        (["sms"], "the channel sms is simulated and reaches nobody"),
        (["webhook"], "--to: webhook cannot reach whom it names; give a URL such as https://example.org/hook"),
        (["webhook", "--to", "ftp://x"], "--to: its scheme is 'ftp', not http or https"),
        (["webhook", "--to", "https://x", "--secret", SECRET], "others can read the command line"),
        (["webhook", "--to", "https://x", "--secret", "env:NO_SUCH"], "--secret: the environment has no NO_SUCH"),
        (["webhook", "--to", "https://x", "--secret", "env:HOME"], "--secret: it is not whsec_ and the base64"),
        (["webhook", "--to", "https://x", "--payload", "{}"], "--payload is what a --template is filled with"),
        (["webhook", "--to", "https://x", "--template", "a", "--text", "b"], "--template has all that is said"),
        (["webhook", "--to", "https://x", "--template", "a"], "unknown template 'a'"),
        (["pager", "--to", "ada", "--secret", "env:HOME"], "--secret: it signs webhooks, and this is none"),
        (["pager"], "--to: pager cannot reach whom it names; give the contact that the channel looks for"),
    ],
)
def test_wrong_usage(args: list[str], says: str, tmp_path: Path) -> None:
    config = '[channels.fax]\nprovider = "attached"\n[channels.sms]\nprovider = "simulated"\n'
    config += f'[channels.webhook]\n{LEAKY}token = "abcdef"\n'
    result = run(tmp_path, config, *args)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert "✗" not in result.stdout


def test_a_device_of_a_push_service_without_a_table_names_the_table(tmp_path: Path) -> None:
    key = base64.urlsafe_b64encode(bytes([1] * 32)).rstrip(b"=").decode()
    config = f'[channels.push.webpush]\nprivate_key = "{key}"\nsubject = "mailto:ops@shop.example"\n'
    result = run(tmp_path, config, "push", "--to", "apns:" + "0" * 64)
    assert result.exit_code == 2
    assert "--to: there is no [channels.push.apns], so that no device of apns is reached; add it" in result.stderr


@pytest.mark.parametrize(
    ("channel", "provider", "to", "contacts"),
    [
        ("email", "smtp", "ada@example.org", Contacts(email="ada@example.org")),
        ("news", "smtp", "ada@example.org", Contacts(email="ada@example.org")),
        ("sms", "twilio", "+33612345678", Contacts(phone="+33612345678")),
        ("push", "push", "fcm:a:b", Contacts(push=(PushContact("fcm", "a:b"),))),
        ("chat", "apprise", "slack://A/B/C", Contacts(chat=("slack://A/B/C",))),
        ("pager", "entry-point", "1", Contacts(other={"pager": "1"})),
        ("system", "desktop", None, Contacts()),
    ],
)
def test_whom_it_is_for_is_what_a_users_document_would_have(
    channel: str, provider: str, to: str | None, contacts: Contacts
) -> None:
    assert recipient(channel, ProviderSettings(provider), to).contacts == contacts


def test_a_subscription_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "subscription.json"
    path.write_text(f"{SUBSCRIPTION}\n")
    push = ProviderSettings("push")
    assert recipient("push", push, f"webpush:@{path}") == recipient("push", push, f"webpush:{SUBSCRIPTION}")
    with pytest.raises(TrialError, match=r"absent\.json cannot be read: No such file"):
        recipient("push", push, f"webpush:@{tmp_path}/absent.json")


@pytest.mark.parametrize(
    ("provider", "to", "says"),
    [
        ("smtp", "ada", "'ada' is not an e-mail address"),
        ("sms-http", "0612345678", "write \\+ and the country code first"),
        ("push", "token", "'token' is not a device, as fcm:TOKEN"),
        ("push", "gcm:token", "is not a device, as fcm:TOKEN"),
        ("desktop", "ada", "reaches nobody but whoever runs it"),
    ],
)
def test_a_contact_that_is_none_is_refused(provider: str, to: str, says: str) -> None:
    with pytest.raises(TrialError, match=f"^--to: .*{says}"):
        recipient("x", ProviderSettings(provider), to)


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_service_that_hangs_in_a_thread_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "dispatcher.toml"
    path.write_text('[channels.pager]\nclass = "tests.support.leaky:Stuck"\ntimeout = "200ms"\n')
    before = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "dispatcher", "channel", "test", "pager", "--to", "ada", "--config", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert "no answer within 0.2 s" in ended.stdout
    assert time.monotonic() - before < 30
