"""A thread with an event loop of its own, for code that is not ours: what it holds up there is nobody else's."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections import deque
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
    """Call it, and await its answer where need be. Raises an ``Exception``, ``CancelledError``, or ``GeneratorExit``,
    which it is also given where it is thrown away unfinished, and must pass on then.
    """
    try:
        found = function(*arguments)
        return await found if inspect.isawaitable(found) else found
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001 - it is raised, as what ends nothing else
        raise EscapedError(error) from None


class _Call:
    """Of one function there, for whoever waits for it here."""

    __slots__ = ("arguments", "function", "task", "turn", "waiter")

    def __init__(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.turn = threading.Lock()  # is with the call, or with whoever gave up on it before it began
        self.task: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        if self.task:
            self.task.cancel()

    def tell(self) -> None:
        """What became of it, to who waits, if they still do."""
        assert self.task
        if self.waiter.done():
            return
        if self.task.cancelled():
            self.waiter.cancel()
        elif error := self.task.exception():
            self.waiter.set_exception(error if isinstance(error, Exception) else EscapedError(error))
        else:
            self.waiter.set_result(self.task.result())


class Aside:
    """``owner`` is for the log, ``words`` makes a text of an exception, without secrets.

    One loop calls; it and the one here wake each other once for all that they have to say.
    """

    def __init__(self, owner: str, words: Callable[[BaseException], str]) -> None:
        self._owner = owner
        self._words = words
        self._closing = False
        self._calls: deque[_Call] = deque()  # to begin
        self._is_woken = False
        self._ended: deque[_Call] = deque()  # to tell of
        self._is_telling = False
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._log)
        threading.Thread(target=self._run, name=f"plug-in-{owner}", daemon=True).start()

    def begin(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(awaited(function, *arguments), self._loop)

    async def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Its answer, which is awaited there where need be. Whoever is cancelled waits no longer, even where the call
        never ends; if it had not even begun, that raises ``HeldUpError``.
        """
        one = _Call(function, arguments)
        self._calls.append(one)
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._begin_calls)
        try:
            return await one.waiter
        except asyncio.CancelledError:
            if one.turn.acquire(blocking=False):
                raise HeldUpError from None
            self._loop.call_soon_threadsafe(one.cancel)
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

    def _begin_calls(self) -> None:
        self._is_woken = False
        while self._calls:
            one = self._calls.popleft()
            if one.turn.acquire(blocking=False):
                one.task = self._loop.create_task(awaited(one.function, *one.arguments))
                one.task.add_done_callback(functools.partial(self._on_end, one))

    def _on_end(self, one: _Call, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # which nobody may wait for any more
        self._ended.append(one)
        if not self._is_telling:
            self._is_telling = True
            try:
                one.waiter.get_loop().call_soon_threadsafe(self._tell)
            except RuntimeError:  # the loop there is closed
                self._is_telling = False
                self._ended.clear()

    def _tell(self) -> None:
        self._is_telling = False
        while self._ended:
            self._ended.popleft().tell()

    def _log(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        why = self._words(error) if isinstance(error, BaseException) else str(context.get("message"))
        log.warning("a task of a channel has failed", channel=self._owner, error=why)
