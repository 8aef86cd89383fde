"""Keys made of what a notification says, for producers that give none: ``"{user_id}:{category}:{title}"``."""

from __future__ import annotations

import functools
import re
import string
from typing import Any

import msgspec

from shards.nearest import unknown
from shards.wire.notification import Notification

TEMPLATE_MAX = 1_000  # characters
NAMES = ("user_id", "category", "type", "title", "body", "template", "payload.NAME")
ALWAYS_THERE = ("user_id", "category", "type")
_PAYLOAD = re.compile(r"payload\.[\w-]+")
_canonical = msgspec.json.Encoder(order="deterministic")


@functools.lru_cache(maxsize=1_024)
def names_of(template: str) -> tuple[str, ...]:
    """The names in a template, each once; ``ValueError`` says what is wrong with it."""
    if len(template) > TEMPLATE_MAX:
        raise ValueError(f"it has {len(template)} characters; at most {TEMPLATE_MAX}")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{template!r}: {error}; a name is like {{title}}, a brace itself like {{{{") from None
    names = dict.fromkeys(name for _, name, _, _ in parts if name is not None)
    for name in names:
        if name not in NAMES[:-1] and not _PAYLOAD.fullmatch(name):
            raise ValueError(unknown("name", name, NAMES) if name else "{} has no name in it; write one, like {title}")
    if any(form or conversion for _, _, form, conversion in parts):
        raise ValueError(f"{template!r}: a name has nothing behind it, no ':' and no '!'")
    if not names:
        raise ValueError(f"{template!r} names nothing, so all notifications would be one; known: {', '.join(NAMES)}")
    return tuple(names)


def content_key(template: str, user_id: str, notification: Notification) -> str | None:
    """The key of a notification by a template; None if it has none of the fields that may be missing.

    Equal keys mean equal values: each is there with its length, so that none runs into the next. No producer's key is
    like it, as those have no NUL.
    """
    names = names_of(template)
    values = {name: _value(name, user_id, notification) for name in names}
    optional = [name for name in names if name not in ALWAYS_THERE]
    if optional and all(values[name] is None for name in optional):
        return None
    texts = ["" if (value := values[name]) is None else value for name in names]
    return "\0".join(["", template, *(f"{len(text)}:{text}" for text in texts)])


def _value(name: str, user_id: str, notification: Notification) -> str | None:
    if name == "user_id":
        return user_id
    value: Any
    if name.startswith("payload."):
        value = (notification.payload or {}).get(name.removeprefix("payload."))
    else:
        value = getattr(notification, name)
    return value if value is None or isinstance(value, str) else _canonical.encode(value).decode()
