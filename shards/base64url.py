"""base64url (RFC 4648, 5): written without padding, read with or without."""

from __future__ import annotations

import base64


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str, length: int) -> bytes:
    """``ValueError`` for what is not the text of that many bytes."""
    plain = text.strip().rstrip("=")
    try:
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    if len(data) != length:
        raise ValueError(f"not the base64url of {length} bytes")
    return data
