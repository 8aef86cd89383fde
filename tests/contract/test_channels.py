"""What holds for every channel, each beside a real service of its kind."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from shards.answers import ERROR_CLASSES
from shards.channels.base import Delivery, NotificationChannel, SendError
from tests.support.rigs import Rig, lacks, rigs
from tests.support.service import wait_until
from tests.support.waiting import until

RIGS = rigs()
FAILURES = [(rig, error_class) for rig in RIGS for error_class in sorted(rig.classes)]
TEST_S = 60.0
HUNG_S = 0.5
MESSAGE_MAX = 500
TRIES = 5
IDS = itertools.count()


@pytest.fixture(scope="module")
def opened() -> Iterator[list[Rig]]:
    """Those of which a test has come."""
    rigs: list[Rig] = []
    yield rigs
    for rig in rigs:
        rig.close()


@pytest.fixture(autouse=True)
def service(opened: list[Rig], request: pytest.FixtureRequest) -> None:
    rig = request.node.callspec.params["rig"]
    if rig not in opened:
        rig.open()
        opened.append(rig)


def each(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, RIGS, ids=lambda rig: rig.name)


each_failure = pytest.mark.parametrize(
    ("rig", "error_class"), FAILURES, ids=[f"{rig.name}-{error_class}" for rig, error_class in FAILURES]
)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TEST_S):
            await work()

    asyncio.run(bounded())


@asynccontextmanager
async def channel_of(rig: Rig, timeout_s: float = 30.0) -> AsyncIterator[NotificationChannel]:
    channel = rig.channel(timeout_s)
    try:
        yield channel
    finally:
        await close(channel)


async def close(channel: NotificationChannel) -> None:
    if (close := getattr(channel, "close", None)) and inspect.isawaitable(ended := close()):
        await ended


async def send(channel: NotificationChannel, delivery: Delivery) -> None:
    """As the courier calls it: a plain function has a thread."""
    send: Callable[[Delivery], Any] = channel.send
    if inspect.iscoroutinefunction(send):
        await send(delivery)
    else:
        await asyncio.to_thread(send, delivery)


def delivery(rig: Rig, number: int = 0, **more: Any) -> Delivery:
    fields: dict[str, Any] = {
        "id": f"{rig.name}-{next(IDS)}",
        "notification_id": f"n-{number}",
        "channel": rig.name,
        "attempt": 1,
        "recipient": rig.recipient(),
        "category": "transaction",
        "type": "info",
        "priority": "normal",
        "title": f"title {number}",
        "text": f"text {number}",
        "created_ms": 1_764_000_000_000,
        **more,
    }
    if not getattr(rig, "has_title", True):
        fields["text"] = f"{fields['title']}: {fields['text']}"
    return Delivery(**fields)


def arrived(rig: Rig, *texts: str) -> None:
    def have_come() -> bool:
        received = rig.received()
        return all(any(text in one for one in received) for text in texts)

    wait_until(have_come, 30.0, f"{texts} at {rig.name}")


@each("rig")
def test_a_delivery_arrives(rig: Rig) -> None:
    async def work() -> None:
        async with channel_of(rig) as channel:
            await send(channel, delivery(rig, title="Déjà vu \N{ROCKET}", text="Ça y est \N{PARTY POPPER}"))

    run(work)
    arrived(rig, "Déjà vu \N{ROCKET}", "Ça y est \N{PARTY POPPER}")


@each("rig")
def test_fifty_at_once_arrive(rig: Rig) -> None:
    async def work() -> None:
        async with channel_of(rig) as channel:
            many = (delivery(rig, n, title=f"many-{n}-", text=f"of-{n}-") for n in range(50))
            await asyncio.gather(*(send(channel, one) for one in many))

    run(work)
    arrived(rig, *(f"many-{n}-" for n in range(50)), *(f"of-{n}-" for n in range(50)))


@each_failure
def test_a_failure_has_its_class_and_is_over_with_it(rig: Rig, error_class: Any) -> None:
    name = f"after {error_class}"

    async def work() -> None:
        async with channel_of(rig) as channel:
            rig.fail(error_class)
            with pytest.raises(SendError) as caught:
                await send(channel, delivery(rig))
            error = caught.value
            assert error.error_class == error_class, error
            assert error.message.isprintable()
            assert 0 < len(error.message) <= MESSAGE_MAX
            for secret in getattr(rig, "secrets", ()):
                assert secret not in f"{error} {error!r}"
            await send(channel, delivery(rig, 1, title=name))

    run(work)
    arrived(rig, name)


@each("rig")
def test_a_service_that_hangs_ends_in_time(rig: Rig) -> None:
    async def work() -> None:
        async with channel_of(rig, HUNG_S) as channel:
            rig.hang()
            with pytest.raises((TimeoutError, SendError)) as caught:
                async with asyncio.timeout(HUNG_S):
                    await send(channel, delivery(rig))
            if isinstance(caught.value, SendError):
                assert caught.value.error_class in {"ambiguous", "transient"}
        async with channel_of(rig) as channel:
            await _in_the_end(channel, delivery(rig, 1, title="after hanging"))

    run(work)
    arrived(rig, "after hanging")


@each("rig")
def test_one_that_is_cancelled_leaves_the_channel_usable(rig: Rig) -> None:
    async def work() -> None:
        async with channel_of(rig) as channel:
            rig.hang()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(HUNG_S):
                    await send(channel, delivery(rig))
            await _in_the_end(channel, delivery(rig, 1, title="after cancelling"))

    run(work)
    arrived(rig, "after cancelling")


async def _in_the_end(channel: NotificationChannel, one: Delivery) -> None:
    """On a slow machine the cancelled attempt had not reached the service, which then hangs for this one."""
    for _ in range(TRIES):
        try:
            async with asyncio.timeout(TEST_S / TRIES / 2):
                return await send(channel, one)
        except (TimeoutError, SendError):
            pass
    raise AssertionError("it never works again")


@pytest.mark.parametrize("rig", [rig for rig in RIGS if hasattr(rig, "keys")], ids=lambda rig: rig.name)
def test_sent_again_it_has_the_same_key(rig: Any) -> None:
    async def work() -> None:
        async with channel_of(rig) as channel:
            first, second = delivery(rig, 1, title="one"), delivery(rig, 2, title="two")
            rig.fail("transient")
            with pytest.raises(SendError):
                await send(channel, first)
            await send(channel, first)
            await send(channel, first)
            await send(channel, second)

    before = set(rig.keys())
    run(work)
    wait_until(lambda: len(set(rig.keys()) - before) >= 2, 30.0, "both")
    assert len(set(rig.keys()) - before) == 2


@each("rig")
def test_whom_it_can_reach(rig: Rig) -> None:
    async def work() -> None:
        async with channel_of(rig) as channel:
            assert channel.name
            assert channel.supports_recipient(rig.recipient())
            stranger = rig.stranger()
            assert (stranger is None) == lacks(rig, "stranger")
            assert stranger is None or not channel.supports_recipient(stranger)

    run(work)


@each("rig")
def test_closed_it_leaves_no_task_and_no_socket(rig: Rig) -> None:
    async def work() -> None:
        before = _sockets()
        async with channel_of(rig) as channel:
            await send(channel, delivery(rig))
            await close(channel)
        await close(channel)
        # until the service has seen the end of its connection as well
        await until(lambda: _sockets() <= before and asyncio.all_tasks() == {asyncio.current_task()})

    run(work)


def _sockets() -> int:
    """How many this process has open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # it was the directory's own
            found += str(descriptor.readlink()).startswith("socket:")
    return found


@each("rig")
def test_what_is_not_said_of_it_cannot_be(rig: Rig) -> None:
    """With its reason, in one place."""
    for error_class in ERROR_CLASSES:
        assert (error_class in rig.classes) != lacks(rig, error_class), error_class
    assert hasattr(rig, "keys") != lacks(rig, "keys")
