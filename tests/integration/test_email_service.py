"""E-mail from submit to the mailbox: the whole service beside a real mail server with TLS and a password."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.mail_server import MailServer
from tests.support.service import RunningDispatcher, wait_until

NAME, PASSWORD = "shop", "hush-hush"
CONFIG = """
[retry]
base = "50ms"
[categories.marketing]
channels = ["email"]
unsubscribable = true
[channels.email]
provider = "smtp"
host = "127.0.0.1"
port = {port}
ca_file = "{ca}"
sender = "Shop <no-reply@shop.example>"
username = "shop"
password = "file:{password}"
unsubscribe_url = "https://shop.example/unsubscribe?user={{user_id}}&category={{category}}&token={{token}}"
unsubscribe_secret = "env:UNSUBSCRIBE_SECRET"
"""


class Postmaster:
    """What the server answers to recipients, one after the other."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}

    def __call__(self, recipient: str) -> str | None:
        answers = self.answers.get(recipient)
        return answers.pop(0) if answers else None


@pytest.fixture(scope="module")
def postmaster() -> Postmaster:
    return Postmaster()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA, postmaster: Postmaster) -> Iterator[MailServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with MailServer(context, logins={NAME: PASSWORD}, answer=postmaster) as server:
        yield server


@pytest.fixture(scope="module")
def dispatcher(
    authority: trustme.CA, server: MailServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningDispatcher]:
    directory: Path = tmp_path_factory.mktemp("email")
    ca, password = directory / "ca.pem", directory / "password"
    authority.cert_pem.write_to_path(ca)
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    service = RunningDispatcher(CONFIG.format(port=server.port, ca=ca, password=password))
    service.environment["UNSUBSCRIBE_SECRET"] = "mum"
    with service:
        yield service


def submit(dispatcher: RunningDispatcher, name: str, **fields: Any) -> str:
    """To a user of that name, who has a mailbox; the notification's id."""
    dispatcher.request("user.put", user_id=name, user={"contacts": {"email": f"{name}@example.org"}})
    notification = {
        "user_id": name,
        "category": "marketing",
        "title": f"To {name}",
        "body": "It comes tomorrow \U0001f680.",
    }
    found = dispatcher.request("submit", notifications=[{**notification, **fields}])
    assert found["accepted"] == 1
    return str(found["ids"][0])


def ended(dispatcher: RunningDispatcher, id: str, outcome: str) -> dict[str, Any]:
    def looked() -> dict[str, Any] | None:
        (delivery,) = dispatcher.request("status", id=id)["deliveries"]
        return delivery if delivery["outcome"] == outcome else None

    return wait_until(looked, 60.0, f"{id} is {outcome}")


def mail_to(server: MailServer, name: str) -> Any:
    (mail,) = [mail for mail in server.mails if mail["To"] == f"{name}@example.org"]
    return mail


def test_a_mail_arrives_encrypted(dispatcher: RunningDispatcher, server: MailServer) -> None:
    id = submit(dispatcher, "ada")
    assert ended(dispatcher, id, "delivered")["attempts"] == 1
    mail = mail_to(server, "ada")
    assert all(server.encrypted)
    assert mail["Subject"] == "To ada"
    assert mail.get_content().strip() == "It comes tomorrow \U0001f680."
    assert mail["List-Unsubscribe"].startswith("<https://shop.example/unsubscribe?user=ada&category=marketing&token=")


def test_what_the_server_puts_off_is_tried_again(
    dispatcher: RunningDispatcher, server: MailServer, postmaster: Postmaster
) -> None:
    postmaster.answers["bob@example.org"] = ["451 4.3.0 Not now"]
    id = submit(dispatcher, "bob")
    delivery = ended(dispatcher, id, "delivered")
    assert delivery["attempts"] == 2
    assert mail_to(server, "bob")["Subject"] == "To bob"


def test_what_the_server_refuses_is_a_dead_letter_and_can_be_replayed(
    dispatcher: RunningDispatcher, server: MailServer, postmaster: Postmaster
) -> None:
    postmaster.answers["eve@example.org"] = ["550 5.7.1 Our policy forbids it"]
    id = submit(dispatcher, "eve")
    assert ended(dispatcher, id, "dead")["attempts"] == 1
    (letter,) = dispatcher.request("dead.list", user_id="eve")["items"]
    assert (letter["reason"], letter["error_class"]) == ("permanent", "permanent")
    assert letter["last_error"].endswith("answered RCPT with 550 5.7.1 Our policy forbids it")
    assert dispatcher.request("dead.replay", user_id="eve")["count"] == 1
    ended(dispatcher, id, "delivered")
    assert mail_to(server, "eve")["Subject"] == "To eve"


def test_an_unknown_mailbox_is_not_written_to_again(
    dispatcher: RunningDispatcher, server: MailServer, postmaster: Postmaster
) -> None:
    postmaster.answers["gone@example.org"] = ["550 5.1.1 User unknown"]
    id = submit(dispatcher, "gone")
    ended(dispatcher, id, "dead")
    (letter,) = dispatcher.request("dead.list", user_id="gone")["items"]
    assert letter["error_class"] == "bad_address"
    found = dispatcher.request("submit", notifications=[{"user_id": "gone", "category": "marketing", "title": "again"}])
    ended(dispatcher, str(found["ids"][0]), "suppressed")


def test_an_attachment_that_is_none_is_named(dispatcher: RunningDispatcher) -> None:
    id = submit(dispatcher, "mallory", payload={"attachments": [{"filename": "a.pdf"}]})
    ended(dispatcher, id, "dead")
    (letter,) = dispatcher.request("dead.list", user_id="mallory")["items"]
    assert "payload.attachments[0]" in letter["last_error"]
    assert "content_type" in letter["last_error"]


def test_no_secret_is_in_what_the_service_says(dispatcher: RunningDispatcher) -> None:
    assert PASSWORD not in dispatcher.log()
    assert "mum" not in dispatcher.log()
