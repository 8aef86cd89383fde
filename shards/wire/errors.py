"""The error codes, and the error that is answered everywhere in the same shape."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Code = Literal[
    "bad_encoding",
    "bad_request",
    "unknown_op",
    "unknown_key",
    "bad_value",
    "too_large",
    "too_many",
    "too_deep",
    "unknown_category",
    "unknown_channel",
    "unknown_template",
    "unknown_topic",
    "not_found",
    "already_final",
    "overloaded",
    "unavailable",
    "unsupported",
    "internal",
]


class Error(Struct, omit_defaults=True, frozen=True):
    """What was wrong, where, and what to do about it; the same shape everywhere an error is answered."""

    code: Code
    message: str
    field: str | None = None
    retry_after_ms: int | None = None


class RequestError(Exception):
    """Carries an ``Error`` from the place that found it to the place that answers."""

    def __init__(self, code: Code, message: str, field: str | None = None, retry_after_ms: int | None = None):
        super().__init__(message)
        self.error = Error(code, message, field, retry_after_ms)
