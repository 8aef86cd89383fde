"""Notifications as callers give them, made ready to be sent more than once: each with a key, none of theirs changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from typing import Any

import msgspec

from dispatcher.api.arguments import milliseconds
from dispatcher.api.errors import RejectedError
from dispatcher.api.frames import TOO_LARGE
from shards.wire.encoding import pack
from shards.wire.errors import Code, Error
from shards.wire.notification import Notification
from shards.wire.requests import MESSAGE_BYTES_HARD_MAX

Given = Notification | Mapping[str, Any]
TIMES = frozenset({"send_at", "expires_at"})
UNSENDABLE = (TypeError, ValueError, OverflowError, RecursionError)  # what encoding a value raises
PLACE_SHOWN = 80  # characters
ENVELOPE_BYTES = 1_024  # what a message has beside its notification, at most


def given(notification: Given | None, fields: Mapping[str, Any]) -> Given:
    """What a call is about: a notification, or the fields of one. Raises ``TypeError`` for what is neither."""
    if notification is None:
        return fields
    if fields:
        raise TypeError(f"give a notification or its fields, not both: {', '.join(fields)}")
    return notification


def timed(one: Given) -> Given:
    """The same with times as they are sent.

    Raises ``TypeError`` for what is no notification, and ``RejectedError`` for a time without a zone.
    """
    if isinstance(one, Notification):
        return one
    if not isinstance(one, Mapping):
        raise TypeError(f"a notification is a Notification or a mapping, and no {type(one).__name__}")
    document = dict(one)
    for name in TIMES:
        if isinstance(document.get(name), datetime):
            try:
                document[name] = milliseconds(name, document[name])
            except ValueError as error:
                raise RejectedError(Error("bad_value", str(error), name)) from None
    return document


def keyed(one: Given, key: str) -> tuple[Given, bool]:
    """The same with a key, and whether that is this one. Raises what ``timed`` does."""
    if isinstance(one, Notification):
        if one.idempotency_key is not None or one.id is not None:
            return one, False
        notification: Notification = one.__copy__()  # type: ignore[attr-defined]  # as copy.copy calls it, three times as fast
        notification.idempotency_key = key
        return notification, True
    if type(one) is dict and one.get("idempotency_key") is not None and not one.keys() & TIMES:
        return one, False  # as it is, like most
    document = timed(one)
    assert isinstance(document, dict)
    if document.get("idempotency_key") is not None or document.get("id") is not None:
        return document, False
    document["idempotency_key"] = key
    return document, True


def encoded(one: Given) -> msgspec.Raw:
    """As MessagePack. Raises ``RejectedError`` for what cannot be written so."""
    try:
        packed = pack(one)
    except UNSENDABLE as error:
        place, problem = unsendable(one, error)
        code: Code = "too_deep" if isinstance(error, RecursionError) else "bad_value"
        raise RejectedError(Error(code, problem, place[:PLACE_SHOWN] or None)) from None
    if len(packed) > MESSAGE_BYTES_HARD_MAX - ENVELOPE_BYTES:
        raise RejectedError(TOO_LARGE)
    return msgspec.Raw(packed)


def unsendable(value: object, error: Exception) -> tuple[str, str]:
    """Where in it the value is that cannot be written, like ``payload.items[3]``, and what to do about it."""
    place = ""
    is_deep = isinstance(error, RecursionError)
    while not (is_deep and place) and (found := _culprit(value)) is not None:
        step, value = found
        place += step
    if is_deep:
        problem = "it is nested too deeply, or in itself; flatten it"
    elif isinstance(value, Mapping):
        problem = "it has a key that cannot be sent; make it a text"
    elif isinstance(error, OverflowError):
        problem = "an integer has more than 64 bits; send it as text"
    elif isinstance(error, UnicodeEncodeError):
        problem = "a text has a lone surrogate, which UTF-8 cannot say; remove it"
    elif isinstance(error, TypeError):
        problem = f"a value of type {type(value).__name__} cannot be sent; make it a text, number, list or mapping"
    else:
        problem = f"it cannot be sent: {error}"
    return place.removeprefix("."), problem


def _culprit(value: object) -> tuple[str, object] | None:
    """The first thing in it that cannot be written; None if it is itself what cannot."""
    children: Any = ()
    if isinstance(value, Mapping):
        children = ((f".{key}", child) for key, child in value.items())
    elif isinstance(value, Notification):
        children = ((f".{key}", getattr(value, key)) for key in value.__struct_fields__)
    elif isinstance(value, Sequence | Set) and not isinstance(value, str):
        children = ((f"[{at}]", child) for at, child in enumerate(value))
    for step, child in children:
        try:
            pack(child)
        except UNSENDABLE:
            return step, child
    return None
