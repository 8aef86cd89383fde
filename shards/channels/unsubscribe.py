"""Unsubscribing with one click (RFC 8058): the link in a mail's headers, and the token by which it is known as ours."""

from __future__ import annotations

import base64
import hmac
import re
from urllib.parse import quote, urlsplit

PLACEHOLDERS = ("user_id", "category", "delivery_id", "token")
URL_LENGTH_MAX = 900  # a header's line may have 998 characters, and a long address is never folded


def token(secret: str, user_id: str, category: str) -> str:
    """HMAC-SHA256 of both, with a zero byte between them, in URL-safe base64 without padding."""
    digest = hmac.digest(secret.encode(), f"{user_id}\0{category}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def url(template: str, secret: str, user_id: str, category: str, delivery_id: str) -> str:
    """The link of one mail; each value is percent-encoded."""
    values = {"user_id": user_id, "category": category, "delivery_id": delivery_id}
    if secret:
        values["token"] = token(secret, user_id, category)
    return re.sub(r"\{(\w+)\}", lambda match: quote(values[match[1]], safe=""), template)


def problem_of(template: str, has_secret: bool) -> str:
    """What is wrong with the settings ``unsubscribe_url`` and ``unsubscribe_secret``; empty if nothing is."""
    if not template:
        return "unsubscribe_secret is given while there is no unsubscribe_url; give both" if has_secret else ""
    wrong = f"unsubscribe_url is {template!r}"
    shown = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    named = re.findall(r"\{(.*?)\}", template)
    plain = re.sub(r"\{\w+\}", "", template)
    if unknown := set(named) - set(PLACEHOLDERS):
        return f"{wrong}: there is no placeholder {{{min(unknown)}}}; there are {shown}"
    if not re.fullmatch(r"[!-~]+", plain) or set(plain) & set('<>"{}') or "=?" in plain:
        return f"{wrong}: write spaces and other special characters as %20 and the like"
    try:
        parts = urlsplit(plain)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "https" or not parts.hostname:
        return f"{wrong}: it must begin with https:// and a host, which RFC 8058 asks for"
    if len(template) > URL_LENGTH_MAX:
        return f"unsubscribe_url has {len(template)} characters; at most {URL_LENGTH_MAX} fit in a header"
    if has_secret != ("token" in named):
        missing = "{token}" if has_secret else "an unsubscribe_secret for its {token}"
        return f"{wrong}: it lacks {missing}, without which anybody could unsubscribe anybody"
    return ""
