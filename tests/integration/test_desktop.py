"""The channel ``system`` against a real session bus and a real notification daemon."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from shards import options
from shards.channels import system
from shards.channels.base import Context, Recipient, SendError
from shards.channels.system import SystemChannel
from tests.support.deliveries import delivery
from tests.support.desktop import Desktop
from tests.support.notifier import Notifier
from tests.support.service import RunningDispatcher, wait_until
from tests.support.waiting import others


@pytest.fixture(scope="module")
def one_desktop() -> Iterator[Desktop]:
    with Desktop() as desktop:
        yield desktop


@pytest.fixture
def desktop(one_desktop: Desktop) -> Desktop:
    """A daemon that has shown nothing."""
    one_desktop.stop("dunst")
    one_desktop.start_daemon()
    return one_desktop


@asynccontextmanager
async def opened(desktop: Desktop, context: Context = Context("system"), **given: str) -> AsyncIterator[SystemChannel]:  # noqa: B008 - it is immutable
    channel = SystemChannel(SystemChannel.Settings(**{"bus": desktop.address, **given}), context)
    try:
        yield channel
    finally:
        await channel.close()


def using(desktop: Desktop, use: Callable[[SystemChannel], Awaitable[Any]], **given: Any) -> None:
    async def used() -> None:
        async with opened(desktop, **given) as channel:
            await use(channel)

    asyncio.run(used())


async def failure(channel: SystemChannel, **fields: Any) -> SendError:
    with pytest.raises(SendError) as raised:
        await channel.send(delivery(**fields))
    return raised.value


def test_what_is_shown(desktop: Desktop) -> None:
    async def use(channel: SystemChannel) -> None:
        await channel.send(delivery(title="Títle\x07\n😀", text="a < b & <b>c</b>\nd\0"))
        await channel.send(delivery(title="", text="text\nalone"))
        await channel.send(delivery(title="title alone", text="", type="error", priority="critical"))

    using(desktop, use, app_name="Backups", icon="/usr/share/icon.png")
    assert [(item["appname"], item["summary"], item["body"]) for item in desktop.shown()] == [
        ("Backups", "Títle 😀", "a &lt; b &amp; &lt;b&gt;c&lt;/b&gt;\nd"),  # as the daemon is to be told
        ("Backups", "text alone", ""),
        ("Backups", "title alone", ""),
    ]


@pytest.mark.parametrize(("priority", "timeout_s"), [("low", 10), ("normal", 10), ("high", 10), ("critical", 0)])
def test_the_urgency_is_that_of_the_priority(desktop: Desktop, priority: str, timeout_s: int) -> None:
    lines: list[str] = []
    using(desktop, lambda channel: channel.send(delivery(priority=priority)), context=Context(trace=lines.append))
    assert [item["timeout"] / 1e6 for item in desktop.shown()] == [timeout_s]  # what dunst has for the urgencies
    assert lines[0].startswith("connected to unix:")
    assert [line.split(" ")[1] for line in lines if line.startswith(">")] == ["GetCapabilities", "Notify"]


def test_a_daemon_without_markup_gets_the_text_as_it_is(desktop: Desktop) -> None:
    desktop.stop("dunst")
    desktop.start_daemon(markup="no")
    lines: list[str] = []
    using(desktop, lambda channel: channel.send(delivery(text="a < b")), context=Context(trace=lines.append))
    assert any("'a < b'" in line for line in lines)
    assert [item["body"] for item in desktop.shown()] == ["a < b"]


def test_the_last_of_equal_collapse_replaces_those_before(desktop: Desktop) -> None:
    async def use(channel: SystemChannel) -> None:
        for user, collapse, text in [
            ("a", "x", "1"),
            ("a", "y", "2"),
            ("b", "x", "3"),
            ("a", None, "4"),
            ("a", "x", "5"),
        ]:
            await channel.send(delivery(recipient=Recipient(user), collapse=collapse, text=text))

    using(desktop, use)
    assert {item["body"] for item in desktop.shown()} == {"5", "2", "3", "4"}


def test_what_can_be_replaced_is_bounded(desktop: Desktop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "REPLACED_MAX", 2)

    async def use(channel: SystemChannel) -> None:
        for text, collapse in enumerate("abcab"):
            await channel.send(delivery(collapse=collapse, text=str(text)))

    using(desktop, use)
    assert len(desktop.shown()) == 5


def test_a_new_daemon_is_not_told_to_replace_what_another_one_shows(desktop: Desktop) -> None:
    async def use(channel: SystemChannel) -> None:
        await channel.send(delivery(collapse="x", text="ours"))
        desktop.stop("dunst")
        desktop.start_daemon()
        async with opened(desktop) as stranger:
            await stranger.send(delivery(text="a stranger's"))
        await channel.send(delivery(collapse="x", text="ours again"))

    using(desktop, use)
    assert [item["body"] for item in desktop.shown()] == ["a stranger's", "ours again"]


def test_without_a_session_there_is_no_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    error = asyncio.run(failure(SystemChannel(SystemChannel.Settings(), Context())))
    assert error.error_class == "misconfigured"
    assert "DBUS_SESSION_BUS_ADDRESS is not set; run the dispatcher within" in error.message


@pytest.mark.parametrize("bus", ["unix:path=/nowhere", "nonsense", "tcp:host=127.0.0.1,port=1"])
def test_a_bus_that_cannot_be_reached_is_misconfigured(bus: str) -> None:
    error = asyncio.run(failure(SystemChannel(SystemChannel.Settings(bus=bus), Context())))
    assert error.error_class == "misconfigured"
    assert bus in error.message


def test_without_a_daemon_it_is_misconfigured_until_one_runs(desktop: Desktop) -> None:
    desktop.stop("dunst")

    async def use(channel: SystemChannel) -> None:
        error = await failure(channel)
        assert error.error_class == "misconfigured"
        assert "does one run in this session?" in error.message
        assert "ServiceUnknown" in error.message
        desktop.start_daemon()
        await channel.send(delivery())

    using(desktop, use)
    assert len(desktop.shown()) == 1


def test_it_connects_again_after_the_bus_was_restarted(desktop: Desktop) -> None:
    async def use(channel: SystemChannel) -> None:
        await channel.send(delivery())
        await asyncio.to_thread(desktop.stop, "dunst", "dbus-daemon")
        error = await failure(channel)
        assert error.error_class == "misconfigured"
        assert "is its session over?" in error.message
        desktop.start()
        await channel.send(delivery(text="again"))

    using(desktop, use)
    assert [item["body"] for item in desktop.shown()] == ["again"]


def test_a_bus_that_dies_under_a_call(desktop: Desktop) -> None:
    async def use(channel: SystemChannel) -> None:
        await channel.send(delivery())
        os.kill(desktop.pid("dunst"), signal.SIGSTOP)
        sending = asyncio.create_task(failure(channel))
        await others()  # so that it has asked
        await asyncio.to_thread(desktop.stop, "dbus-daemon")
        assert (await sending).error_class == "transient"  # it was not yet told to show anything
        desktop.stop("dunst")
        desktop.start()

    using(desktop, use)


def test_a_hanging_daemon_ends_by_the_deadline(desktop: Desktop) -> None:
    async def use(channel: SystemChannel) -> None:
        os.kill(desktop.pid("dunst"), signal.SIGSTOP)
        try:
            first, second = await asyncio.gather(
                asyncio.wait_for(channel.send(delivery(text="late")), 0.2),
                asyncio.wait_for(failure(channel), 0.2),
                return_exceptions=True,
            )
            assert isinstance(first, TimeoutError)
            assert isinstance(second, SendError)
            assert second.error_class == "transient"  # it was not even begun
        finally:
            os.kill(desktop.pid("dunst"), signal.SIGCONT)
        await channel.send(delivery(text="in time"))

    using(desktop, use)
    assert [item["body"] for item in desktop.shown()] == ["in time"]


def test_every_user_is_supported_and_closing_twice_is_legal(desktop: Desktop) -> None:
    async def use(channel: SystemChannel) -> None:
        assert channel.supports_recipient(Recipient("anybody"))
        await channel.send(delivery())
        await channel.close()
        await channel.close()

    using(desktop, use)


def test_settings_have_no_control_characters() -> None:
    with pytest.raises(msgspec.ValidationError, match="app_name has an invisible character"):
        options.read(SystemChannel, {"app_name": "a\0"})


def test_delivered_retried_dead_and_replayed(desktop: Desktop) -> None:
    config = f'[retry]\nbase = "50ms"\n[channels.system]\nbus = "{desktop.address}"\n'
    with RunningDispatcher(config, shards=2) as service:

        def said(title: str) -> str:
            return str(service.client.submit({"user_id": "ada", "title": title, "channels": ["system"]})["ids"][0])

        def ended(id: str, outcome: str) -> dict[str, Any]:
            def looked() -> dict[str, Any] | None:
                found: dict[str, Any] = service.request("status", id=id)["deliveries"][0]
                return found if found["outcome"] == outcome else None

            return wait_until(looked, 60.0, f"{id} is {outcome}")

        assert ended(said("shown"), "delivered")["attempts"] == 1
        assert [item["summary"] for item in desktop.shown()] == ["shown"]
        desktop.stop("dunst")
        with Notifier(desktop.address, ("GetCapabilities", "NoReply", "busy")) as daemon:
            assert ended(said("in the end"), "delivered")["attempts"] == 2
            assert daemon.shown == ["in the end"]
        with Notifier(desktop.address, ("Notify", "InvalidArgs", "no such icon")):
            id = said("refused")
            found = ended(id, "dead")
            assert (found["reason"], found["attempts"]) == ("permanent", 1)
            assert "no such icon" in found["last_error"]
        desktop.start_daemon()
        assert service.request("dead.replay", id=id)["count"] == 1
        ended(id, "delivered")
        assert [item["summary"] for item in desktop.shown()] == ["refused"]


def test_without_a_desktop_the_channel_pauses_and_is_resumed(desktop: Desktop) -> None:
    desktop.stop("dunst")
    config = f'[categories.system]\nchannels = ["system"]\n[channels.system]\nbus = "{desktop.address}"\n'
    with RunningDispatcher(config) as service:
        ids = service.client.submit(*({"user_id": user, "title": user} for user in ("ada", "bob", "eve")))["ids"]

        def pause() -> Any:
            return service.request("stats")["channels"]["system"].get("paused")

        found = wait_until(pause, 30.0, "the pause")
        assert found["reason"] == "misconfigured"
        assert "does one run in this session?" in found["message"]
        assert {service.request("status", id=id)["deliveries"][0]["attempts"] for id in ids} == {0}
        desktop.start_daemon()
        service.request("channel.resume", channel="system")
        service.settled_stats(30.0)
    assert {item["summary"] for item in desktop.shown()} == {"ada", "bob", "eve"}
