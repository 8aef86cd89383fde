"""Contacts in a user's document, checked before they are stored: each error names the key, the problem, the remedy.

``user.put`` alone checks. What an earlier version stored is read as it is.
"""

from __future__ import annotations

import binascii
import functools
import re
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import msgspec

from shards import subscription
from shards.nearest import unknown
from shards.wire.errors import RequestError

if TYPE_CHECKING:
    from email_validator import ValidatedEmail

PUSH_PROVIDERS = ("fcm", "apns", "webpush")
TOKEN_BYTES_MAX = 4_096
URL_LENGTH_MAX = 2_048
SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)  # Standard Webhooks
PLAIN_NAME = re.compile(r"[a-z0-9_+-]+(\.[a-z0-9_+-]+)*", re.IGNORECASE | re.ASCII)  # valid at every domain
PLAIN_LENGTH_MAX = 64  # of the whole address: what RFC 5321 allows the part before the @
CHAT_MAX = 20
CHAT_URL = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE | re.ASCII)
OTHER_MAX = 20
OTHER_NAME_BYTES_MAX = 64
OTHER_BYTES_MAX = 2_048
HOST = re.compile(r"://[^/?#\"\s]*")
LONG_WORD = re.compile(r"[\w.~%+-]{16,}", re.ASCII)
SHOWN = 80  # characters of a wrong value in an error


class PushContact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: str
    token: str


