"""Futures of what is on its way, which nobody can call back."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any


def running() -> Future[Any]:
    """One that cannot be cancelled, as its end is told by another thread."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def settle(future: Future[Any], result: Any, error: Exception | None) -> None:
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
