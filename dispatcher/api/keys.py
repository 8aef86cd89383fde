"""Notifications as callers give them, made ready to be sent more than once: each with a key, none of theirs changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from dispatcher.api.errors import RejectedError
from shards.wire import Error, Notification, pack

Given = Notification | Mapping[str, Any]
TIMES = frozenset({"send_at", "expires_at"})
UNSENDABLE = (TypeError, ValueError, OverflowError, RecursionError)  # what encoding a value raises


def given(notification: Given | None, fields: Mapping[str, Any]) -> Given:
    """What a call is about: a notification, or the fields of one."""
    if notification is None:
        return fields
    if fields:
        raise TypeError(f"give a notification or its fields, not both: {', '.join(fields)}")
    return notification


def keyed(one: Given, key: str) -> tuple[Given, bool]:
    """The same with a key, and whether that is this one.

    Raises ``TypeError`` for what is no notification, and ``ValueError`` for a time without a zone.
    """
    if isinstance(one, Notification):
        if one.idempotency_key is not None or one.id is not None:
            return one, False
        notification: Notification = one.__copy__()  # type: ignore[attr-defined]  # as copy.copy calls it, three times as fast
        notification.idempotency_key = key
        return notification, True
    if not isinstance(one, Mapping):
        raise TypeError(f"a notification is a Notification or a mapping, and no {type(one).__name__}")
    if one.get("idempotency_key") is not None and type(one) is dict and not one.keys() & TIMES:
        return one, False
    document = dict(one)
    for name in TIMES:
        if name in document and isinstance(document[name], datetime):
            document[name] = _milliseconds(name, document[name])
    if document.get("idempotency_key") is not None or document.get("id") is not None:
        return document, False
    document["idempotency_key"] = key
    return document, True


def _milliseconds(name: str, time: datetime) -> int:
    if time.tzinfo is None:
        raise ValueError(f"{name} has no time zone; datetime.now(UTC) is one that has")
    return round(time.timestamp() * 1000)


def encoded(one: Given) -> msgspec.Raw:
    """As MessagePack. Raises ``RejectedError`` for what cannot be written so."""
    try:
        return msgspec.Raw(pack(one))
    except UNSENDABLE as error:
        raise unsendable(error) from None


def unsendable(error: Exception) -> RejectedError:
    return RejectedError(Error("bad_value", f"it cannot be sent: {error}"))