class WebhookContact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``previous_secret`` signs as well, while the receiver goes over to ``secret``."""

    url: str
    secret: str | None = None
    previous_secret: str | None = None


class Contacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    email: str | None = None
    phone: str | None = None
    push: tuple[PushContact, ...] = ()
    webhook: WebhookContact | None = None
    chat: tuple[str, ...] = ()  # URLs as Apprise has them
    other: dict[str, str] = {}  # of plug-ins, by channel


def credentials_of(contacts: Contacts) -> list[str]:
    """What of them is not to stand in an error: secrets, and what may be one, as in the URL of a webhook of Slack.

    That is any long word with a digit in it, hosts aside.
    """
    hook = contacts.webhook
    texts = [*contacts.chat, *(device.token for device in contacts.push), hook.url if hook else ""]
    words = [word for text in texts for word in LONG_WORD.findall(HOST.sub(" ", text))]
    secrets = [hook.secret, hook.previous_secret] if hook else []
    return [*filter(None, secrets), *(word for word in words if any(map(str.isdigit, word)))]


def check_contacts(contacts: Contacts, at: str) -> None:
    """``RequestError`` for the first contact that nothing could be sent to; ``at`` is the key of the table."""
    if contacts.email is not None:
        _check_email(contacts.email, f"{at}.email")
    if contacts.phone is not None:
        _check_phone(contacts.phone, f"{at}.phone")
    for number, push in enumerate(contacts.push):
        _check_push(push, f"{at}.push[{number}]")
        if push in contacts.push[:number]:
            _refuse("it is there twice; list each device once", f"{at}.push[{number}]")
    if contacts.webhook is not None:
        _check_url(contacts.webhook.url, f"{at}.webhook.url")
        for key in ("secret", "previous_secret"):
            secret = getattr(contacts.webhook, key)
            if secret is not None and (problem := problem_of_secret(secret)):
                _refuse(f"it {problem}", f"{at}.webhook.{key}")
        if contacts.webhook.previous_secret and not contacts.webhook.secret:
            _refuse(
                "it is there without secret; name the new one there, or the only one", f"{at}.webhook.previous_secret"
            )
    _check_chat(contacts.chat, f"{at}.chat")
    _check_other(contacts.other, f"{at}.other")


def _refuse(message: str, field: str) -> NoReturn:
    raise RequestError("bad_value", message, field)


def _check_email(address: str, field: str) -> None:
    """The address alone, international ones too; no name server is asked whether its domain exists."""
    name, _, domain = address.rpartition("@")
    if PLAIN_NAME.fullmatch(name) and len(address) <= PLAIN_LENGTH_MAX and _problem_of_email(f"a@{domain}") is None:
        return
    if problem := _problem_of_email(address):
        _refuse(f"{address[:SHOWN]!r} is not an e-mail address such as ada@example.org: {problem}"[:400], field)


@functools.lru_cache(maxsize=4_096)  # most users have their mailbox at few domains, and a look takes long
def _problem_of_email(address: str) -> str | None:
    try:
        email_parts(address)
    except ValueError as error:
        return str(error)
    return None


def email_parts(address: str) -> ValidatedEmail:
    """An address in its parts, as people and as mail servers write it. ``ValueError`` says what is wrong with it."""
    from email_validator import SPECIAL_USE_DOMAIN_NAMES, validate_email

    SPECIAL_USE_DOMAIN_NAMES.clear()  # mail within an organisation goes to .local and .test, and to bare names
    return validate_email(address, check_deliverability=False, globally_deliverable=False)


def _check_phone(number: str, field: str) -> None:
    """E.164. Of a length that its country has, no more: new ranges open faster than tables of them are updated."""
    import phonenumbers

    proposal = None
    try:
        parsed = phonenumbers.parse(re.sub(r"^\s*00", "+", number[:SHOWN]))
        if phonenumbers.is_possible_number(parsed):
            proposal = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    except phonenumbers.NumberParseException:
        pass
    if proposal != number:
        hint = f"did you mean {proposal}?" if proposal else "write + and the country code first, as in +33612345678"
        _refuse(f"{number[:SHOWN]!r} is not a telephone number in the form of E.164; {hint}", field)


def _check_push(push: PushContact, at: str) -> None:
    if push.provider not in PUSH_PROVIDERS:
        _refuse(unknown("push provider", push.provider, PUSH_PROVIDERS), f"{at}.provider")
    if not push.token.strip():
        _refuse("it is empty; give the token that the device got from its provider", f"{at}.token")
    if len(push.token.encode()) > TOKEN_BYTES_MAX:
        _refuse(f"it is over {TOKEN_BYTES_MAX} bytes, which no provider's token is", f"{at}.token")
    if push.provider == "webpush":
        try:
            _check_url(subscription.parse(push.token).endpoint, f"{at}.token")
        except ValueError as error:
            _refuse(str(error), f"{at}.token")


def _check_url(url: str, field: str) -> None:
    example = "it is to be like https://example.org/hook"
    if len(url) > URL_LENGTH_MAX:
        _refuse(f"it has {len(url)} characters; at most {URL_LENGTH_MAX} are allowed", field)
    if not url.isprintable() or " " in url or "\\" in url:  # which urlsplit partly drops, and others read otherwise
        _refuse(f"it has a space, a backslash or an invisible character; {example}, with such characters as %20", field)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        _refuse(f"it is not a URL ({error}); {example}", field)
    if parts.scheme not in ("http", "https"):
        _refuse(f"its scheme is {parts.scheme[:SHOWN]!r}, not http or https; {example}", field)
    if "@" in parts.netloc:
        _refuse("it has a user name or password before the host; leave them out, webhooks are signed instead", field)
    if not host:
        _refuse(f"it has no host; {example}", field)


def problem_of_secret(secret: str) -> str | None:
    """What is wrong with the secret of a webhook, to be said after its name; the text does not quote it."""
    try:
        length = len(binascii.a2b_base64(secret.removeprefix(SECRET_PREFIX), strict_mode=True))
    except ValueError:  # its text may quote the secret
        length = 0
    if secret.startswith(SECRET_PREFIX) and length in SECRET_BYTES:
        return None
    return "is not whsec_ and the base64 of 24 to 64 bytes; make one of 32 random bytes"


def _check_chat(urls: tuple[str, ...], at: str) -> None:
    """Their shape alone, and no word of them in an error: they hold secrets."""
    if len(urls) > CHAT_MAX:
        _refuse(f"it has {len(urls)} URLs; at most {CHAT_MAX} are allowed", at)
    for number, url in enumerate(urls):
        if len(url) > URL_LENGTH_MAX or not url.isprintable() or not CHAT_URL.fullmatch(url):
            text = f"it is no URL such as slack://A/B/C, of at most {URL_LENGTH_MAX} characters and without spaces"
            _refuse(text, f"{at}[{number}]")
        if url in urls[:number]:
            _refuse("it is there twice; list each URL once", f"{at}[{number}]")


def _check_other(contacts: dict[str, str], at: str) -> None:
    if len(contacts) > OTHER_MAX:
        _refuse(f"it has {len(contacts)} contacts; at most {OTHER_MAX} are allowed", at)
    for name, value in contacts.items():
        field = f"{at}.{name[:SHOWN]}"
        if not name or len(name.encode()) > OTHER_NAME_BYTES_MAX:
            _refuse(f"the name of a channel has 1 to {OTHER_NAME_BYTES_MAX} bytes", field)
        if not value.strip():
            _refuse("it is empty; give what the channel needs, or leave it out", field)
        if len(value.encode()) > OTHER_BYTES_MAX:
            _refuse(f"it is over {OTHER_BYTES_MAX} bytes", field)
