"""A channel that tells its secret in every form it knows, and one that never comes back."""

from __future__ import annotations

import json
import threading
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import msgspec

from shards.channels.base import Context, Delivery, Recipient, SendError, Sent
from shards.hidden import Secret


class Leaky:
    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        token: Secret
        fails: bool = False

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context

    def supports_recipient(self, recipient: Recipient) -> bool:
        return "pager" in recipient.contacts.other

    async def send(self, delivery: Delivery) -> Sent:
        token = self._settings.token.reveal()
        forms = {
            "plain": token,
            "json": json.dumps({"token": token}),
            "url": f"https://example.org/?token={quote(token, safe='')}&again={quote_plus(token)}",
            "path": quote(token),
            **{f"basic {user}": b64encode(f"{user}:{token}:x".encode()).decode() for user in ("a", "ab", "abc")},
            "base64": urlsafe_b64encode(token.encode()).decode(),
            "lines": f"first\n{token}\nlast",
        }
        if self._context.trace is not None:
            for name, form in forms.items():
                self._context.trace(f"> {name}: {form}")
        said = " ".join(forms.values())
        if self._settings.fails:
            raise SendError("permanent", said)
        return Sent(said)


class Stuck:
    """``send`` is a plain function, so that a thread of its own is what hangs."""

    def __init__(self, settings: dict[str, object], context: Context) -> None:
        pass

    def supports_recipient(self, recipient: Recipient) -> bool:
        return True

    def send(self, delivery: Delivery) -> None:
        threading.Event().wait()
