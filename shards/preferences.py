"""The document that is stored per user, and what it says of a delivery. Unset means allowed."""

from __future__ import annotations

import functools
import re

import msgspec

from shards.contacts import SHOWN, Contacts, PushContact, WebhookContact, check_contacts
from shards.nearest import unknown
from shards.quiet import QuietHours, check_zone, day_numbers, time_of_day, zones
from shards.wire.errors import RequestError
from shards.wire.notification import EVERY_USER, TOPIC_BYTES_MAX

DOCUMENT_BYTES_MAX = 65_536
LOCALE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")  # the shape of a BCP 47 tag
LOCALE_LENGTH_MAX = 35  # what RFC 5646 section 4.4.1 asks software to have room for


class QuietWindow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """As ``QuietHours`` takes them."""

    start: str
    end: str
    days: tuple[str, ...] | None = None


class Preferences(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``categories`` maps a category to false, or to its channels that are false."""

    channels: dict[str, bool] = {}
    categories: dict[str, bool | dict[str, bool]] = {}
    quiet_hours: QuietWindow | None = None
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
    "user.preferences.quiet_hours": QuietWindow,
}


MEANT = {
    name: f"{table}.{name}"
    for table, kind in (("contacts", Contacts), ("preferences", Preferences))
    for name in kind.__struct_fields__
}  # in the table that they belong to


class Choices:
    """A user's document in the form in which it is asked: users who chose alike share one object.

    ``default_zone`` is the time zone of those who name none. ``key`` is equal for those who chose alike: it has which
    contacts there are, not their values.
    """

    def __init__(self, document: UserDocument, default_zone: str, dead: frozenset[str] = frozenset()) -> None:
        """``dead`` are the channels of which no contact works any more; the document is without these."""
        preferences, contacts = document.preferences, document.contacts
        self.dead = dead
        self._channels = frozenset(name for name, allowed in preferences.channels.items() if not allowed)
        self._categories = frozenset(name for name, allowed in preferences.categories.items() if allowed is False)
        self._pairs = frozenset(
            (category, channel)
            for category, chosen in preferences.categories.items()
            if isinstance(chosen, dict)
            for channel, allowed in chosen.items()
            if not allowed
        )
        needed = {
            "email": contacts.email,
            "sms": contacts.phone,
            "push": contacts.push,
            "webhook": contacts.webhook,
        }
        self._missing = frozenset(channel for channel, contact in needed.items() if not contact)
        self.has_contacts = len(self._missing) < len(needed) or bool(dead)
        self.locale = document.locale
        quiet = None
        if preferences.quiet_hours:
            zone = document.timezone or default_zone
            quiet = preferences.quiet_hours, zone if zone in zones() else default_zone  # a newer database may lack it
        self.quiet_window = quiet  # as it is written, and its zone
        self.quiet = _quiet_hours(*quiet) if quiet else None
        self.key = (self._channels, self._categories, self._pairs, self._missing, self.dead, self.locale, quiet)

    def block(self, category: str, channel: str) -> bool:
        return self.blocks(category, channel) is not None

    def blocks(self, category: str, channel: str) -> str | None:
        """The key under ``preferences`` that switches the delivery off; None if it is allowed."""
        if channel in self._channels:
            return f"channels.{channel}"
        if category in self._categories:
            return f"categories.{category}"
        return f"categories.{category}.{channel}" if (category, channel) in self._pairs else None

    def has_contact(self, channel: str) -> bool:
        """Whether the user can be reached there: ``inapp``, ``system`` and plug-ins need no contact."""
        return channel not in self._missing


@functools.lru_cache(maxsize=4_096)  # one object, with the window that it found last, for all who are quiet alike
def _quiet_hours(window: QuietWindow, zone: str) -> QuietHours:
    return QuietHours(window.start, window.end, window.days, zone)


ALLOW_ALL = Choices(UserDocument(), "UTC")


def parse_document(document: object) -> UserDocument:
    """Validate a user's document; ``RequestError`` names the key, the problem and the remedy."""
    try:
        parsed = msgspec.convert(document, UserDocument)
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$")
        field = f"user{path.rstrip('`')}"
        if found := re.search(r"unknown field `(.*)`", text, re.DOTALL):
            known = TABLES[re.sub(r"\[[^\]]*\]", "", field)].__struct_fields__
            meant = MEANT if field == "user" else {}
            told = unknown("key", found[1], known, meant)
            raise RequestError("unknown_key", told, f"{field}.{found[1][:80]}") from None
        if found := re.search(r"missing required field `(.*)`", text):
            raise RequestError("bad_value", f"{found[1]} is missing", field) from None
        raise RequestError("bad_value", f"{text[0].lower()}{text[1:]}", field) from None
    check_size(parsed)
    _check(parsed)
    return parsed


def check_size(document: UserDocument) -> None:
    """Raises ``RequestError`` if it is too large to be stored."""
    if len(msgspec.msgpack.encode(document)) > DOCUMENT_BYTES_MAX:
        raise RequestError("too_large", f"the document is over {DOCUMENT_BYTES_MAX} bytes", "user")


def _check(document: UserDocument) -> None:
    """What its types do not say. Not asked of stored documents, which an earlier version may have accepted."""
    check_contacts(document.contacts, "user.contacts")
    if document.timezone is not None and (problem := check_zone(document.timezone)):
        raise RequestError("bad_value", problem, "user.timezone")
    if document.locale is not None:
        _check_locale(document.locale)
    if document.preferences.quiet_hours is not None:
        _check_quiet_hours(document.preferences.quiet_hours, "user.preferences.quiet_hours")
    for at, topic in enumerate(document.preferences.topics):
        if problem := problem_of_topic(topic, document.preferences.topics[:at]):
            raise RequestError("bad_value", problem, f"user.preferences.topics[{at}]")


def _check_locale(locale: str) -> None:
    if not LOCALE.fullmatch(locale) or len(locale) > LOCALE_LENGTH_MAX:
        proposal = locale[:SHOWN].partition(".")[0].replace("_", "-")  # fr_CA.UTF-8, as systems have it
        likely = proposal != locale and LOCALE.fullmatch(proposal)
        hint = f"did you mean {proposal}?" if likely else "it is a tag such as fr, fr-CA or zh-Hant-TW"
        raise RequestError("bad_value", f"{locale[:SHOWN]!r} is not a locale of BCP 47; {hint}", "user.locale")


def _check_quiet_hours(window: QuietWindow, at: str) -> None:
    field = f"{at}.start"
    try:
        time_of_day(window.start)
        field = f"{at}.end"
        time_of_day(window.end)
        field = f"{at}.days"
        day_numbers(window.days)
        field = at
        QuietHours(window.start, window.end, window.days, "UTC")
    except ValueError as error:
        raise RequestError("bad_value", str(error), field) from None


def problem_of_topic(topic: str, before: tuple[str, ...] = ()) -> str | None:
    """Why a topic cannot be subscribed to, beside those ``before``; None if it can."""
    if not topic or len(topic.encode()) > TOPIC_BYTES_MAX:
        return f"a topic is a name of 1 to {TOPIC_BYTES_MAX} bytes"
    if "\0" in topic:
        return "a topic has no NUL"
    if topic == EVERY_USER:
        return "* is every user with a document, and needs no subscription; leave it out"
    return f"{topic[:SHOWN]!r} is there twice; name each topic once" if topic in before else None
