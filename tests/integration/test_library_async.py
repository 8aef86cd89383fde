"""The asyncio twin: the same calls, and nothing that blocks the loop."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dispatcher import (
    AsyncNotificationService,
    Delivery,
    InboxItem,
    NotFoundError,
    Notification,
    NotificationService,
    Recipient,
    RejectedError,
    ShutdownError,
    StartError,
    UnavailableError,
)
from tests.support.service import RunningDispatcher, free_endpoints
from tests.support.waiting import until

PATIENCE_S = 60.0
Test = Callable[[AsyncNotificationService, str], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(
        '[channels.pager]\nprovider = "attached"\n[channels.slow]\nprovider = "attached"\n[dispatcher]\n'
    ) as running:
        yield running


@pytest.fixture
def run(dispatcher: RunningDispatcher, request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a test in a loop, with a service and the name of a user of its own."""

    def running(test: Test) -> None:
        async def whole() -> None:
            async with AsyncNotificationService(submit=dispatcher.submit, stream=dispatcher.stream) as service:
                await asyncio.wait_for(test(service, str(request.node.name)), PATIENCE_S)

        asyncio.run(whole())

    return running


def test_it_has_what_the_service_has() -> None:
    """All but ``submit``, which a task is instead; with the same parameters."""
    for name, member in inspect.getmembers(NotificationService):
        if name.startswith("_") or name == "submit":
            continue
        twin = getattr(AsyncNotificationService, name)
        if callable(member):
            assert inspect.signature(twin).parameters.keys() == inspect.signature(member).parameters.keys(), name
            assert twin.__doc__, name


def test_notifications(run: Callable[[Test], None]) -> None:
    async def test(service: AsyncNotificationService, user: str) -> None:
        receipt = await service.notify(user_id=user, title="a", idempotency_key="k")
        assert (await service.notify(user_id=user, title="a", idempotency_key="k")).duplicate
        assert (await service.wait(receipt.id, PATIENCE_S)).outcomes == {"inapp": "delivered"}
        assert (await service.status(user_id=user, idempotency_key="k")).id == receipt.id
        with pytest.raises(RejectedError, match="did you mean title"):
            await service.notify(user_id=user, titel="a")
        later = await service.notify(user_id=user, title="b", send_at=datetime.now(UTC) + timedelta(hours=1))
        assert await service.cancel(later.id) == 1
        with pytest.raises(TimeoutError):
            await service.wait((await service.notify(user_id=user, channels=["pager"], title="c")).id, 0.02)
        decisions = await service.explain(user_id=user, title="a")
        assert decisions[-1].step == "outcome"
        assert (await service.metrics())["conserved"]

    run(test)


def test_batches(run: Callable[[Test], None]) -> None:
    async def test(service: AsyncNotificationService, user: str) -> None:
        receipt = await service.batch_notify(Notification(user_id=user, title=f"{at}") for at in range(20_000))
        assert (receipt.accepted, len(set(map(str, receipt.ids)))) == (20_000, 20_000)
        assert [item.title async for item in service.inbox(user, 3)] == ["0", "1", "2"]
        together = await asyncio.gather(*(service.notify(user_id=f"{user}-{at}", title="a") for at in range(2_000)))
        assert len({one.id for one in together}) == 2_000
        told = await service.notify_all(title="b", recipients=[f"{user}-{at}" for at in range(10)])
        assert len(told.ids) == 10

    run(test)


def test_users_and_dead_letters(run: Callable[[Test], None]) -> None:
    async def test(service: AsyncNotificationService, user: str) -> None:
        assert await service.put_user(user, {"locale": "fr"}) == await service.get_user(user)
        await service.subscribe("news", user)
        await service.unsubscribe("news", user)
        await service.delete_user(user)
        with pytest.raises(NotFoundError):
            await service.get_user(user)
        receipt = await service.notify(user_id=user, title="a", channels=["sms"])
        assert (await service.wait(receipt.id, PATIENCE_S)).outcomes == {"sms": "dead"}

        async def letters() -> int:
            return len([letter async for letter in service.dead_letters(user_id=user)])

        while not await letters():
            await until(lambda: True)
        assert await service.replay(user_id=user) == 0  # of a channel that is not configured
        assert await service.purge(user_id=user) == 1
        said = await service.notify(user_id=user, title="b")
        await service.wait(said.id, PATIENCE_S)
        assert await service.mark(user, [said.id], "read") == 0

    run(test)


def test_inapp_notifications_are_called_back_in_the_loop(run: Callable[[Test], None]) -> None:
    async def test(service: AsyncNotificationService, user: str) -> None:
        loop = asyncio.get_running_loop()
        seen: list[tuple[str | None, bool]] = []

        async def asynchronous(item: InboxItem) -> None:
            seen.append((item.title, asyncio.get_running_loop() is loop))

        def plain(item: InboxItem) -> None:
            seen.append((item.title, asyncio.get_running_loop() is loop))

        async with await service.on_inapp(asynchronous, user), await service.on_inapp(plain, user) as subscription:
            await service.batch_notify({"user_id": user, "title": f"{at}"} for at in range(3))
            await until(lambda: len(seen) == 6 and subscription.cursor == 3, PATIENCE_S)
        assert sorted(seen) == [(f"{at}", True) for at in range(3) for _ in range(2)]

        async def careless(_: InboxItem) -> None:
            raise KeyError("order")

        failing = await service.on_inapp(careless, user)
        await until(failing.ended.done, PATIENCE_S)
        with pytest.raises(KeyError, match="order"):
            await failing.stop()

    run(test)


