"""A push service of browsers (RFC 8030), and a browser that reads what it is sent (RFC 8291, 8188, 8292)."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shards import base64url
from tests.support.push import tokens
from tests.support.push.server import Answer, Reply, Request, Server

SUBJECT = "mailto:ops@example.org"
AUTH = b"sixteen bytes..."


class Browser:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._public = self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )

    def subscription(self, endpoint: str) -> str:
        keys = {"p256dh": base64url.encode(self._public), "auth": base64url.encode(AUTH)}
        return json.dumps({"endpoint": endpoint, "expirationTime": None, "keys": keys})

    def read(self, body: bytes) -> bytes:
        salt, record_size, length = body[:16], int.from_bytes(body[16:20], "big"), body[20]
        sender, cipher = body[21 : 21 + length], body[21 + length :]
        assert len(cipher) <= record_size
        shared = self._key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender))

        def derived(secret: bytes, salt: bytes, info: bytes, size: int) -> bytes:
            return HKDF(algorithm=hashes.SHA256(), length=size, salt=salt, info=info).derive(secret)

        secret = derived(shared, AUTH, b"WebPush: info\0" + self._public + sender, 32)
        key = derived(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
        nonce = derived(secret, salt, b"Content-Encoding: nonce\0", 12)
        plain, delimiter, padding = AESGCM(key).decrypt(nonce, cipher, None).rpartition(b"\x02")
        assert delimiter
        assert not padding.strip(b"\0")
        return plain


class WebPushServer(Server):
    """Each path is a subscription, of the same browser; ``gone`` are those that it has ended."""

    encrypted = True

    def __init__(self, vapid_public: str) -> None:
        super().__init__()
        self.browser = Browser()
        self.gone: set[str] = set()
        self._vapid_public = vapid_public

    def subscription(self, name: str = "one") -> str:
        return self.browser.subscription(f"{self.url}/push/{name}")

    def messages(self) -> list[Any]:
        """As the service worker gets them."""
        return [json.loads(self.browser.read(request.body)) for request in self.accepted]

    def respond(self, request: Request) -> Reply:
        headers = request.headers
        if problem := self._problem(headers.get("authorization", "")):
            return Answer(403, problem.encode())
        assert headers["content-encoding"] == "aes128gcm"
        assert 0 <= int(headers["ttl"]) <= 2_419_200
        assert headers["urgency"] in {"very-low", "low", "normal", "high"}
        assert re.fullmatch(r"[\w-]{1,32}", headers.get("topic", "none"), re.ASCII)
        if len(request.body) > 4_096:
            return Answer(413, b"payload too large")
        if request.path.rpartition("/")[2] in self.gone:
            return Answer(410, b"push subscription has unsubscribed or expired.")
        return Answer(201, b"", {"Location": f"{self.url}/message/{len(self.accepted)}"})

    def _problem(self, authorization: str) -> str:
        found = re.fullmatch(r"vapid t=(\S+), k=(\S+)", authorization)
        if found is None or found[2] != self._vapid_public:
            return "the key in the authorization header does not correspond to the sender ID used to subscribe"
        point = base64url.decode(found[2], 65)
        try:
            _, claims = tokens.verified(found[1], ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
        except ValueError:
            return "not signed by that key"
        good = claims["aud"] == self.url and claims["sub"] == SUBJECT and 0 < claims["exp"] - time.time() <= 86_400
        return "" if good else "wrong claims"
