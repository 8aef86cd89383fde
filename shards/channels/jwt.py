"""Signed tokens (RFC 7515, 7519), by which services know who asks, and how they are kept until they expire."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import orjson

from shards import base64url
from shards.channels.base import SendError

try:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
except ImportError as missing:
    raise ImportError('push needs cryptography; run: pip install "notification-dispatcher[push]"') from missing

EllipticKey = ec.EllipticCurvePrivateKey
RsaKey = rsa.RSAPrivateKey


def elliptic_key(pem: str) -> EllipticKey:
    """Of the curve P-256. ``ValueError`` never has the key in it."""
    key = _load(pem)
    if not isinstance(key, EllipticKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("it is a private key, but not one of the curve P-256")
    return key


def new_elliptic_key() -> str:
    """One of the curve P-256, in PEM."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def rsa_key(pem: str) -> RsaKey:
    """``ValueError`` never has the key in it."""
    key = _load(pem)
    if not isinstance(key, RsaKey):
        raise ValueError("it has a private key, but not one of RSA")
    return key


@functools.lru_cache(8)  # of RSA it is examined for 45 ms, for the settings as for the channel
def _load(pem: str) -> object:
    try:
        return serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError("it is no private key in PEM, which begins with -----BEGIN PRIVATE KEY-----") from None


def sign(key: EllipticKey | RsaKey, claims: Mapping[str, Any], **header: str) -> str:
    """A token by ES256 or RS256, as the key is."""
    algorithm = "ES256" if isinstance(key, EllipticKey) else "RS256"
    head = {"alg": algorithm, "typ": "JWT", **header}
    text = f"{base64url.encode(orjson.dumps(head))}.{base64url.encode(orjson.dumps(claims))}"
    if isinstance(key, EllipticKey):
        r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    else:
        signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{base64url.encode(signature)}"


class Issued(NamedTuple):
    """``until`` is when another one is to be used, in seconds since 1970."""

    token: str
    until: float


class Renewed:
    """A token that is issued when it is needed, once for all who wait for it."""

    def __init__(self, issue: Callable[[], Awaitable[Issued]], clock: Callable[[], float] = time.time) -> None:
        self._issue = issue
        self._clock = clock
        self._lock = asyncio.Lock()
        self._issued = Issued("", 0.0)

    async def get(self, refused: str = "") -> str:
        """A token that is not ``refused``, which is what the service did with it before its time.

        Raises ``SendError``, also where there is none in time: nothing was sent then, which a cancellation would hide.
        """
        try:
            async with self._lock:
                if self._issued.token == refused or self._clock() >= self._issued.until:
                    self._issued = await self._issue()
                return self._issued.token
        except asyncio.CancelledError:
            raise SendError("transient", "no access token in time, so nothing was sent") from None