def test_inapp_notifications_are_iterated(run: Callable[[Test], None]) -> None:
    async def test(service: AsyncNotificationService, user: str) -> None:
        await service.batch_notify({"user_id": user, "title": f"{at}"} for at in range(500))
        items = service.inapp(user, after=10)
        assert [(await anext(items)).title for _ in range(3)] == ["10", "11", "12"]
        await items.aclose()
        waiting = asyncio.create_task(anext(service.inapp(f"{user}-nobody")))
        await asyncio.wait({waiting}, timeout=0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(test)


def test_a_channel_is_registered(run: Callable[[Test], None]) -> None:
    taken = []

    class Pager:
        name = "pager"

        def supports_recipient(self, _recipient: Recipient) -> bool:
            return True

        async def send(self, delivery: Delivery) -> None:
            taken.append(delivery.title)

    async def test(service: AsyncNotificationService, user: str) -> None:
        await service.register_channel("pager", Pager())
        receipt = await service.notify(user_id=user, title="a", channels=["pager"])
        assert (await service.wait(receipt.id, PATIENCE_S)).outcomes == {"pager": "delivered"}
        assert taken.count("a") == 1

    run(test)


def test_detaching_leaves_the_loop_alone(run: Callable[[Test], None]) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    class Slow:
        name = "slow"

        def supports_recipient(self, _recipient: Recipient) -> bool:
            return True

        def send(self, _delivery: Delivery) -> None:
            begun.set()
            goes_on.wait(PATIENCE_S)

    async def test(service: AsyncNotificationService, user: str) -> None:
        async with await service.register_channel("slow", Slow()) as registration:
            receipt = await service.notify(user_id=user, title="a", channels=["slow"])
            assert await asyncio.to_thread(begun.wait, PATIENCE_S)
            detaching = asyncio.create_task(registration.detach())
            await asyncio.sleep(0)
            assert not detaching.done()
            goes_on.set()
            await detaching
        assert (await service.wait(receipt.id, PATIENCE_S)).outcomes == {"slow": "delivered"}

    run(test)


def test_the_loop_goes_on_meanwhile() -> None:
    (nowhere,) = free_endpoints(1)

    async def test() -> None:
        async with AsyncNotificationService(submit=nowhere, timeout=0.3, max_pending=1) as service:
            calls = [asyncio.create_task(service.notify(user_id="ada", title=f"{at}")) for at in range(3)]
            turns = 0
            while not all(call.done() for call in calls):
                await asyncio.sleep(0)
                turns += 1
            assert turns > 100
            for call in calls:
                assert isinstance(call.exception(), UnavailableError)
            cancelled = asyncio.create_task(service.notify(user_id="ada", title="a"))
            await asyncio.wait({cancelled}, timeout=0.01)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled

    asyncio.run(test())


def test_a_dispatcher_killed_in_the_middle_of_a_batch() -> None:
    count = 10_000

    async def test(dispatcher: RunningDispatcher) -> None:
        async with AsyncNotificationService(submit=dispatcher.submit, timeout=PATIENCE_S) as service:
            batch = asyncio.create_task(
                service.batch_notify({"user_id": "ada", "title": f"{at}"} for at in range(count))
            )
            while not (await service.metrics())["accepted"]:
                pass
            assert dispatcher.process is not None
            os.killpg(dispatcher.process.pid, signal.SIGKILL)
            dispatcher.kill()
            dispatcher.start()
            assert (await batch).accepted == count
            while (await service.metrics())["pending"]:
                await until(lambda: True)
            titles = [item.title async for item in service.inbox("ada")]
            assert sorted(map(str, titles)) == sorted(f"{at}" for at in range(count))

    with RunningDispatcher(shards=1) as dispatcher:
        asyncio.run(test(dispatcher))


def test_an_embedded_one_starts_beside_the_loop(tmp_path: Path) -> None:
    async def test() -> None:
        async with AsyncNotificationService(tmp_path, shards=1) as service:
            await service.register_template("greeting", {"title": "Hello {{ name }}"})
            receipt = await service.notify(user_id="ada", template="greeting", payload={"name": "Ada"})
            await service.wait(receipt.id, PATIENCE_S)
            assert [item.title async for item in service.inbox("ada")] == ["Hello Ada"]
        with pytest.raises(ShutdownError):
            await service.notify(user_id="ada", title="late")

        with pytest.raises(StartError, match="unknown key"):
            async with AsyncNotificationService(tmp_path, config={"nonsense": 1}):
                pass
        service = AsyncNotificationService(tmp_path, config={"nonsense": 1})
        with pytest.raises(StartError, match="unknown key"):
            await service.notify(user_id="ada", title="a")

    asyncio.run(test())


def test_who_is_not_shut_down_warns(dispatcher: RunningDispatcher) -> None:
    services = [AsyncNotificationService(submit=dispatcher.submit)]
    with pytest.warns(ResourceWarning, match="was not shut down"):
        services.clear()


@pytest.mark.parametrize("what", ["stop", "shutdown"])
def test_a_callback_may_stop_its_subscription(dispatcher: RunningDispatcher, what: str) -> None:
    async def main() -> None:
        service = AsyncNotificationService(submit=dispatcher.submit, stream=dispatcher.stream)
        stopped = asyncio.Event()

        async def stop(_: InboxItem) -> None:
            await (subscription.stop() if what == "stop" else service.shutdown())
            stopped.set()

        subscription = await service.on_inapp(stop, f"stops-{what}")
        await service.notify(user_id=f"stops-{what}", title="a")
        async with asyncio.timeout(PATIENCE_S):
            await stopped.wait()
            await subscription.stop()
            await service.shutdown()

    asyncio.run(main())
