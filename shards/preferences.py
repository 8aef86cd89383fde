"""The document that is stored per user, and what it says of a delivery. Unset means allowed."""

from __future__ import annotations

import re

import msgspec

from shards.rules import unknown
from shards.validation import check_topic
from shards.wire import EVERY_USER, RequestError

DOCUMENT_BYTES_MAX = 65_536


class PushContact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: str
    token: str


class WebhookContact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    url: str
    secret: str | None = None


class Contacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    email: str | None = None
    phone: str | None = None
    push: tuple[PushContact, ...] = ()
    webhook: WebhookContact | None = None


class Preferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``categories`` maps a category to false, or to its channels that are false."""

    channels: dict[str, bool] = {}
    categories: dict[str, bool | dict[str, bool]] = {}
    topics: tuple[str, ...] = ()


class UserDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    contacts: Contacts = Contacts()
    timezone: str | None = None
    locale: str | None = None
    preferences: Preferences = Preferences()


TABLES: dict[str, type[msgspec.Struct]] = {  # by path, without the places in lists
    "user": UserDocument,
    "user.contacts": Contacts,
    "user.contacts.push": PushContact,
    "user.contacts.webhook": WebhookContact,
    "user.preferences": Preferences,
}


class Choices:
    """A user's preferences in the form in which they are asked: users who chose alike share one object."""

    def __init__(self, preferences: Preferences) -> None:
        self._channels = frozenset(name for name, allowed in preferences.channels.items() if not allowed)
        self._categories = frozenset(name for name, allowed in preferences.categories.items() if allowed is False)
        self._pairs = frozenset(
            (category, channel)
            for category, chosen in preferences.categories.items()
            if isinstance(chosen, dict)
            for channel, allowed in chosen.items()
            if not allowed
        )
        self.key = (self._channels, self._categories, self._pairs)

    def block(self, category: str, channel: str) -> bool:
        return channel in self._channels or category in self._categories or (category, channel) in self._pairs


ALLOW_ALL = Choices(Preferences())


def parse_document(document: object) -> UserDocument:
    """Validate a user's document; ``RequestError`` names the key, and what is not built into this version."""
    preferences = document.get("preferences") if isinstance(document, dict) else None
    if isinstance(preferences, dict):
        for key in ("quiet_hours",):
            if key in preferences:
                raise RequestError(
                    "unsupported", f"preferences.{key} is not in this version", f"user.preferences.{key}"
                )
    try:
        parsed = msgspec.convert(document, UserDocument)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        field = f"user{path.rstrip('`')}"
        if found := re.search(r"unknown field `(.*)`", text, re.DOTALL):
            known = TABLES[re.sub(r"\[[^\]]*\]", "", field)].__struct_fields__
            raise RequestError("unknown_key", unknown("key", found[1], known), f"{field}.{found[1][:80]}") from None
        raise RequestError("bad_value", f"{text[0].lower()}{text[1:]}", field) from None
    topics = parsed.preferences.topics
    for at, topic in enumerate(topics):
        field = f"user.preferences.topics[{at}]"
        check_subscription(topic, field)
        if topic in topics[:at]:
            raise RequestError("bad_value", f"{topic[:80]!r} is there twice; name each topic once", field)
    return check_size(parsed)


def check_subscription(topic: str, field: str = "topic") -> None:
    """Raises ``RequestError`` for what cannot be subscribed to."""
    check_topic(topic, field)
    if topic == EVERY_USER:
        raise RequestError("bad_value", "* is every user with a document, and needs no subscription", field)


def check_size(document: UserDocument) -> UserDocument:
    """The document; ``RequestError`` if it is too large to be stored."""
    if len(msgspec.msgpack.encode(document)) > DOCUMENT_BYTES_MAX:
        raise RequestError("too_large", f"the document is over {DOCUMENT_BYTES_MAX} bytes", "user")
    return document
