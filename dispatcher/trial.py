"""One message over a channel, at once and without a service: by the classes that a shard uses, told step by step."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import msgspec

from shards import options
from shards.answers import Answers, ErrorClass
from shards.channels import registry
from shards.channels.base import Context, Delivery, Recipient, SendError, Sent
from shards.contacts import PUSH_PROVIDERS, Contacts, PushContact, WebhookContact, check_contacts
from shards.hidden import disguised, redact, secrets_of
from shards.parcel import Parcel, Renderer, delivery_id, unpack
from shards.providers import HANDED_OVER, Provider
from shards.settings import ChannelSettings, ProviderSettings
from shards.wire import PRIORITIES, Notification, RequestError

if TYPE_CHECKING:
    from shards.frames import Entry

USER = "channel-test"
CLOSE_S = 2.0
STEPS_MAX = 1_000
STEP_MAX = 1_000  # characters
NEXT = {*HANDED_OVER, "misconfigured"}  # after such an end another provider cannot make it arrive twice

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

# What the end of an attempt means for a real delivery, and what a person can do about it.
MEANING: Mapping[ErrorClass, tuple[str, str]] = {
    "transient": (
        "it is tried again, as `retry` says, and then a dead letter",
        "see that the service is up and can be reached from this machine",
    ),
    "throttled": (
        "it waits as long as the service asks for, and is tried again",
        "set `rate` of the channel below what the service allows, or have it allow more",
    ),
    "ambiguous": (
        'it may have arrived; it is tried again, or with on_ambiguous = "hold" a dead letter',
        "see whether it has arrived; if the service is slow, raise `timeout` of the channel",
    ),
    "permanent": (
        "it is a dead letter at once, and no retry mends it",
        "correct what the service objects to, then `dispatcher dead replay`",
    ),
    "bad_address": (
        "it is a dead letter, and the contact is not used again until the user's document has another",
        "correct the contact with `dispatcher user put`",
    ),
    "misconfigured": (
        "the next provider is asked; where there is none the channel pauses, and what waits loses no attempt",
        "correct the configuration, then `dispatcher config reload`",
    ),
}


class TrialError(ValueError):
    """It cannot be tried so: the message says what is wrong, and the remedy."""


class Result(msgspec.Struct):
    """``message`` is what the service called the message, or why it did not take it."""

    outcome: Literal["delivered", "failed"]
    provider: str
    error_class: ErrorClass | None
    message: str
    meaning: str | None
    remedy: str | None
    steps: list[str]


class Said(NamedTuple):
    """What is to be sent: of a template where there is one."""

    title: str
    text: str
    html: str | None = None
    template: str | None = None
    payload: Mapping[str, Any] = {}


def recipient(channel: str, provider: ProviderSettings, to: str | None, secret: str | None = None) -> Recipient:
    """Who is reached at ``to``; the configuration's own where there is none. Raises ``TrialError``."""
    kind = _kind(channel, provider)
    if secret is not None and kind != "webhook":
        raise TrialError("--secret: it signs webhooks, and this is none; leave it out")
    if to is None:
        return Recipient(USER)
    contacts = _contacts(kind, channel, to, secret)
    try:
        check_contacts(contacts, "--to")
    except RequestError as error:
        raise TrialError(f"--to: {error.error.message}") from None
    return Recipient(to if kind == "other" else USER, contacts)


def _kind(channel: str, provider: ProviderSettings) -> str:
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


def delivery(channel: str, to: Recipient, said: Said, render: Renderer) -> Delivery:
    """What a channel would be given of such a notification. Raises ``SendError`` where it cannot be rendered."""
    id = f"test-{uuid.uuid4()}"
    notification = Notification(
        title=said.title, body=said.text, template=said.template, payload=dict(said.payload), category="system"
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


class Trial:
    """``tell`` gets each step as it happens, without the secrets of the configuration and those in ``secrets``."""

    def __init__(
        self,
        channel: str,
        settings: ChannelSettings,
        errors: Mapping[str, Mapping[str, ErrorClass]],
        tell: Callable[[str], None],
        secrets: Sequence[str] = (),
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._errors = errors
        self._tell = tell
        self._hidden = disguised([*_secrets(settings.providers), *secrets])
        self._steps: list[str] = []

    def run(self, providers: Sequence[ProviderSettings], delivery: Delivery) -> Result:
        """Ask one after the other until one has taken it, or may have. Raises ``TrialError`` if none can reach whom."""
        loop = asyncio.new_event_loop()  # closed without a wait for what hangs in a thread
        try:
            return loop.run_until_complete(self._run(providers, delivery))
        finally:
            loop.close()

    async def _run(self, providers: Sequence[ProviderSettings], delivery: Delivery) -> Result:
        result = None
        for number, settings in enumerate(providers, 1):
            name = settings.provider or settings.path
            if len(providers) > 1:
                self._step(f"provider {number} of {len(providers)}: {name}")
            ended = await self._attempt(settings, delivery)
            if ended is None:
                self._step("it cannot reach this recipient")
                continue
            result = self._result(name, ended)
            if result.error_class not in NEXT:
                break
        if result is None:
            like = LIKE.get(_kind(self._channel, providers[0]), "nobody")
            raise TrialError(f"--to: {self._channel} cannot reach whom it names; give {like}")
        return result

    async def _attempt(self, settings: ProviderSettings, delivery: Delivery) -> Sent | SendError | None:
        """None where the provider cannot reach the recipient."""
        timeout_s, concurrency = float(self._settings.timeout), self._settings.concurrency
        context = Context(self._channel, timeout_s, concurrency, Answers(self._errors), self._step)
        provider = Provider(settings, context)
        try:
            if provider.is_unmade:
                return SendError("misconfigured", provider.refused)
            if not provider.supports(delivery):
                return None
            return await provider.send(delivery, time.monotonic)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await provider.close()

    def _step(self, text: str) -> None:
        for line in redact(text, self._hidden).splitlines():
            if len(self._steps) < STEPS_MAX:
                self._steps.append(line[:STEP_MAX])
                self._tell(self._steps[-1])

    def _result(self, provider: str, ended: Sent | SendError) -> Result:
        if isinstance(ended, Sent):
            return Result("delivered", provider, None, redact(ended.detail, self._hidden), None, None, self._steps)
        meaning, remedy = MEANING[ended.error_class]
        message = redact(ended.message, self._hidden)
        return Result("failed", provider, ended.error_class, message, meaning, remedy, self._steps)


def _secrets(providers: Sequence[ProviderSettings]) -> list[str]:
    return [
        secret
        for one in providers
        for secret in secrets_of(options.read(registry.find(one.provider, one.path), one.options))
    ]
