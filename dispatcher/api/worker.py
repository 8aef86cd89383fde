"""A channel that is an object of the caller: a thread that takes its deliveries and gives back what became of them.

It calls ``channel.attach`` again and again, as docs/protocol.md has it. A newer call has the older one answered at
once, so results go out as they come, and new deliveries are waited for meanwhile.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import secrets
import threading
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dispatcher.api.errors import DispatcherError, OverloadedError, ShutdownError, UnavailableError
from dispatcher.api.keys import UNSENDABLE
from dispatcher.api.threads import DaemonThreads
from shards.channels.base import Delivery, NotificationChannel, SendError, Sent
from shards.wire.encoding import pack

if TYPE_CHECKING:
    from dispatcher.api.engine import Engine

WAIT_MS = 10_000  # of a call, for a delivery
ANSWER_S = 20.0  # beyond that
PAUSE_S = 2.0  # after a refusal
RESULTS_MAX = 1_000  # of one call
RESULT_BYTES_MAX = 16_384  # what says more is cut
TEXT_MAX = 500  # characters of what is cut
THREADS_MAX = 32  # where ``send`` blocks
LEAVE_S = 5.0  # for the last call

RETRY_AFTER_S_MAX = 365 * 86_400.0

log = logging.getLogger("dispatcher")


class Result(msgspec.Struct, omit_defaults=True):
    """What became of a delivery, as it is sent."""

    error_class: str = ""
    message: str = ""
    detail: str = ""
    bad: Annotated[list[str], msgspec.Meta(max_length=100)] = []
    retry_after_ms: int | None = None


class Worker:
    """``concurrency`` deliveries at once. Attached from ``start`` to ``stop``."""

    def __init__(self, engine: Engine, name: str, channel: NotificationChannel, concurrency: int) -> None:
        self._engine = engine
        self._name = name
        self._channel = channel
        self._worker = f"python-{os.getpid()}-{secrets.token_hex(6)}"
        self._results: list[dict[str, Any]] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._stopping = threading.Event()
        self._threads: DaemonThreads | None = None
        if not inspect.iscoroutinefunction(channel.send):
            concurrency = min(concurrency, THREADS_MAX)
            self._threads = DaemonThreads(concurrency, f"send {name}")
        self._concurrency = concurrency
        self._thread = threading.Thread(target=self._run, name=f"channel {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Take nothing more, wait for what is under way, give its results and leave. Legal more than once."""
        self._stopping.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def call(self, limit: int) -> dict[str, Any]:
        return {"channel": self._name, "worker": self._worker, "limit": limit, "wait_ms": WAIT_MS}

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except ShutdownError:
            pass  # the service was given up
        except Exception:
            log.exception("the worker of channel %s has ended", self._name)
        finally:
            if self._threads is not None:
                self._threads.shutdown()

    async def _live(self) -> None:
        news = asyncio.Event()
        self._news = news
        stopped = asyncio.create_task(self._heed_stop())
        calls: set[asyncio.Task[None]] = set()
        while not self._stopping.is_set():
            room = self._concurrency - len(self._sending)
            if (self._results or not calls) and len(calls) < 2 and (room or self._results):
                # the older call may still bring what it asked for
                calls.add(asyncio.create_task(self._exchange(0 if calls else room)))
            news.clear()
            waiting = asyncio.create_task(news.wait())
            await asyncio.wait({waiting, stopped, *calls}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            for call in [call for call in calls if call.done()]:
                calls.discard(call)
                call.result()
        await self._leave(calls)

    async def _heed_stop(self) -> None:
        while not self._stopping.is_set() and not self._engine.is_closing:
            await asyncio.sleep(0.1)
        self._stopping.set()

    async def _leave(self, calls: set[asyncio.Task[None]]) -> None:
        """What an open call still brings is given back."""
        if calls:
            await self._exchange(0)
            await asyncio.wait(calls)
        while self._sending:
            await asyncio.wait(self._sending)
        if self._results:
            await self._exchange(0)
        fields = {"channel": self._name, "worker": self._worker}
        await asyncio.wrap_future(self._engine.request("channel.detach", fields, LEAVE_S, even_closing=True))

    async def _exchange(self, limit: int) -> None:
        """One call: give results, take deliveries."""
        results, self._results = self._results[:RESULTS_MAX], self._results[RESULTS_MAX:]
        fields = {**self.call(limit), "results": results}
        timeout_s = ANSWER_S + WAIT_MS / 1000
        try:
            future = self._engine.request("channel.attach", fields, timeout_s, even_closing=True)
            answer = await asyncio.wrap_future(future)
        except (UnavailableError, OverloadedError):
            self._results = results + self._results
            return
        except DispatcherError as error:  # somebody has changed the configuration
            log.error("channel %s takes no worker at present: %s", self._name, error)
            await asyncio.sleep(PAUSE_S)
            return
        for refused in answer["rejected"]:
            log.error("channel %s: a result was refused: %s", self._name, refused["error"]["message"])
        for given in answer["deliveries"]:
            if self._stopping.is_set():
                self._results.append({"token": given["token"], "error_class": "returned"})
                continue
            task = asyncio.create_task(self._deliver(given))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _deliver(self, given: dict[str, Any]) -> None:
        result = _sendable(await self._attempt(given["delivery"], given["timeout_ms"] / 1000))
        self._results.append({"token": given["token"], **result})
        self._news.set()

    async def _attempt(self, document: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """One delivery; what its result says."""
        limit: asyncio.Timeout | None = None
        try:
            delivery = msgspec.convert(document, Delivery)
            if not self._channel.supports_recipient(delivery.recipient):
                return {"error_class": "no_contact", "message": "the channel does not reach this recipient"}
            async with asyncio.timeout(timeout_s) as limit:
                sent = await self._send(delivery)
        except SendError as error:
            return _refusal(error)
        except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            if isinstance(error, TimeoutError) and limit is not None and limit.expired():
                return {"error_class": "ambiguous", "message": f"send took more than {timeout_s:g} s"}
            where = "supports_recipient" if limit is None else "send"
            log.exception("channel %s: %s raised what is no SendError", self._name, where)
            return {"error_class": "transient", "message": f"{type(error).__name__}: {error}"}
        if sent is None:
            return {}
        if isinstance(sent, Sent):
            return {"detail": sent.detail, "bad": list(sent.bad)}
        what = f"send returned {type(sent).__name__}; it is to return Sent or None, and to raise SendError"
        return {"error_class": "transient", "message": what}

    async def _send(self, delivery: Delivery) -> object:
        if self._threads is None:
            sent = self._channel.send(delivery)
            return await sent if isinstance(sent, Awaitable) else sent
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._channel.send, delivery)


def _is_cancelled() -> bool:
    """Whether it is this task that is to end, and not something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _refusal(error: SendError) -> dict[str, Any]:
    result: dict[str, Any] = {"error_class": error.error_class, "message": error.message, "bad": list(error.bad)}
    if error.retry_after_s is not None and 0 <= error.retry_after_s <= RETRY_AFTER_S_MAX:  # no NaN either
        result["retry_after_ms"] = round(error.retry_after_s * 1000)
    return result


def _sendable(result: dict[str, Any]) -> dict[str, Any]:
    """The same, cut where it is not: one result must not keep the others of its call from the dispatcher."""
    try:
        if len(pack(msgspec.convert(result, Result))) <= RESULT_BYTES_MAX:
            return result
    except UNSENDABLE:
        pass
    sendable: dict[str, Any] = {
        name: _text(result[name]) for name in ("detail", "message", "error_class") if name in result
    }
    return {**sendable, **{name: result[name] for name in ("retry_after_ms",) if name in result}}


def _text(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode()[:TEXT_MAX]
