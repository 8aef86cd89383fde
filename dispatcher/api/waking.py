"""Waiting in an event loop for futures of another thread: those that are done together wake the loop once."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from concurrent.futures import Future
from typing import Any


class Bell:
    """Of one loop. ``asyncio.wrap_future`` would ring one for each future, which costs more than its work."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._done: deque[asyncio.Future[None]] = deque()
        self._is_ringing = False

    def ring(self, waiter: asyncio.Future[None]) -> None:
        """From any thread."""
        self._done.append(waiter)
        loop = self._loop()
        if self._is_ringing or loop is None:
            return
        self._is_ringing = True
        try:
            loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            pass  # the loop is closed, and nobody waits in it

    def _wake(self) -> None:
        self._is_ringing = False
        while self._done:
            waiter = self._done.popleft()
            if not waiter.done():
                waiter.set_result(None)


_bells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Bell] = weakref.WeakKeyDictionary()


async def done(future: Future[Any]) -> None:
    """Returns when the future has its result, or its exception."""
    if future.done():
        return
    loop = asyncio.get_running_loop()
    bell = _bells.get(loop)
    if bell is None:
        bell = _bells.setdefault(loop, Bell(loop))
    waiter: asyncio.Future[None] = loop.create_future()
    future.add_done_callback(lambda _: bell.ring(waiter))
    await waiter
