"""A delivery as a mail: its headers, text with an HTML alternative, and attachments."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, NamedTuple

import msgspec

from shards.channels import mail_address, unsubscribe
from shards.channels.base import Delivery, SendError
from shards.channels.mail_address import Address
from shards.channels.mail_policy import CONTROL, SMTP, SMTPUTF8
from shards.channels.mail_settings import Settings

UNSAFE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # which no body may have as it is, RFC 5322, 2.3
SUBJECT_LENGTH = 78  # of one that is made of the text
ATTACHMENTS_MAX = 100


class Mail(NamedTuple):
    """What goes over the wire, dots not yet stuffed; ``utf8`` if it needs SMTPUTF8."""

    sender: str
    recipient: str
    content: bytes
    utf8: bool


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As ``payload.attachments`` lists them; the content in base64, or as bytes where the encoding has them."""

    filename: str
    content_type: str
    content: bytes

    def __post_init__(self) -> None:
        if not self.filename or CONTROL.search(self.filename) or len(self.filename) > 255:
            raise ValueError("its filename is empty, over 255 characters, or has a line break or control character")
        if not re.fullmatch(r"(?!multipart|message)[\w.+-]{1,60}/[\w.+-]{1,60}", self.content_type, re.ASCII):
            raise ValueError(f"its content_type is {self.content_type[:80]!r}; it is to be like application/pdf")


class Composer:
    """Makes the mails of one channel."""

    def __init__(self, settings: Settings) -> None:
        self._sender = mail_address.parse_mailbox(settings.sender)
        self._reply_to = mail_address.parse_mailbox(settings.reply_to) if settings.reply_to else None
        self.domain = settings.domain or self._sender.address.domain
        self._headers = settings.headers
        self._attachment_bytes = settings.attachment_bytes
        self._unsubscribe_url = settings.unsubscribe_url
        self._unsubscribe_secret = settings.unsubscribe_secret.reveal() if settings.unsubscribe_secret else ""
        self._boundary = _new_boundary()

    def link(self, delivery: Delivery) -> str:
        """By which the reader unsubscribes; empty where it is not for that. Raises ``SendError``."""
        if not (delivery.unsubscribable and self._unsubscribe_url):
            return ""
        user_id = delivery.recipient.user_id
        link = unsubscribe.url(self._unsubscribe_url, self._unsubscribe_secret, user_id, delivery.category, delivery.id)
        if len(link) > unsubscribe.URL_LENGTH_MAX:
            raise SendError("permanent", f"the unsubscribe link has {len(link)} characters; shorten unsubscribe_url")
        return link

    def compose(self, delivery: Delivery) -> Mail:
        """Raises ``SendError``, mostly ``permanent``, for what cannot become a mail."""
        try:
            recipient = mail_address.parse(delivery.recipient.contacts.email or "")
        except ValueError as error:
            bad = [delivery.recipient.contacts.email or ""]
            raise SendError("bad_address", f"{bad[0][:80]!r} is not an e-mail address: {error}", bad=bad) from None
        utf8 = recipient.utf8 or self._sender.address.utf8 or bool(self._reply_to and self._reply_to.address.utf8)
        try:
            content = self._content(delivery, recipient, utf8)
        except ValueError as error:  # of a header
            raise SendError("permanent", f"{error}; nothing is sent") from None
        return Mail(self._sender.address.text, recipient.text, content, utf8)

    def _content(self, delivery: Delivery, recipient: Address, utf8: bool) -> bytes:
        message = EmailMessage(policy=SMTPUTF8 if utf8 else SMTP)
        self._add_headers(message, delivery, recipient)
        self._add_bodies(message, delivery)
        for attachment in self._attachments(delivery.payload.get("attachments")):
            main, _, sub = attachment.content_type.partition("/")
            message.add_attachment(attachment.content, main, sub, filename=attachment.filename)
        if message.is_multipart():
            self._bound(message, delivery)
        return message.as_bytes()

    def _add_headers(self, message: EmailMessage, delivery: Delivery, recipient: Address) -> None:
        subject = delivery.title or _beginning(delivery.text)
        if CONTROL.search(subject):
            raise SendError(
                "permanent", f"the subject {subject[:80]!r} has a line break or control character; send one line"
            )
        message["From"] = self._sender.header
        if self._reply_to is not None:
            message["Reply-To"] = self._reply_to.header
        message["To"] = recipient.text
        message["Subject"] = subject
        message["Date"] = format_datetime(datetime.now(UTC))
        message["Message-ID"] = f"<{delivery.id}@{self.domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's answering machine answers it
        if link := self.link(delivery):
            message["List-Unsubscribe"] = f"<{link}>"
            message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        for name, value in self._headers.items():
            message[name] = value

    def _add_bodies(self, message: EmailMessage, delivery: Delivery) -> None:
        if delivery.html is None:
            message.set_content(delivery.text, cte=_encoding(delivery.text))
        elif not delivery.text:
            message.set_content(delivery.html, subtype="html", cte=_encoding(delivery.html))
        else:
            message.set_content(delivery.text, cte=_encoding(delivery.text))
            message.add_alternative(delivery.html, subtype="html", cte=_encoding(delivery.html))

    def _bound(self, message: EmailMessage, delivery: Delivery) -> None:
        """Set boundaries that no part contains: looking for one in all parts, as ``email`` does, takes long."""
        while self._boundary in delivery.text or self._boundary in (delivery.html or ""):
            self._boundary = _new_boundary()
        levels = [part for part in message.walk() if part.is_multipart()]
        for level, part in enumerate(levels):
            part.set_boundary(f"{self._boundary}{level}")

    def _attachments(self, value: Any) -> list[Attachment]:
        if value is None:
            return []
        try:
            found = msgspec.convert(value, list[Attachment])
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$")
            raise SendError("permanent", f"payload.attachments{where.rstrip('`')}: {what}"[:300]) from None
        total = sum(len(attachment.content) for attachment in found)
        if total > self._attachment_bytes or len(found) > ATTACHMENTS_MAX:
            raise SendError(
                "permanent",
                f"payload.attachments: {len(found)} with {total} bytes; at most {ATTACHMENTS_MAX} with "
                f"{self._attachment_bytes} bytes in all are allowed, see attachment_bytes of the channel",
            )
        return found


def _new_boundary() -> str:
    """None of the parts that are encoded can contain it: neither base64 nor quoted-printable has ``=_``."""
    return f"=_{secrets.token_hex(16)}"


def _beginning(text: str) -> str:
    """As a subject; cut anywhere, as many languages put no spaces between words."""
    line = " ".join(CONTROL.sub(" ", text[: 10 * SUBJECT_LENGTH]).split())
    return line if len(line) <= SUBJECT_LENGTH else f"{line[: SUBJECT_LENGTH - 3]}..."


def _encoding(text: str) -> str | None:
    """None is the shortest that will do."""
    return "quoted-printable" if UNSAFE.search(text) else None
