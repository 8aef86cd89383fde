"""Services that quote what they were sent: no secret of the configuration gets into what people see or what is kept."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from dispatcher.cli import main
from shards.hidden import disguised
from tests.support.push import settings as push
from tests.support.service import RunningDispatcher, wait_until
from tests.support.smtp import EXTENSIONS, ScriptedServer

WEBHOOK_KEY = base64.b64encode(b"of the configuration, webhooks").decode()
OF_USER = base64.b64encode(b"of the user's webhook, and so on").decode()
MARKS = {
    name: f"{name}-MARK-7f3a91c2"
    for name in ("mail", "header", "sms", "bearer", "basic", "chat", "chatpath", "pager", "environment")
} | {"twilio": "5ec4e7" * 5 + "00", "webhook": WEBHOOK_KEY, "user": OF_USER, "path": "B0sEcReTpAtHoFaHoOk42"}
CONFIG = """
[log]
level = "debug"
[retry]
max_retries = 0
[channels.email]
host = "127.0.0.1"
port = {smtp}
tls = "none"
sender = "shop@shop.example"
username = "joe"
password = "env:MAIL_PASSWORD"
[channels.webhook]
secret = "whsec_{webhook}"
headers = {{ X-Api-Key = "{header}" }}
allow_private = ["127.0.0.0/8"]
ports = [{http}]
retry = {{ max_retries = 0 }}
[channels.sms]
provider = "sms-http"
url = "http://127.0.0.1:{http}/send?key={{key}}"
username = "u"
password = "{basic}"
secrets = {{ key = "file:{directory}/sms" }}
headers = {{ X-Token = "Bearer {bearer}" }}
[channels.text]
provider = "twilio"
account_sid = "AC0123456789abcdef0123456789abcdef"
auth_token = "{twilio}"
from_number = "+15005550006"
url = "http://127.0.0.1:{http}"
[channels.push.fcm]
service_account = "file:{directory}/fcm.json"
base_url = "http://127.0.0.1:{http}"
[channels.chat]
provider = "apprise"
urls = ["json://user:{chat}@127.0.0.1:{http}/{chatpath}"]
[channels.pager]
class = "tests.support.leaky:Leaky"
token = "{pager}"
fails = true
[channels.other]
class = "tests.support.leaky:Leaky"
fails = true
"""
TRIED = {"email": "a@b.example", "sms": "+33612345678", "text": "+33612345678", "chat": None, "pager": "1"}
CHANNELS = (*TRIED, "other", "webhook")


class Echo(BaseHTTPRequestHandler):
    """Refuses everything, in the words of whoever asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        headers = [line for line in str(self.headers).splitlines() if line.startswith(("Authorization", "X-"))]
        text = f"no: {self.path} {' '.join(headers)} {body}".encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def smtp() -> Iterator[ScriptedServer]:
    quoted = base64.b64encode(f"\0joe\0{MARKS['mail']}".encode()).decode()
    with ScriptedServer((*EXTENSIONS, "AUTH PLAIN")) as server:
        server.on("AUTH", *[f"535 5.7.8 {quoted} {MARKS['mail']}"] * 8)
        yield server


@pytest.fixture(scope="module")
def service(echo: int, smtp: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDispatcher]:
    directory = tmp_path_factory.mktemp("secrets")
    push.write_secrets(directory, f"http://127.0.0.1:{echo}/token")
    (directory / "sms").touch(0o600)
    (directory / "sms").write_text(MARKS["sms"])
    made = RunningDispatcher(CONFIG.format(http=echo, smtp=smtp.port, directory=directory, **MARKS))
    made.environment = {
        "MAIL_PASSWORD": MARKS["mail"],
        "DISPATCHER_CHANNELS__OTHER__TOKEN": MARKS["environment"],
    }
    with made as running:
        hook = {"url": f"http://127.0.0.1:{echo}/services/{MARKS['path']}", "secret": f"whsec_{OF_USER}"}
        contacts = {
            "email": "a@b.example",
            "phone": "+33612345678",
            "push": [{"provider": "fcm", "token": "a-device-of-ann"}],
            "webhook": hook,
            "other": {"pager": "1", "other": "1"},
        }
        running.request("user.put", user_id="ann", user={"contacts": contacts})
        for channel in (*CHANNELS, "push"):
            running.client.submit(
                {"user_id": "ann", "title": "hello", "channels": [channel], "idempotency_key": channel}
            )
        yield running


def found_in(text: str) -> list[str]:
    """The names of the secrets in a text, in whatever form."""
    forms = {name: [form for form in disguised([mark]) if len(form) > 7] for name, mark in MARKS.items()}
    return [name for name, known in forms.items() if any(form in text for form in known)]


def run(service: RunningDispatcher, *args: str, expect: int) -> str:
    ended = CliRunner().invoke(main, args, env=service.environment | {"DISPATCHER_SUBMIT": service.submit})
    assert ended.exit_code == expect, ended.output
    return ended.output


def test_what_is_said_of_deliveries_has_none(service: RunningDispatcher) -> None:
    def last_errors() -> list[str] | None:
        asked = (service.request("status", user_id="ann", idempotency_key=channel) for channel in CHANNELS)
        found = [one["last_error"] for answer in asked for one in answer["deliveries"]]
        return found if all(found) else None

    said = wait_until(last_errors, 30)
    assert all("***" in one for one in said), said
    answers = [said, *(service.request(op) for op in ("stats", "dead.list"))]
    assert found_in(json.dumps(answers, ensure_ascii=False)) == []


@pytest.mark.parametrize("args", [["channel", "list"], ["dead", "list"], ["config", "show", "--config"]], ids=" ".join)
def test_nor_has_what_is_shown(service: RunningDispatcher, args: list[str]) -> None:
    args = [*args, str(service.config_file)] if args[-1] == "--config" else args
    assert found_in(run(service, *args, expect=0)) == []


@pytest.mark.parametrize(("channel", "to"), TRIED.items())
def test_nor_has_the_conversation(service: RunningDispatcher, channel: str, to: str | None) -> None:
    whom = ["--to", to] if to else []
    shown = run(service, "channel", "test", channel, *whom, "--config", str(service.config_file), expect=1)
    assert "***" in shown
    assert found_in(shown) == []


def test_nor_has_what_is_kept(service: RunningDispatcher) -> None:
    """But for the user's own document."""
    files = {path: path.read_bytes().decode("latin-1") for path in service.data_dir.rglob("*") if path.is_file()}
    kept = {path.name: set(found_in(text)) - {"user", "path"} for path, text in files.items()}
    assert not any(kept.values()), kept
    assert found_in(files[service.data_dir / "collector.db"]) == []
    assert found_in(service.log_file.read_text()) == []
    pids = [service.process.pid if service.process else 0, *service.child_pids().values()]
    assert found_in("".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)) == []
