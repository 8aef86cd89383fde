"""Waiting in an event loop: for a condition, never for a time. No task is made for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

POLL_S = 0.005


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Returns when it holds. Raises ``TimeoutError``."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        while not condition():
            pause: asyncio.Future[None] = loop.create_future()
            loop.call_later(POLL_S, _go_on, pause)
            await pause


async def others() -> None:
    """Returns when all that was ready before has had its turn."""
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] = loop.create_future()
    loop.call_soon(_go_on, turn)
    await turn


def _go_on(pause: asyncio.Future[None]) -> None:
    if not pause.done():  # nobody waits where the task was cancelled
        pause.set_result(None)
