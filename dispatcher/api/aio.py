"""The asyncio twin of ``NotificationService``: the same calls, awaited. It shares the steps of each with it."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import warnings
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from dispatcher.api.calls import Calls
from dispatcher.api.engine import WAIT_S_MAX
from dispatcher.api.futures import settle
from dispatcher.api.host import Host, host
from dispatcher.api.inapp import Feed, Subscription, check_callback
from dispatcher.api.registration import DETACH_S, Registration, register
from dispatcher.api.steps import Steps, wait_for_async
from dispatcher.api.threads import DaemonThreads

if TYPE_CHECKING:
    from dispatcher.api.keys import Given
    from dispatcher.api.results import BatchReceipt, DeadLetter, Decision, InboxItem, Receipt, Status
    from dispatcher.curve import ClientKeys
    from shards.channels.base import NotificationChannel

T = TypeVar("T")


class AsyncNotificationService:
    """As ``NotificationService``, for event loops: nothing here blocks the loop.

    An embedded dispatcher starts beside the loop; the first call, or ``async with``, waits for it and raises its
    ``StartError``.

        async with AsyncNotificationService("data") as service:
            receipt = await service.notify(user_id="ada", title="Hello")
            print((await service.wait(receipt.id)).outcomes)
    """

    def __init__(
        self,
        data_dir: str | PathLike[str] | None = None,
        *,
        config: str | PathLike[str] | Mapping[str, Any] | None = None,
        shards: int | None = None,
        durability: Literal["power", "process"] | None = None,
        submit: str | None = None,
        stream: str | None = None,
        keys: ClientKeys | None = None,
        timeout: float = 30.0,
        max_pending: int = 100_000,
    ) -> None:
        self._subscriptions: weakref.WeakSet[AsyncSubscription] = weakref.WeakSet()
        self._registrations: list[Registration] = []
        self._host: Future[Host] = Future()
        found = self._host

        def make() -> None:
            try:
                made = host(data_dir, config, shards, durability, submit, stream, keys, timeout, max_pending)
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                settle(found, None, error)
            else:
                settle(found, made, None)

        if submit is None:
            threading.Thread(target=make, name="dispatcher start", daemon=True).start()
        else:
            make()
            found.result()

    async def _started(self) -> Host:
        return self._host.result() if self._host.done() else await asyncio.shield(asyncio.wrap_future(self._host))

    async def _do(self, steps: Callable[[Calls], Steps[T]]) -> T:
        return await wait_for_async(steps(Calls((await self._started()).engine)))

    @property
    def submit_endpoint(self) -> str:
        """See ``NotificationService.submit_endpoint``. Raises ``RuntimeError`` before it has started."""
        return self._found.submit

    @property
    def stream_endpoint(self) -> str:
        """See ``NotificationService.stream_endpoint``. Raises ``RuntimeError`` before it has started."""
        return self._found.stream

    @property
    def _found(self) -> Host:
        if not self._host.done():
            raise RuntimeError("the dispatcher has not started yet; use the service in an async with block")
        return self._host.result()

    # --- notifications -----------------------------------------------------------------------------------------

    async def notify(self, notification: Given | None = None, /, **fields: Any) -> Receipt:
        """See ``NotificationService.notify``. Many at once share frames: ``asyncio.gather`` them."""
        return await self._do(lambda calls: calls.notify(notification, fields))

    async def batch_notify(self, notifications: Iterable[Given], *, timeout: float | None = None) -> BatchReceipt:
        """See ``NotificationService.batch_notify``."""
        return await self._do(lambda calls: calls.batch_notify(notifications, timeout))

    async def notify_all(
        self,
        notification: Given | None = None,
        /,
        *,
        topic: str = "*",
        recipients: Iterable[str] | None = None,
        **fields: Any,
    ) -> Receipt:
        """See ``NotificationService.notify_all``."""
        return await self._do(lambda calls: calls.notify_all(notification, topic, recipients, fields))

    async def explain(self, notification: Given | None = None, /, **fields: Any) -> list[Decision]:
        """See ``NotificationService.explain``."""
        return await self._do(lambda calls: calls.explain(notification, fields))

    async def status(
        self, id: str | None = None, *, user_id: str | None = None, idempotency_key: str | None = None
    ) -> Status:
        """See ``NotificationService.status``."""
        named = {"id": id, "user_id": user_id, "idempotency_key": idempotency_key}
        return await self._do(lambda calls: calls.status(named))

    async def wait(self, id: str, timeout: float | None = None) -> Status:
        """See ``NotificationService.wait``."""
        return await self._do(lambda calls: calls.wait(id, timeout))

    async def cancel(
        self, id: str | None = None, *, user_id: str | None = None, idempotency_key: str | None = None
    ) -> int:
        """See ``NotificationService.cancel``."""
        named = {"id": id, "user_id": user_id, "idempotency_key": idempotency_key}
        return await self._do(lambda calls: calls.cancel(named))

    # --- dead letters ------------------------------------------------------------------------------------------

    async def dead_letters(self, *, limit: int | None = None, **filters: Any) -> AsyncIterator[DeadLetter]:
        """See ``NotificationService.dead_letters``."""
        cursor: Any = None
        while limit is None or limit > 0:
            letters, cursor = await self._do(partial(_dead_page, filters, cursor, limit))
            for letter in letters:
                yield letter
            if cursor is None:
                return
            limit = None if limit is None else limit - len(letters)

    async def replay(self, **filters: Any) -> int:
        """See ``NotificationService.replay``."""
        return await self._do(lambda calls: calls.dead("dead.replay", filters))

    async def purge(self, **filters: Any) -> int:
        """See ``NotificationService.purge``."""
        return await self._do(lambda calls: calls.dead("dead.purge", filters))

    # --- users -------------------------------------------------------------------------------------------------

    async def put_user(self, user_id: str, user: Mapping[str, Any]) -> dict[str, Any]:
        """See ``NotificationService.put_user``."""
        return await self._do(lambda calls: calls.put_user(user_id, user))

    async def get_user(self, user_id: str) -> dict[str, Any]:
        """See ``NotificationService.get_user``."""
        return await self._do(lambda calls: calls.user("user.get", {"user_id": user_id}))

    async def delete_user(self, user_id: str) -> dict[str, Any]:
        """See ``NotificationService.delete_user``."""
        return await self._do(lambda calls: calls.user("user.delete", {"user_id": user_id}))

    async def subscribe(self, topic: str, user_id: str) -> None:
        """See ``NotificationService.subscribe``."""
        await self.request("topic.subscribe", topic=topic, user_id=user_id)

    async def unsubscribe(self, topic: str, user_id: str) -> None:
        """See ``NotificationService.unsubscribe``."""
        await self.request("topic.unsubscribe", topic=topic, user_id=user_id)

    async def inbox(self, user_id: str, limit: int | None = None) -> AsyncIterator[InboxItem]:
        """See ``NotificationService.inbox``."""
        cursor: Any = 0
        while cursor is not None and limit != 0:
            items, cursor = await self._do(partial(_inbox_page, user_id, cursor, limit))
            for item in items:
                yield item
            limit = None if limit is None else limit - len(items)

    async def mark(self, user_id: str, ids: Iterable[str], state: Literal["seen", "read", "archived"]) -> int:
        """See ``NotificationService.mark``."""
        return await self._do(lambda calls: calls.mark(user_id, ids, state))

    async def on_inapp(
        self,
        callback: Callable[[InboxItem], Awaitable[object] | object],
        user_id: str | None = None,
        *,
        after: int = 0,
    ) -> AsyncSubscription:
        """See ``NotificationService.on_inapp``. The callback is called, and awaited, in this event loop."""
        found = await self._started()
        made = AsyncSubscription(found, callback, user_id, after)
        self._subscriptions.add(made)
        return made

    async def inapp(self, user_id: str, *, after: int = 0) -> AsyncGenerator[InboxItem, None]:
        """See ``NotificationService.inapp``."""
        found, loop, stopping = await self._started(), asyncio.get_running_loop(), threading.Event()
        items = Feed(found.engine, found.stream, stopping).of_user(user_id, after)
        thread = DaemonThreads(1, "inapp")
        try:
            while (item := await loop.run_in_executor(thread, next, items, None)) is not None:
                yield item
        finally:
            stopping.set()
            thread.submit(items.close)
            thread.shutdown()

    # --- the dispatcher ----------------------------------------------------------------------------------------

    async def register_template(self, name: str, parts: Mapping[str, str]) -> None:
        """See ``NotificationService.register_template``."""
        await self._do(lambda calls: calls.register_template(name, parts))

    async def register_channel(
        self, name: str, channel: str | NotificationChannel, **options: Any
    ) -> AsyncRegistration:
        """See ``NotificationService.register_channel``. An object's ``send`` runs in an event loop of its own."""
        found = await self._started()
        made = await wait_for_async(register(found, name, channel, options))
        self._registrations.append(made)
        return AsyncRegistration(made)

    async def metrics(self) -> dict[str, Any]:
        """See ``NotificationService.metrics``."""
        return await self.request("stats")

    async def request(self, op: str, /, **fields: Any) -> dict[str, Any]:
        """See ``NotificationService.request``."""
        return await self._do(lambda calls: calls.request(op, fields))

    # --- the end -----------------------------------------------------------------------------------------------

    async def shutdown(self, timeout: float = 30.0) -> None:
        """See ``NotificationService.shutdown``."""
        found = await self._started()
        found.engine.refuse()
        end = time.monotonic() + min(timeout, WAIT_S_MAX)
        for subscription in list(self._subscriptions):
            await subscription.end(max(0.0, end - time.monotonic()))
        await asyncio.to_thread(self._leave, found, end)

    def _leave(self, found: Host, end: float) -> None:
        while self._registrations:
            self._registrations.pop().detach(max(0.0, end - time.monotonic()))
        found.shutdown(max(0.0, end - time.monotonic()))

    async def __aenter__(self) -> Self:
        await self._started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    def __del__(self) -> None:
        found = getattr(self, "_host", None)
        if found is None:
            return
        found.add_done_callback(_abandon)  # at once, if it is there

    def __repr__(self) -> str:
        at = f" at {self._host.result().submit}" if self._host.done() and not self._host.exception() else ""
        return f"<AsyncNotificationService{at}>"


