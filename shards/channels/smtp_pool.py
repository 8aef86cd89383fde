"""The open connections to a mail server: at most so many, used again and again, closed when idle or worn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from shards.channels.base import SendError
from shards.channels.smtp_conversation import Conversation

Connect = Callable[[float], Awaitable[Conversation]]  # until a deadline on the loop's clock


class Pool:
    """Those idle and those in use are ``connections`` at the most. It belongs to the loop in which it is made."""

    def __init__(self, connect: Connect, connections: int, idle_s: float, mails_max: int) -> None:
        self._connect = connect
        self._idle_s = idle_s
        self._mails_max = mails_max
        self._room = asyncio.Semaphore(connections)
        self._idle: dict[Conversation, asyncio.TimerHandle] = {}  # the last used is last
        self._closed = False

    @asynccontextmanager
    async def connection(self, deadline: float, *, fresh: bool = False) -> AsyncIterator[Conversation]:
        """One that is open, for one mail; ``fresh`` makes a new one. Raises ``SendError``."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._room.acquire()
        except TimeoutError:
            raise SendError(
                "transient",
                "no connection to the mail server was free in time; raise connections, or lower concurrency",
            ) from None
        try:
            kept = self._take()
            if fresh and kept is not None:
                kept.quit()
                kept = None
            conversation = kept or await self._connect(deadline)
            try:
                yield conversation
            finally:
                self._put(conversation)
        finally:
            self._room.release()

    async def close(self) -> None:
        """End what is idle; what is in use ends after its mail."""
        self._closed = True
        while (conversation := self._take()) is not None:
            conversation.quit()
        await asyncio.sleep(0)  # which closes the sockets

    def _take(self) -> Conversation | None:
        while self._idle:
            conversation, timer = self._idle.popitem()
            timer.cancel()
            if conversation.is_open:
                return conversation
        return None

    def _put(self, conversation: Conversation) -> None:
        if self._closed or conversation.mails >= self._mails_max or not conversation.is_open:
            conversation.quit()
            return
        later = asyncio.get_running_loop().call_later
        self._idle[conversation] = later(self._idle_s, self._retire, conversation)

    def _retire(self, conversation: Conversation) -> None:
        del self._idle[conversation]
        conversation.quit()
