"""What ``channel test`` sends, and to whom: as a service would make it of a notification and a user's document."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from dispatcher import templates
from dispatcher.settings import Settings, SettingsError
from shards.channels.base import Delivery, Recipient
from shards.contacts import PUSH_PROVIDERS, Contacts, PushContact, WebhookContact, check_contacts
from shards.parcel import Parcel, Renderer, delivery_id, unpack
from shards.settings import ChannelSettings, ProviderSettings
from shards.templates import TemplateEngine, TemplateError
from shards.wire.errors import RequestError
from shards.wire.notification import PRIORITIES, Notification

if TYPE_CHECKING:
    from shards.frames import Entry

USER = "channel-test"

# Which contact of a user's document is used, by provider, and of plug-ins by channel; "" is none.
OF_PROVIDERS = {
    "smtp": "email",
    "twilio": "phone",
    "sms-http": "phone",
    "push": "push",
    "webhook": "webhook",
    "apprise": "chat",
    "desktop": "",
}
OF_CHANNELS = {"email": "email", "sms": "phone", "push": "push", "webhook": "webhook", "chat": "chat", "system": ""}
LIKE = {
    "email": "an address such as ada@example.org",
    "phone": "a number such as +33612345678",
    "push": "a device, as fcm:TOKEN, apns:TOKEN or webpush:@subscription.json",
    "webhook": "a URL such as https://example.org/hook",
    "chat": "a URL of Apprise such as slack://A/B/C",
    "other": "the contact that the channel looks for",
}


class TrialError(ValueError):
    """It cannot be tried so: the message says what is wrong, and the remedy."""


class Said(NamedTuple):
    """What is to be sent: of a template where there is one."""

    title: str
    text: str
    html: str | None = None
    template: str | None = None
    payload: Mapping[str, Any] = {}


def recipient(channel: str, provider: ProviderSettings, to: str | None, secret: str | None = None) -> Recipient:
    """Who is reached at ``to``; the configuration's own where there is none. Raises ``TrialError``."""
    kind = kind_of(channel, provider)
    if secret is not None and kind != "webhook":
        raise TrialError("--secret: it signs webhooks, and this is none; leave it out")
    if to is None:
        return Recipient(USER)
    contacts = _contacts(kind, channel, to, secret)
    try:
        check_contacts(contacts, "--to")
    except RequestError as error:
        option = "--secret" if (error.error.field or "").endswith(".secret") else "--to"
        raise TrialError(f"{option}: {error.error.message}") from None
    return Recipient(to if kind == "other" else USER, contacts)


def kind_of(channel: str, provider: ProviderSettings) -> str:
    return OF_CHANNELS.get(channel, "other") if provider.path else OF_PROVIDERS.get(provider.provider, "other")


def _contacts(kind: str, channel: str, to: str, secret: str | None) -> Contacts:
    match kind:
        case "email":
            return Contacts(email=to)
        case "phone":
            return Contacts(phone=to)
        case "push":
            provider, colon, token = to.partition(":")
            if not colon or provider not in PUSH_PROVIDERS:
                raise TrialError(f"--to: {to[:40]!r} is not {LIKE['push']}")
            return Contacts(push=(PushContact(provider, _of_file(token)),))
        case "webhook":
            return Contacts(webhook=WebhookContact(to, secret))
        case "chat":
            return Contacts(chat=(to,))
        case "other":
            return Contacts(other={channel: to})
    raise TrialError("--to: this channel reaches nobody but whoever runs it; leave it out")


def _of_file(text: str) -> str:
    if not text.startswith("@"):
        return text
    path = Path(text[1:])
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TrialError(f"--to: {path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def renderer(settings: Settings) -> Renderer:
    """Of the templates that a service has which is started with these settings. Raises ``TrialError``."""
    data_dir = Path(settings.dispatcher.data_dir)
    try:
        library = templates.load(settings, data_dir if data_dir.is_dir() else None)
    except SettingsError as error:
        raise TrialError(str(error)) from None
    engine = TemplateEngine(library.sources, settings.templates.output_bytes)

    def render(
        said: Notification, channel: str, to: Recipient, priority: str, more: Mapping[str, Any]
    ) -> Mapping[str, str]:
        try:
            engine.keys(said.template or "", channel, to.locale)  # unknown is unknown, also where there are none
            return engine.say(said, channel, to.user_id, priority, to.locale, more)
        except TemplateError as error:
            raise TrialError(f"--template: {error}") from None

    return render


def _nothing(
    said: Notification, channel: str, to: Recipient, priority: str, more: Mapping[str, Any]
) -> Mapping[str, str]:
    return {}


def delivery(channel: str, to: Recipient, said: Said, render: Renderer = _nothing) -> Delivery:
    """What a channel would be given of such a notification. Raises ``TrialError``."""
    id = f"test-{uuid.uuid4()}"
    notification = Notification(
        title=said.title or None, body=said.text or None, template=said.template, payload=dict(said.payload)
    )
    made = unpack(
        Parcel(
            entry=cast("Entry", ()),  # it is in no journal
            said=notification,
            recipient=to,
            notification_id=id,
            delivery_id=delivery_id(id, channel),
            attempt=1,
            priority=PRIORITIES.index("normal"),
            created_ms=time.time_ns() // 1_000_000,
            expires_ms=None,
            collapse=None,
            unsubscribable=False,
        ),
        channel,
        render,
    )
    return made if said.html is None else msgspec.structs.replace(made, html=said.html)


def chosen(settings: ChannelSettings, which: str | None) -> list[ProviderSettings]:
    """The providers to try, in their order; ``which`` is the number of one, from 1, or its name."""
    if which is None:
        return list(settings.providers)
    for number, provider in enumerate(settings.providers, 1):
        if which in (str(number), provider.provider or provider.path):
            return [provider]
    names = ", ".join(f"{at} ({one.provider or one.path})" for at, one in enumerate(settings.providers, 1))
    raise TrialError(f"--provider: the channel has no {which[:80]!r}; it has {names}")
