"""The open connections to a mail server: at most so many, used again and again, closed when idle or worn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from shards.channels.base import SendError
from shards.channels.smtp_conversation import Conversation

BUSY = "no connection to the mail server was free in time; raise connections, or lower concurrency"
FEWER_S = 30.0  # how long there are fewer connections after one could not be opened beside others
SPARED = ("transient", "throttled")

Connect = Callable[[float], Awaitable[Conversation]]  # until a deadline on the loop's clock


class Pool:
    """Those idle and those in use are ``connections`` at the most. It belongs to the loop in which it is made."""

    def __init__(self, connect: Connect, connections: int, idle_s: float, mails_max: int) -> None:
        self._connect = connect
        self._idle_s = idle_s
        self._mails_max = mails_max
        self._room = asyncio.Semaphore(connections)
        self._used = 0  # of the room
        self._idle: dict[Conversation, asyncio.TimerHandle] = {}  # the last used is last
        self._closed = False

    @asynccontextmanager
    async def connection(self, deadline: float, *, fresh: bool = False) -> AsyncIterator[Conversation]:
        """One that is open, for one mail; ``fresh`` makes a new one. Raises ``SendError``."""
        conversation = await self._open(deadline, fresh)
        try:
            yield conversation
        finally:
            self._put(conversation)
            self._give_room()

    async def _open(self, deadline: float, fresh: bool) -> Conversation:
        """It has room, which is to be given back."""
        refused: SendError | None = None
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._room.acquire()
            except TimeoutError:
                raise refused or SendError("transient", BUSY) from None
            self._used += 1
            try:
                kept = self._take()
                if fresh and kept is not None:
                    kept.quit()
                    kept = None
                return kept or await self._connect(deadline)
            except SendError as error:
                if error.error_class not in SPARED or (self._used == 1 and not self._idle):
                    self._give_room()
                    raise
                refused = error  # the server has enough of us: one of the others will be free
                asyncio.get_running_loop().call_later(FEWER_S, self._room.release)
                self._used -= 1
            except BaseException:
                self._give_room()
                raise

    def _give_room(self) -> None:
        self._used -= 1
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
