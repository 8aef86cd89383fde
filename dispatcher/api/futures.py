"""Futures of what is on its way, which nobody can call back."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

_here = threading.local()


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


def waits_for_itself() -> None:
    """This thread settles futures, and the callbacks of those run in it: it must never wait for one."""
    _here.settles = True


def awaited(future: Future[Any]) -> Any:
    """The future's result. Raises ``RuntimeError`` where it would be waited for for ever."""
    if not future.done() and getattr(_here, "settles", False):
        raise RuntimeError("a callback of a future must not wait for another one; make this call in a thread of yours")
    return future.result()