def _dead_page(
    filters: Mapping[str, Any], cursor: Any, limit: int | None, calls: Calls
) -> Steps[tuple[list[DeadLetter], Any]]:
    return calls.dead_page(filters, cursor, limit)


def _inbox_page(user_id: str, cursor: Any, limit: int | None, calls: Calls) -> Steps[tuple[list[InboxItem], Any]]:
    return calls.inbox_page(user_id, cursor, limit)


def _abandon(found: Future[Host]) -> None:
    if found.exception() is None and not found.result().is_shut_down:
        at = found.result().submit
        warnings.warn(f"the AsyncNotificationService at {at} was not shut down", ResourceWarning, 2)
        found.result().abandon()


class AsyncRegistration:
    """As ``Registration``; to wait for what is under way leaves the event loop alone."""

    def __init__(self, made: Registration) -> None:
        self.name = made.name
        self._made = made

    async def detach(self, timeout: float = DETACH_S) -> None:
        """See ``Registration.detach``."""
        await asyncio.to_thread(self._made.detach, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.detach()


class AsyncSubscription:
    """As ``Subscription``. The callback runs in the loop that it was made in, one call after the other."""

    def __init__(
        self, found: Host, callback: Callable[[InboxItem], Awaitable[object] | object], user_id: str | None, after: int
    ) -> None:
        check_callback(callback)
        loop = asyncio.get_running_loop()
        self._calling: asyncio.Task[Any] | None = None

        async def call(item: InboxItem) -> None:
            self._calling = asyncio.current_task()
            result = callback(item)
            if inspect.isawaitable(result):
                await result

        def call_there(item: InboxItem) -> None:
            asyncio.run_coroutine_threadsafe(call(item), loop).result()

        self._made = Subscription(found.engine, found.stream, call_there, user_id, after)

    @property
    def cursor(self) -> int:
        return self._made.cursor

    @property
    def ended(self) -> Future[None]:
        return self._made.ended

    async def stop(self) -> None:
        """See ``Subscription.stop``."""
        if not self._is_in_callback():
            await asyncio.to_thread(self._made.stop)

    async def end(self, timeout_s: float | None = None) -> None:
        """See ``Subscription.end``."""
        if not self._is_in_callback():
            await asyncio.to_thread(self._made.end, timeout_s)

    def _is_in_callback(self) -> bool:
        """Whether the callback stops its own subscription: it is not to wait for itself."""
        if asyncio.current_task() is not self._calling:
            return False
        self._made.stop_soon()
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
