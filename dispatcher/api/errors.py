"""What the Python API raises.

DispatcherError           the dispatcher refused, or could not be reached: code, message, field, retry_after_ms
  RejectedError           this notification is not acceptable; nothing of it was taken
  NotFoundError           no such notification, user or item
  AlreadyFinalError       nothing was left to cancel
  OverloadedError         a queue stayed full for the whole timeout; nothing was taken
  UnavailableError        no answer in time, so the outcome is not known; also a TimeoutError
    NoAnswerError         and nothing was heard at all
  RequestError            every other refusal
ShutdownError             the service was shut down; also a RuntimeError
StartError                the embedded dispatcher cannot run (dispatcher.errors)
"""

from __future__ import annotations

from typing import Any, Self

from shards.wire.errors import Code, Error


class DispatcherError(Exception):
    """The dispatcher answered with an error, or not at all. ``code`` is to decide by, ``message`` is for people."""

    def __init__(self, error: Error) -> None:
        where = f" ({error.field})" if error.field else ""
        super().__init__(f"{error.code}{where}: {error.message}")
        self.error = error

    @property
    def code(self) -> Code:
        return self.error.code

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def field(self) -> str | None:
        """The key that is to blame."""
        return self.error.field

    @property
    def retry_after_ms(self) -> int | None:
        return self.error.retry_after_ms

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), (self.error,)  # so that it passes between processes


class RejectedError(DispatcherError):
    """The notification is not acceptable; nothing of it was taken."""


class NotFoundError(DispatcherError):
    """There is no such notification, user or item, or it is older than the retention."""


class AlreadyFinalError(DispatcherError):
    """Every delivery had ended; nothing was left to cancel."""


class OverloadedError(DispatcherError):
    """A queue stayed full for the whole timeout. Nothing was taken."""


class UnavailableError(DispatcherError, TimeoutError):
    """There was no answer in time: whether the request was carried out is not known."""


class NoAnswerError(UnavailableError):
    """Nobody answered, or nobody who is a dispatcher. The message says why that may be."""


class RequestError(DispatcherError):
    """Any other refusal."""


class ShutdownError(RuntimeError):
    """The service was shut down, and takes nothing more."""

    def __init__(self, message: str = "the service was shut down; make another one") -> None:
        super().__init__(message)


_BY_CODE: dict[Code, type[DispatcherError]] = {
    "not_found": NotFoundError,
    "already_final": AlreadyFinalError,
    "overloaded": OverloadedError,
    "unavailable": UnavailableError,
}


def of(error: Error) -> DispatcherError:
    """The exception for what was answered to a request."""
    return _BY_CODE.get(error.code, RequestError)(error)
