"""A template from the shipped directory to the mailbox, in the reader's language."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.mail_server import MailServer
from tests.support.service import ROOT, RunningDispatcher, wait_until

CONFIG = """
[templates]
directory = "{directory}"
[digests.social]
template = "social-digest"
window = "1s"
categories = ["system"]
channels = ["email"]
[channels.email]
provider = "smtp"
host = "127.0.0.1"
port = {port}
tls = "none"
sender = "Shop <no-reply@shop.example>"
unsubscribe_url = "https://shop.example/u?user={{user_id}}&category={{category}}&id={{delivery_id}}&t={{token}}"
unsubscribe_secret = "env:UNSUBSCRIBE_SECRET"
[categories.newsletter]
channels = ["email"]
unsubscribable = true
"""
ORDER = {
    "name": "Ada <b>",
    "order": {"number": "17\r\nBcc: eve@example.org", "items": [{"count": 2, "name": "Tea & milk", "price": 3.5}]},
    "address": {"city": "Paris"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def dispatcher(server: MailServer) -> Iterator[RunningDispatcher]:
    service = RunningDispatcher(CONFIG.format(port=server.port, directory=ROOT / "config/templates"))
    service.environment["UNSUBSCRIBE_SECRET"] = "mum"
    with service:
        yield service


def sent(dispatcher: RunningDispatcher, name: str, locale: str, **fields: Any) -> dict[str, Any]:
    """To a user of that name; how it ended."""
    user = {"locale": locale, "contacts": {"email": f"{name}@example.org"}}
    dispatcher.request("user.put", user_id=name, user=user)
    (id,) = dispatcher.client.submit({"user_id": name, "channels": ["email"], **fields})["ids"]

    def ended() -> dict[str, Any] | None:
        (found,) = dispatcher.request("status", id=id)["deliveries"]
        return dict(found) if found["outcome"] in ("delivered", "dead") else None

    return wait_until(ended, 30, "the end of it")


def mails_to(server: MailServer, name: str) -> list[Any]:
    return [mail for mail in server.mails if f"{name}@example.org" in mail["To"]]


def test_a_mail_has_subject_text_and_html_in_the_language_of_its_reader(
    dispatcher: RunningDispatcher, server: MailServer
) -> None:
    found = sent(dispatcher, "ada", "fr-CA", category="transaction", template="order-shipped", payload=ORDER)
    assert found["outcome"] == "delivered", found
    (mail,) = mails_to(server, "ada")
    assert mail["Subject"] == "La commande 17 Bcc: eve@example.org est en route"
    assert mail["Bcc"] is None
    assert not any("eve@example.org" in envelope.rcpt_tos for envelope in server.envelopes)
    text, marked_up = mail.get_body(["plain"]).get_content(), mail.get_body(["html"]).get_content()
    assert "- 2 x Tea & milk, 3.50" in text
    assert "Bonjour Ada <b>," in text
    assert '<html lang="fr-CA">' in marked_up
    assert "Bonjour Ada &lt;b&gt;," in marked_up
    assert "2 &times; Tea &amp; milk" in marked_up


def test_the_link_to_unsubscribe_is_in_the_text_of_mails_that_have_it(
    dispatcher: RunningDispatcher, server: MailServer
) -> None:
    for name, category in (("carol", "newsletter"), ("dan", "transaction")):
        found = sent(dispatcher, name, "en", category=category, template="order-shipped", payload=ORDER)
        assert found["outcome"] == "delivered", found
    (mail,) = mails_to(server, "carol")
    link = mail["List-Unsubscribe"].strip("<>")
    assert "user=carol&category=newsletter&id=" in link
    assert f'<a href="{html.escape(link)}"' in mail.get_body(["html"]).get_content()
    (mail,) = mails_to(server, "dan")
    assert mail["List-Unsubscribe"] is None
    assert "Unsubscribe" not in mail.get_body(["html"]).get_content()


def test_a_digest_is_one_mail(dispatcher: RunningDispatcher, server: MailServer) -> None:
    found = sent(dispatcher, "bob", "en", title="one")
    assert found["outcome"] == "delivered", found
    (mail,) = mails_to(server, "bob")
    assert mail["Subject"] == "1 news for you"
    assert "<li>one</li>" in mail.get_body(["html"]).get_content()


def test_what_cannot_be_rendered_is_not_sent(dispatcher: RunningDispatcher, server: MailServer) -> None:
    found = sent(dispatcher, "eve", "fr", category="transaction", template="order-shipped", payload={"name": "Eve"})
    assert (found["outcome"], found["reason"], found["attempts"]) == ("dead", "template", 1)
    assert found["last_error"] == "template 'order-shipped', fr/title, line 1: 'order' is undefined"
    assert not mails_to(server, "eve")
