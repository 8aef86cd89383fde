"""Browsers: Web Push (RFC 8030), encrypted for them (RFC 8291), and signed for their push services (RFC 8292)."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from shards import base64url, subscription
from shards.channels import aes128gcm, devices, http, jwt
from shards.channels.base import Context, Delivery, SendError
from shards.channels.certificates import check_ca_file
from shards.channels.guard import PORTS, Guard
from shards.hidden import Secret

SERVICES = (  # of Chrome and what is built on it, Firefox, Edge and Safari
    "fcm.googleapis.com",
    "jmt17.google.com",
    "push.services.mozilla.com",
    "notify.windows.com",
    "push.apple.com",
)
TOKEN_LIFE_S = 43_200  # a push service takes one for a day at most
TOKEN_MARGIN_S = 3_600  # and may have another time
ORIGINS_MAX = 1_000  # whose tokens are kept; some services have many


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    private_key: Secret  # VAPID
    subject: str
    services: tuple[str, ...] = SERVICES
    allow_private: tuple[str, ...] = ()
    ports: tuple[int, ...] = PORTS
    ca_file: str = ""

    def __post_init__(self) -> None:
        try:
            vapid_key(self.private_key.reveal())
        except ValueError as error:
            raise ValueError(f"private_key: {error}; make one by: dispatcher keys vapid PATH") from None
        if not self.subject.startswith(("mailto:", "https://")):
            raise ValueError(
                f"subject is {self.subject!r}; push services ask for a way to reach you, such as mailto:ops@example.org"
            )
        check_ca_file(self.ca_file)
        try:
            Guard(self.allow_private, self.ports)
        except ValueError as error:
            raise ValueError(f"allow_private: {error}") from None


def vapid_key(text: str) -> jwt.EllipticKey:
    """From PEM, or as the JavaScript library web-push writes it: 32 bytes in base64url. Raises ``ValueError``."""
    if text.lstrip().startswith("-----BEGIN"):
        return jwt.elliptic_key(text)
    try:
        return ec.derive_private_key(int.from_bytes(base64url.decode(text, 32), "big"), ec.SECP256R1())
    except ValueError:
        raise ValueError("it is neither PEM nor the base64url of the 32 bytes of a key") from None


def public_key(key: jwt.EllipticKey) -> str:
    """As browsers subscribe with it."""
    return base64url.encode(aes128gcm.public_bytes(key))


class WebPush:
    """A device's token is its subscription; see ``shards.subscription``."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._answers = context.answers
        self._key = vapid_key(settings.private_key.reveal())
        self._subject = settings.subject
        self._services = settings.services
        self._public = public_key(self._key)
        self._tokens: dict[str, jwt.Issued] = {}  # by origin
        guard = Guard(settings.allow_private, settings.ports)
        self._client = http.HttpClient("webpush", context, guard=guard, ca_file=settings.ca_file)

    async def send(self, token: str, delivery: Delivery) -> str:
        plain = devices.body("Web Push", _content(delivery), aes128gcm.PLAIN_BYTES_MAX)
        try:
            to = subscription.parse(token)
            self._check_service(to.endpoint)
            key = ec.generate_private_key(ec.SECP256R1())
            body = aes128gcm.encrypt(plain, to.p256dh, to.auth, os.urandom(16), key)
        except ValueError as error:
            raise SendError("bad_address", f"the subscription cannot be used: {error}") from None
        headers = {
            "Authorization": f"vapid t={self._token(to.endpoint)}, k={self._public}",
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(devices.ttl_s(delivery)),
            "Urgency": devices.URGENCIES[delivery.priority],
        }
        if collapse := devices.collapse_id(delivery):
            headers["Topic"] = collapse
        answer = await self._client.request("POST", to.endpoint, body, headers)
        if not answer.ok:
            raise http.refused(self._answers, "webpush", answer)
        return http.quoted(answer.headers.get("Location", ""))

    async def close(self) -> None:
        await self._client.close()

    def _check_service(self, endpoint: str) -> None:
        """Users say where it is, and one that fails on purpose would trip the breaker of the channel."""
        host = str(urlsplit(endpoint).hostname)
        if not is_among(self._services, host):
            raise SendError("permanent", f"the push service {host} is not among `services`; add it if you trust it")

    def _token(self, endpoint: str) -> str:
        """For the push service of an endpoint: each trusts only what is said to itself."""
        parts = urlsplit(endpoint)
        origin, now = f"{parts.scheme}://{parts.netloc}", time.time()
        issued = self._tokens.get(origin)
        if issued is None or now >= issued.until:
            if len(self._tokens) >= ORIGINS_MAX:
                self._tokens.clear()
            claims = {"aud": origin, "exp": int(now) + TOKEN_LIFE_S, "sub": self._subject}
            issued = jwt.Issued(jwt.sign(self._key, claims), now + TOKEN_LIFE_S - TOKEN_MARGIN_S)
            self._tokens[origin] = issued
        return issued.token


def is_among(services: Sequence[str], host: str) -> bool:
    return any(service in (host, "*") or host.endswith(f".{service}") for service in services)


def _content(delivery: Delivery) -> dict[str, object]:
    """What the service worker is given, as JSON."""
    return {
        "id": delivery.id,
        "title": delivery.title,
        "body": delivery.text,
        "category": delivery.category,
        "type": delivery.type,
        "priority": delivery.priority,
        "tag": devices.collapse_id(delivery),
        "payload": delivery.payload,
    }
