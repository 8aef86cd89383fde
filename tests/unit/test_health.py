"""Contacts that do not work: how they get there, what is left of a document, and what heals."""

from __future__ import annotations

from shards.contacts import Contacts, PushContact, WebhookContact
from shards.health import DISABLED_AFTER_MS, Contact, ContactHealth, Health, contacts_on, without

HOOK = ("ann", "webhook", "https://example.org/hook")


class Table:
    def __init__(self) -> None:
        self.rows: dict[Contact, Health] = {}

    def health_of(self, user_id: str) -> list[tuple[str, str, Health]]:
        return [(channel, text, health) for (user, channel, text), health in self.rows.items() if user == user_id]

    def failing(self) -> list[Contact]:
        return [contact for contact, health in self.rows.items() if health.state == "failing"]

    def store(self, health: ContactHealth) -> ContactHealth:
        """Commit, and open anew."""
        for contact, one in health.changed.items():
            if one is None:
                self.rows.pop(contact, None)
            else:
                self.rows[contact] = one
        return ContactHealth(self)


def test_an_endpoint_dies_of_messages_that_failed_for_days() -> None:
    table = Table()
    health = ContactHealth(table)
    assert not health.exhaust(HOOK, 1_000, "500")
    health = table.store(health)
    assert health.has_failing
    assert not health.exhaust(HOOK, 1_000 + DISABLED_AFTER_MS, "500")
    assert health.exhaust(HOOK, 1_001 + DISABLED_AFTER_MS, "502")
    assert health.of("ann")[HOOK[1:]] == Health("dead", 1_001 + DISABLED_AFTER_MS, "502"), "in the same turn"
    health = table.store(health)
    assert not health.has_failing
    assert not health.exhaust(HOOK, 9 * DISABLED_AFTER_MS, "500"), "once"


def test_any_success_starts_the_clock_anew() -> None:
    table = Table()
    health = ContactHealth(table)
    health.exhaust(HOOK, 0, "500")
    health = table.store(health)
    health.succeed(HOOK)
    health = table.store(health)
    assert not table.rows
    assert not health.exhaust(HOOK, 2 * DISABLED_AFTER_MS, "500")


def test_a_dead_contact_is_used_again_when_an_operator_says_so_or_the_document_has_another() -> None:
    table = Table()
    health = ContactHealth(table)
    health.kill(HOOK, 5, "410")
    health.kill(("ann", "email", "a@b.c"), 5, "550")
    health = table.store(health)
    health.retain("ann", Contacts(email="a@b.c", webhook=WebhookContact("https://example.org/other")))
    assert health.of("ann").keys() == {("email", "a@b.c")}
    health = table.store(health)
    assert not health.forgive("ann", "webhook")
    assert health.forgive("ann", "email")
    assert not table.store(health).of("ann")
    assert not table.rows


def test_what_is_left_of_a_document() -> None:
    contacts = Contacts(
        email="a@b.c",
        phone="+33612345678",
        push=(PushContact("fcm", "one"), PushContact("apns", "two")),
        chat=("slack://x",),
        other={"pager": "7"},
    )
    dead = {("email", "a@b.c"), ("push", "one"), ("pager", "7")}
    left, without_any = without(contacts, lambda channel, text: (channel, text) in dead)
    assert without_any == {"email", "pager"}
    assert (left.email, left.phone, left.chat, left.other) == (None, "+33612345678", ("slack://x",), {})
    assert [device.token for device in left.push] == ["two"]
    assert contacts_on("push", contacts) == ("one", "two")
    assert contacts_on("nothing", contacts) == ()
