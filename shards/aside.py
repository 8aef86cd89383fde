"""A thread with an event loop of its own, for code that is not ours: what it holds up there is nobody else's."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shards import logs

log = logs.logger()

END_S = 1.0  # for what is cancelled at the end


class HeldUpError(Exception):
    """Somebody gave up on a call that had not begun: another one blocks the thread."""


class EscapedError(Exception):
    """In place of ``what``, which is no ``Exception`` and would end more than the call: an exit, for one."""

    def __init__(self, what: BaseException) -> None:
        super().__init__()
        self.what = what


def guarded(function: Callable[..., Any], *arguments: object) -> Any:
    """Call it. Raises nothing but an ``Exception``."""
    try:
        return function(*arguments)
    except Exception:
        raise
    except BaseException as error:  # noqa: BLE001 - it is raised, as what ends nothing else
        raise EscapedError(error) from None


async def awaited(function: Callable[..., Any], *arguments: object) -> Any:
    """Call it, and await its answer where need be. Raises nothing but an ``Exception`` or ``CancelledError``."""
    try:
        found = function(*arguments)
        return await found if inspect.isawaitable(found) else found
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:  # noqa: BLE001 - it is raised, as what ends nothing else
        raise EscapedError(error) from None


class Aside:
    """``owner`` is for the log, ``words`` makes a text of an exception, without secrets."""

    def __init__(self, owner: str, words: Callable[[BaseException], str]) -> None:
        self._owner = owner
        self._words = words
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._tell)
        threading.Thread(target=self._run, name=f"plug-in-{owner}", daemon=True).start()

    def begin(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(awaited(function, *arguments), self._loop)

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Its answer, which is awaited there where need be. Whoever is cancelled waits no longer, even where the call
        never ends; if it had not even begun, that raises ``HeldUpError``.
        """
        turn = threading.Lock()  # who has it: the call, or whoever gave up on it before it began

        async def answer() -> Any:
            if not turn.acquire(blocking=False):
                return None
            return await awaited(function, *arguments)

        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answer(), self._loop))
        except asyncio.CancelledError:
            if turn.acquire(blocking=False):
                raise HeldUpError from None
            raise

    def close(self) -> None:
        """What still runs there is cancelled. Legal more than once; waits for nothing."""
        if not self._closing:
            self._closing = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)

    async def _end(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=END_S)
        self._loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
                break
            except (SystemExit, KeyboardInterrupt) as error:  # whoever waits for that task is told by its future
                log.warning("a channel's code asked the process to exit", channel=self._owner, error=self._words(error))
        self._loop.close()

    def _tell(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        why = self._words(error) if isinstance(error, BaseException) else str(context.get("message"))
        log.warning("a task of a channel has failed", channel=self._owner, error=why)
