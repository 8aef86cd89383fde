"""Signed tokens, read as the services read them: by the public key."""

from __future__ import annotations

import json
import time
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from shards import base64url


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """As Google and Apple hand them out."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _decoded(text: str) -> bytes:
    return base64url.decode(text, len(text) * 3 // 4)


def verified(token: str, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims. Raises ``ValueError`` for what the key has not signed."""
    head, claims, signature = token.split(".")
    text, raw = f"{head}.{claims}".encode(), _decoded(signature)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            encoded = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
            key.verify(encoded, text, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(raw, text, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise ValueError("not signed by this key") from None
    header = json.loads(_decoded(head))
    assert header["alg"] == ("ES256" if isinstance(key, ec.EllipticCurvePublicKey) else "RS256")
    return header, json.loads(_decoded(claims))


def is_now(seconds: float, margin_s: float = 300) -> bool:
    return abs(seconds - time.time()) < margin_s
