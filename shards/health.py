"""Contacts that do not work: a token that its service has disowned, a webhook that has failed for days.

A contact that is dead is not used again until the user's document has another in its place. A webhook's endpoint dies
when a message has exhausted its retries, and another one does so more than ``DISABLED_AFTER_MS`` later, with no success
between (Standard Webhooks, "Operational considerations").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import msgspec

from shards.contacts import Contacts

DISABLED_AFTER_MS = 120 * 3_600_000


class Health(NamedTuple):
    """``failing`` is used all the same; ``detail`` is what the service said, for a person."""

    state: Literal["failing", "dead"]
    since_ms: int
    detail: str


Contact = tuple[str, str, str]  # user, channel, contact


class Stored(Protocol):
    """The journal's part."""

    def health_of(self, user_id: str) -> Iterable[tuple[str, str, Health]]: ...

    def failing(self) -> Iterable[Contact]: ...


class ContactHealth:
    """What is stored, and what this turn has changed of it."""

    def __init__(self, stored: Stored) -> None:
        self.changed: dict[Contact, Health | None] = {}  # in this turn, to be stored
        self._stored = stored
        self._failing = set(stored.failing())

    def of(self, user_id: str) -> dict[tuple[str, str], Health]:
        """By channel and contact."""
        found = {(channel, contact): health for channel, contact, health in self._stored.health_of(user_id)}
        for (user, channel, contact), health in self.changed.items():
            if user != user_id:
                continue
            if health is None:
                found.pop((channel, contact), None)
            else:
                found[channel, contact] = health
        return found

    def kill(self, contact: Contact, now_ms: int, detail: str) -> None:
        self._failing.discard(contact)
        self.changed[contact] = Health("dead", now_ms, detail)

    def exhaust(self, contact: Contact, now_ms: int, detail: str) -> bool:
        """A message has had its last attempt there; whether the contact dies of it."""
        user_id, channel, text = contact
        before = self.of(user_id).get((channel, text))
        if before is None:
            self._failing.add(contact)
            self.changed[contact] = Health("failing", now_ms, detail)
            return False
        if before.state == "dead" or now_ms - before.since_ms <= DISABLED_AFTER_MS:
            return False
        self.kill(contact, now_ms, detail)
        return True

    def succeed(self, contact: Contact) -> None:
        """Something has arrived there: whatever was held against it is over."""
        if contact in self._failing:
            self._failing.discard(contact)
            self.changed[contact] = None

    @property
    def has_failing(self) -> bool:
        return bool(self._failing)

    def forgive(self, user_id: str, channel: str) -> bool:
        """Use a user's contacts again, as an operator wants it; whether anything was held against them."""
        found = [(user_id, on, text) for on, text in self.of(user_id) if on == channel]
        self._failing.difference_update(found)
        self.changed.update(dict.fromkeys(found))
        return bool(found)

    def retain(self, user_id: str, contacts: Contacts) -> None:
        """Forget what was held against contacts that the user's document does not have any more."""
        kept = {(channel, contact) for channel in _channels(contacts) for contact in contacts_on(channel, contacts)}
        for channel, text in self.of(user_id):
            if (channel, text) not in kept:
                self._failing.discard((user_id, channel, text))
                self.changed[user_id, channel, text] = None

    def committed(self) -> None:
        self.changed.clear()


def _channels(contacts: Contacts) -> Iterator[str]:
    yield from ("email", "sms", "push", "webhook", "chat")
    yield from contacts.other


def contacts_on(channel: str, contacts: Contacts) -> tuple[str, ...]:
    """What a user can be reached by on a channel, as texts."""
    match channel:
        case "email":
            found = (contacts.email,)
        case "sms":
            found = (contacts.phone,)
        case "push":
            return tuple(device.token for device in contacts.push)
        case "webhook":
            found = (contacts.webhook.url if contacts.webhook else None,)
        case "chat":
            return contacts.chat
        case _:
            found = (contacts.other.get(channel),)
    return tuple(contact for contact in found if contact)


def without(contacts: Contacts, is_dead: Callable[[str, str], bool]) -> tuple[Contacts, frozenset[str]]:
    """The contacts that may work, and the channels of which none is left."""
    dead = frozenset(
        channel
        for channel in _channels(contacts)
        if (found := contacts_on(channel, contacts)) and all(is_dead(channel, contact) for contact in found)
    )
    webhook = contacts.webhook
    return (
        msgspec.structs.replace(
            contacts,
            email=None if "email" in dead else contacts.email,
            phone=None if "sms" in dead else contacts.phone,
            push=tuple(device for device in contacts.push if not is_dead("push", device.token)),
            webhook=None if "webhook" in dead else webhook,
            chat=tuple(url for url in contacts.chat if not is_dead("chat", url)),
            other={name: text for name, text in contacts.other.items() if name not in dead},
        ),
        dead,
    )
