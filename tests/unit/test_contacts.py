"""Contacts of chat services and of plug-ins: shape and bounds."""

from __future__ import annotations

import pytest

from shards.contacts import Contacts, PushContact, WebhookContact, check_contacts, credentials_of
from shards.hidden import redact
from shards.wire.errors import RequestError

SECRET = "xoxb-secret"


@pytest.mark.parametrize(
    "url", ["slack://T1/B2/xyz", "tgram://1:a/2?thread=3", "https://hooks.slack.com/services/A/B/C"]
)
def test_chat_urls_as_apprise_has_them(url: str) -> None:
    check_contacts(Contacts(chat=(url,)), "contacts")


@pytest.mark.parametrize("count", [0, 20])
def test_as_many_contacts_as_are_allowed(count: int) -> None:
    names = [f"pager{at}" for at in range(count)]
    check_contacts(Contacts(chat=tuple(f"slack://{name}" for name in names), other=dict.fromkeys(names, "x")), "")


@pytest.mark.parametrize(
    ("contacts", "field", "message"),
    [
        (Contacts(chat=(SECRET,)), "contacts.chat[0]", "no URL"),
        (Contacts(chat=("slack://a", f"slack://{SECRET} x")), "contacts.chat[1]", "no URL"),
        (Contacts(chat=(f"slack://{SECRET}\n",)), "contacts.chat[0]", "no URL"),
        (Contacts(chat=("slack://",)), "contacts.chat[0]", "no URL"),
        (Contacts(chat=("slack://" + "a" * 2_041,)), "contacts.chat[0]", "2048 characters"),
        (Contacts(chat=(f"slack://{SECRET}",) * 2), "contacts.chat[1]", "there twice"),
        (Contacts(chat=tuple(f"slack://{at}" for at in range(21))), "contacts.chat", "21 URLs; at most 20"),
        (Contacts(other={str(at): "x" for at in range(21)}), "contacts.other", "21 contacts; at most 20"),
        (Contacts(other={"": "x"}), "contacts.other.", "1 to 64 bytes"),
        (Contacts(other={"é" * 33: "x"}), "contacts.other." + "é" * 33, "1 to 64 bytes"),
        (Contacts(other={"pager": " "}), "contacts.other.pager", "it is empty"),
        (Contacts(other={"pager": "é" * 1_025}), "contacts.other.pager", "over 2048 bytes"),
    ],
)
def test_a_wrong_contact_is_named_and_not_quoted(contacts: Contacts, field: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        check_contacts(contacts, "contacts")
    assert raised.value.error.field == field
    assert message in raised.value.error.message
    assert SECRET not in raised.value.error.message


TOKEN = "Xy0000000000000000000000"


@pytest.mark.parametrize(
    "contacts",
    [
        Contacts(webhook=WebhookContact(f"https://hooks7.chat.example.org/services/T00000/{TOKEN}?on=1")),
        Contacts(webhook=WebhookContact(f"https://hooks7.chat.example.org/services?key={TOKEN}")),
        Contacts(webhook=WebhookContact("https://hooks7.chat.example.org/", TOKEN, "old")),
        Contacts(push=(PushContact("webpush", f'{{"endpoint": "https://hooks7.chat.example.org/{TOKEN}"}}'),)),
        Contacts(chat=(f"slack://hooks7.chat.example.org/{TOKEN}",)),
    ],
)
def test_what_may_be_a_credential_is_no_host_and_no_word(contacts: Contacts) -> None:
    said = f"no connection to hooks7.chat.example.org, for {TOKEN}: services/internationalisation are down"
    assert redact(said, credentials_of(contacts)) == said.replace(TOKEN, "***")
