"""Notifications as signed HTTP requests, as Standard Webhooks has them (www.standardwebhooks.com).

The body says what happened, and to whom; with a part ``body`` of a template it is that part, as it is. The receiver
knows a repetition by ``webhook-id``, and who has sent it by ``webhook-signature``; see docs/webhooks.md.
"""

from __future__ import annotations

import hmac
import re
import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import orjson

from shards.channels.base import Context, Delivery, Recipient, SendError
from shards.channels.certificates import check_ca_file
from shards.channels.devices import encoded
from shards.channels.guard import PORTS, Guard
from shards.contacts import SECRET_PREFIX, WebhookContact, problem_of_secret
from shards.hidden import Secret

if TYPE_CHECKING:
    from shards.channels.http import Answer

SERVICE = "webhook"
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\x00-\x08\x0a-\x1f\x7f]*")  # RFC 9110, 5.1 and 5.5
OURS = re.compile(r"connection|content-length|content-type|host|transfer-encoding|user-agent|webhook-.*", re.IGNORECASE)
BYTES = range(256, 16_777_217)


class WebhookChannel:
    """POST to the URL of the recipient's contact."""

    name = "webhook"
    endpoints_of_users = True

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """``secret`` and ``previous_secret`` sign for users who have none of their own."""

        secret: Secret | None = None
        previous_secret: Secret | None = None
        headers: dict[str, Secret] = {}
        user_agent: str = "notification-dispatcher"
        allow_private: tuple[str, ...] = ()
        ports: tuple[int, ...] = PORTS
        ca_file: str = ""
        body_bytes: int = 20_000
        answer_bytes: int = 20_000

        def __post_init__(self) -> None:
            for key, secret in (("secret", self.secret), ("previous_secret", self.previous_secret)):
                if secret and (problem := problem_of_secret(secret.reveal())):
                    raise ValueError(f"{key} {problem}")
            if self.previous_secret and not self.secret:
                raise ValueError("previous_secret is there without secret; name the new one there, or the only one")
            for name, value in (*self.headers.items(), ("user_agent", Secret(self.user_agent))):
                if not HEADER.fullmatch(f"{name}: {value.reveal()}"):
                    raise ValueError(f"headers: {name!r}, or what it is, has characters that no header may have")
                if OURS.fullmatch(name):
                    raise ValueError(f"headers: {name!r} is set by the channel itself; leave it out")
            try:
                Guard(self.allow_private)
            except ValueError as error:
                raise ValueError(f'allow_private: {error}; it is to be a list such as ["10.0.0.0/8"]') from None
            if wrong := [port for port in self.ports if not 0 < port < 65_536]:
                raise ValueError(f"ports: {wrong[0]} is no port; they are between 1 and 65535")
            for key, size in (("body_bytes", self.body_bytes), ("answer_bytes", self.answer_bytes)):
                if size not in BYTES:
                    raise ValueError(f"{key} is {size}; it must be between {BYTES[0]} and {BYTES[-1]}")
            check_ca_file(self.ca_file)

    def __init__(self, settings: Settings, context: Context) -> None:
        from shards.channels.http import HttpClient, refused

        self._settings = settings
        self._answers = context.answers
        self._refused = refused
        self._http = HttpClient(
            SERVICE,
            context,
            guard=Guard(settings.allow_private, settings.ports),
            ca_file=settings.ca_file,
            answer_bytes=settings.answer_bytes,
            user_agent=settings.user_agent,
        )
        self._headers = {name: value.reveal() for name, value in settings.headers.items()}
        self._headers["Content-Type"] = "application/json"
        self._secrets = [secret.reveal() for secret in (settings.secret, settings.previous_secret) if secret]

    def supports_recipient(self, recipient: Recipient) -> bool:
        return recipient.contacts.webhook is not None

    async def send(self, delivery: Delivery) -> None:
        contact = delivery.recipient.contacts.webhook
        assert contact is not None  # see supports_recipient
        body = body_of(delivery, self._settings.body_bytes)
        secrets = _secrets_of(contact) or self._secrets
        headers = self._headers | signed(delivery.id, int(time.time()), body, secrets)
        answer = await self._http.request("POST", contact.url, body, headers)
        if not answer.ok:
            raise self._error(answer, contact.url)

    async def close(self) -> None:
        await self._http.close()

    def _error(self, answer: Answer, url: str) -> SendError:
        moved = (
            f"it points to {answer.headers['Location']}, and is not followed" if "Location" in answer.headers else ""
        )
        error = self._refused(self._answers, SERVICE, answer, words=moved)
        if error.error_class == "bad_address":
            error.bad = (url,)
        return error


def body_of(delivery: Delivery, bytes_max: int) -> bytes:
    """The JSON document that is sent. Raises ``SendError``."""
    if "body" in delivery.parts:
        body = delivery.parts["body"].encode()
        try:
            orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise SendError("permanent", f"the template's part webhook.body is not JSON: {error}") from None
    else:
        body = encoded(
            {
                "type": f"notification.{delivery.category}",
                "timestamp": datetime.fromtimestamp(delivery.created_ms / 1000, UTC),
                "data": {
                    "id": delivery.notification_id,
                    "user_id": delivery.recipient.user_id,
                    "category": delivery.category,
                    "type": delivery.type,
                    "priority": delivery.priority,
                    "title": delivery.title,
                    "body": delivery.text,
                    "payload": delivery.payload,
                    "metadata": delivery.metadata,
                },
            }
        )
    if len(body) > bytes_max:
        raise SendError("permanent", f"the body has {len(body)} bytes; at most {bytes_max} are allowed by body_bytes")
    return body


def signed(id: str, at_s: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The headers of Standard Webhooks; without secrets there is no signature."""
    headers = {"webhook-id": id, "webhook-timestamp": str(at_s)}
    if secrets:
        content = b"%b.%d.%b" % (id.encode(), at_s, body)
        headers["webhook-signature"] = " ".join(_signature(secret, content) for secret in secrets)
    return headers


def _signature(secret: str, content: bytes) -> str:
    key = a2b_base64(secret.removeprefix(SECRET_PREFIX))
    return f"v1,{b2a_base64(hmac.digest(key, content, 'sha256'), newline=False).decode()}"


def _secrets_of(contact: WebhookContact) -> list[str]:
    return [secret for secret in (contact.secret, contact.previous_secret) if secret]
