"""How a message to a browser is encrypted: RFC 8291, by the content coding of RFC 8188."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

RECORD_SIZE = 4_096  # all is one record, and what push services take at least (RFC 8030, 7.2)
HEADER_SIZE = 16 + 4 + 1 + 65  # salt, record size, length of the key, key
PLAIN_BYTES_MAX = RECORD_SIZE - HEADER_SIZE - 1 - 16  # 3993: the delimiter, and the tag of AES-GCM


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The uncompressed point, 65 bytes, of its public half."""
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def encrypt(plain: bytes, p256dh: bytes, auth: bytes, salt: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """For the browser whose subscription has ``p256dh`` and ``auth``.

    ``salt`` (16 bytes) and ``key`` are random, and new for each message. Raises ``ValueError`` where ``p256dh`` is no
    point of P-256.
    """
    receiver = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), p256dh)
    sender = public_bytes(key)
    shared = key.exchange(ec.ECDH(), receiver)
    secret = _derive(shared, auth, b"WebPush: info\0" + p256dh + sender, 32)
    content_key = _derive(secret, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(secret, salt, b"Content-Encoding: nonce\0", 12)
    header = salt + RECORD_SIZE.to_bytes(4, "big") + len(sender).to_bytes(1, "big") + sender
    return header + AESGCM(content_key).encrypt(nonce, plain + b"\x02", None)  # 2 delimits the last record


def _derive(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)
