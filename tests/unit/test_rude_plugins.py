"""Whatever a plug-in does, its attempts end, in time and by their names, and everybody else goes on."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Generator, Iterator
from typing import Any

import msgspec
import pytest

from shards import providers as module
from shards.aside import awaited
from shards.breaker import ATTEMPTS_MIN, OPEN_S
from shards.channels.base import Recipient, SendError, Sent
from shards.providers import UNREACHABLE, Held, Providers
from shards.settings import ChannelSettings, ProviderSettings
from shards.units import Seconds
from tests.support.plugins.rude_channels import Rude
from tests.unit.test_providers import DELIVERY, of, one, run, times

SHORT_S = 0.3


def rude(kind: str = "Rude", timeout_s: float = 30.0, **options: Any) -> Providers:
    one = ProviderSettings("", f"tests.support.plugins.rude_channels:{kind}", options)
    return Providers(
        "rude", ChannelSettings((one,), timeout=Seconds(timeout_s)), {}, itertools.count(0.0, 60.0).__next__
    )


@pytest.fixture(autouse=True)
def released() -> Iterator[None]:
    Rude.release.clear()
    yield
    Rude.release.set()


async def said(providers: Providers, text: str, user: str = "ann") -> tuple[str, str]:
    outcome = await providers.send(msgspec.structs.replace(DELIVERY, text=text, recipient=Recipient(user)))
    if isinstance(outcome, SendError):
        assert outcome.message.encode()
        return outcome.error_class, outcome.message
    assert isinstance(outcome, Sent)
    return "sent", outcome.detail


@pytest.mark.parametrize(
    ("text", "error_class", "message"),
    [
        ("exits", "transient", "SystemExit: goodbye"),
        ("interrupts", "transient", "KeyboardInterrupt: "),
        ("its own base", "transient", "OwnBase: of no kind"),
        ("ends its generator", "transient", "GeneratorExit: "),
        ("exits in a task", "transient", "SystemExit: from within"),
        ("unspeakable", "transient", "UnspeakableError"),
        ("its own error", "transient", "AttributeError: 'OwnError' object has no attribute 'error_class'"),
        ("a class of its own", "transient", "ValueError: 'tired' is no class of errors; there are "),
        ("half a character", "transient", "RuntimeError: caf\\udce9"),
        ("bad as a text", "transient", "TypeError: bad is to be a list of contacts, which are texts, not str"),
        ("bad as numbers", "transient", "TypeError: bad is to be a list of contacts, which are texts, not tuple"),
        ("impatient", "throttled", "later"),
        ("says numbers", "permanent", "550"),
        ("a dictionary", "transient", "TypeError: send returned dict; "),
        ("leaks a task that exits", "sent", ""),
    ],
)
@pytest.mark.parametrize("kind", ["Rude", "Decorated"])
def test_an_attempt_ends_and_the_next_one_is_made(kind: str, text: str, error_class: str, message: str) -> None:
    async def work() -> None:
        providers = rude(kind)
        found = await said(providers, text)
        assert found[0] == error_class
        assert found[1].startswith(message)
        assert await said(providers, "fine") == ("sent", "fine")
        await providers.close()

    asyncio.run(work())


@pytest.mark.parametrize("text", ["will not be cancelled", "blocks", "computes"])
def test_one_that_does_not_return_ends_in_time_while_others_go_on(text: str) -> None:
    async def work() -> None:
        providers, other = rude(timeout_s=SHORT_S), rude()
        assert await said(other, "fine") == ("sent", "fine")
        first = asyncio.create_task(said(providers, text))
        while not first.done():
            assert await said(other, "meanwhile") == ("sent", "meanwhile")
        assert await first == ("ambiguous", "no answer within 0.3 s")
        if text != "will not be cancelled":
            error_class, message = await said(providers, "not begun")
            assert (error_class, "blocks its event loop" in message) == ("transient", True)
        Rude.release.set()
        await asyncio.gather(providers.close(), other.close())

    asyncio.run(work())


@pytest.mark.parametrize("user", ["blocks", "exits"])
def test_one_that_cannot_say_whom_it_supports_is_asked_again_later(user: str) -> None:
    async def work() -> None:
        providers = rude(timeout_s=SHORT_S)
        assert (await said(providers, "fine", user))[0] == "transient"
        Rude.release.set()
        assert await said(providers, "fine") == ("sent", "fine")
        await providers.close()

    asyncio.run(work())


def test_while_one_blocks_its_thread_the_next_one_is_asked() -> None:
    blocked = ProviderSettings("", "tests.support.plugins.rude_channels:Rude")
    providers, clock = of(blocked, one("next"), timeout_s=SHORT_S)

    async def work() -> None:
        assert (await said(providers, "blocks"))[0] == "ambiguous"
        found = await asyncio.gather(*(said(providers, "fine") for _ in range(ATTEMPTS_MIN)))
        assert [one for one in found if one[0] == "sent"] == [("sent", "taken")] * 2, "the tenth that failed opens it"
        assert all("blocks its event loop" in message for kind, message in found if kind == "transient")
        assert await said(providers, "fine") == ("sent", "taken")
        clock.now += OPEN_S
        found = await asyncio.gather(*(said(providers, "one of these tries it") for _ in range(3)))
        assert found == [("sent", "taken")] * 3
        Rude.release.set()
        clock.now += OPEN_S
        assert await said(providers, "fine") == ("sent", "fine")
        await providers.close()

    asyncio.run(work())


def test_where_there_is_no_next_one_they_wait_for_it_and_lose_no_attempt() -> None:
    providers, _ = of(ProviderSettings("", "tests.support.plugins.rude_channels:Rude"), timeout_s=SHORT_S)

    async def work() -> None:
        await asyncio.gather(*(said(providers, "blocks") for _ in range(ATTEMPTS_MIN)))
        assert await providers.send(DELIVERY) == Held(OPEN_S)
        Rude.release.set()
        await providers.close()

    asyncio.run(work())


def test_one_of_which_a_half_open_breaker_only_learns_that_it_cannot_reach_somebody_is_tried_again() -> None:
    providers, clock = of(one("a", *["transient"] * ATTEMPTS_MIN, "ok", only="ann"))
    assert times(providers, ATTEMPTS_MIN) == ["transient"] * ATTEMPTS_MIN
    clock.now += OPEN_S
    stranger = msgspec.structs.replace(DELIVERY, recipient=Recipient("bob"))
    assert run(providers.send(stranger)) == [UNREACHABLE]
    assert times(providers, 1) == ["Sent"]


def test_what_runs_on_the_thread_of_all_channels_is_not_asked_of_a_plug_in() -> None:
    async def work() -> None:
        providers = rude()
        assert await said(providers, "fine") == ("sent", "fine")
        assert providers.variables(DELIVERY) == {}
        await providers.close()

    asyncio.run(work())


@types.coroutine
def _turn() -> Generator[None, None, None]:
    yield


def test_one_that_is_thrown_away_unfinished_ends_without_a_word() -> None:
    begun = awaited(_turn)
    begun.send(None)
    begun.close()


def test_a_batch_has_a_size() -> None:
    async def work() -> None:
        uncountable, negative = rude("Uncountable"), rude("Negative")
        error_class, message = await said(uncountable, "fine")
        assert (error_class, "'many'" in message) == ("misconfigured", True)
        assert await said(negative, "fine") == ("sent", "fine")
        assert (uncountable.batch_max, negative.batch_max) == (0, 0)
        await asyncio.gather(uncountable.close(), negative.close())

    asyncio.run(work())


def test_one_that_cannot_be_made_is_misconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        exits, hangs, needy = rude(made="exits"), rude(made="hangs"), rude(made="needs a loop")
        assert await said(exits, "fine") == ("misconfigured", "SystemExit: no licence")
        assert await said(needy, "fine") == ("sent", "fine")
        monkeypatch.setattr(module, "MAKE_S", SHORT_S)
        error_class, message = await said(hangs, "fine")
        assert (error_class, "was not made within 0.3 s" in message) == ("misconfigured", True)
        Rude.release.set()
        await asyncio.gather(exits.close(), hangs.close(), needy.close())

    asyncio.run(work())
