"""Which provider of a channel is asked, and what its answer means for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from shards.breaker import ATTEMPTS_MIN, OPEN_S
from shards.channels.base import Delivery, Recipient, SendError, Sent
from shards.contacts import Contacts
from shards.hidden import disguised
from shards.providers import UNREACHABLE, Held, Outcome, Providers
from shards.settings import ChannelSettings, ProviderSettings
from shards.units import Seconds
from tests.support.scripted import Batched, Blocking, Scripted

DELIVERY = Delivery(
    id="1-pager",
    notification_id="1",
    channel="pager",
    attempt=1,
    recipient=Recipient("ann"),
    category="system",
    type="info",
    priority="normal",
    title="hello",
    text="hello",
)


PAGED = Recipient("ann", Contacts(other={"pager": "1"}))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def one(label: str, *answers: str, kind: str = "Scripted", **more: Any) -> ProviderSettings:
    options = {"label": label, "answers": list(answers) or ["ok"], **more}
    return ProviderSettings("", f"tests.support.scripted:{kind}", options)


def of(*providers: ProviderSettings, timeout_s: float = 5.0, concurrency: int = 64) -> tuple[Providers, Clock]:
    clock = Clock()
    settings = ChannelSettings(providers, concurrency, timeout=Seconds(timeout_s))
    return Providers("pager", settings, {}, clock), clock


def run(*coroutines: Coroutine[Any, Any, Outcome]) -> list[Outcome]:
    async def all_of_them() -> list[Outcome]:
        return [await coroutine for coroutine in coroutines]

    return asyncio.run(all_of_them())


def classes(outcomes: list[Outcome]) -> list[str]:
    return [one.error_class if isinstance(one, SendError) else type(one).__name__ for one in outcomes]


def times(providers: Providers, count: int) -> list[str]:
    return classes(run(*(providers.send(DELIVERY) for _ in range(count))))


def test_the_first_is_asked_as_long_as_it_works() -> None:
    providers, _ = of(one("a"), one("b"))
    assert times(providers, 3) == ["Sent"] * 3
    assert (len(Scripted.asked["a"]), len(Scripted.asked["b"])) == (3, 0)


@pytest.mark.parametrize("error_class", ["transient", "throttled"])
def test_an_open_breaker_hands_over_to_the_next_in_the_very_attempt_that_opens_it(error_class: str) -> None:
    providers, clock = of(one("a", error_class), one("b"))
    found = []
    for _ in range(ATTEMPTS_MIN + 1):
        found += times(providers, 1)
        clock.now += 2.0  # a throttled one asks to be left alone for a second
    if error_class == "transient":
        assert found == ["transient"] * (ATTEMPTS_MIN - 1) + ["Sent"] * 2
    else:
        assert found == ["Sent"] * (ATTEMPTS_MIN + 1), "it is left alone at once"
    assert len(Scripted.asked["a"]) == ATTEMPTS_MIN


def test_it_goes_back_to_the_first_when_that_works_again() -> None:
    providers, clock = of(one("a", *["transient"] * ATTEMPTS_MIN, "ok"), one("b"))
    times(providers, ATTEMPTS_MIN)
    assert times(providers, 2) == ["Sent"] * 2
    assert len(Scripted.asked["a"]) == ATTEMPTS_MIN
    clock.now += OPEN_S
    assert times(providers, 2) == ["Sent"] * 2
    assert len(Scripted.asked["a"]) == ATTEMPTS_MIN + 2
    assert providers.describe()[0]["state"] == "closed"


def test_an_attempt_of_which_nobody_knows_is_never_handed_over() -> None:
    providers, _ = of(one("a", "ambiguous"), one("b"))
    assert times(providers, ATTEMPTS_MIN) == ["ambiguous"] * ATTEMPTS_MIN
    assert Scripted.asked["b"] == []
    assert times(providers, 1) == ["Sent"], "the next attempt is another thing: the breaker is open"


def test_nor_is_it_where_the_credentials_were_refused_meanwhile() -> None:
    providers, _ = of(one("a", "hang", "misconfigured"), one("b"), timeout_s=0.05)

    async def both() -> list[Outcome]:
        return await asyncio.gather(*(providers.send(DELIVERY) for _ in range(2)))

    assert classes(asyncio.run(both())) == ["ambiguous", "Sent"]
    assert len(Scripted.asked["b"]) == 1


@pytest.mark.parametrize("error_class", ["permanent", "bad_address"])
def test_what_is_wrong_with_the_message_is_wrong_everywhere(error_class: str) -> None:
    providers, _ = of(one("a", error_class), one("b"))
    assert times(providers, 2 * ATTEMPTS_MIN) == [error_class] * 2 * ATTEMPTS_MIN
    assert Scripted.asked["b"] == []


def test_with_every_breaker_open_nothing_is_attempted_until_the_first_may_be_asked() -> None:
    providers, clock = of(one("a", "transient"))
    times(providers, ATTEMPTS_MIN)
    clock.now = 7.0
    assert run(providers.send(DELIVERY)) == [Held(OPEN_S)]
    assert len(Scripted.asked["a"]) == ATTEMPTS_MIN


def test_refused_credentials_leave_it_to_the_next_and_the_last_one_tells() -> None:
    providers, _ = of(one("a", "misconfigured"), one("b", "ok", "misconfigured"))
    assert times(providers, 3) == ["Sent", "misconfigured", "misconfigured"]
    assert (len(Scripted.asked["a"]), len(Scripted.asked["b"])) == (1, 2)
    assert [one["state"] for one in providers.describe()] == ["refused", "refused"]
    providers.resume()
    assert times(providers, 1) == ["misconfigured"]
    assert (len(Scripted.asked["a"]), len(Scripted.asked["b"])) == (2, 3)


def test_a_provider_that_cannot_be_made_is_misconfigured() -> None:
    providers, _ = of(ProviderSettings("", "tests.support.scripted:Scripted", {"labl": "x"}))
    (outcome,) = run(providers.send(DELIVERY))
    assert isinstance(outcome, SendError)
    assert (outcome.error_class, "labl" in outcome.message) == ("misconfigured", True)
    providers.resume()
    assert times(providers, 1) == ["misconfigured"]


def test_whom_nobody_supports_is_unreachable_and_others_are_sent_by_who_does() -> None:
    providers, _ = of(one("a", only="bob"), one("b", only="ann"))
    assert times(providers, 1) == ["Sent"]
    assert (Scripted.asked["a"], len(Scripted.asked["b"])) == ([], 1)
    providers, _ = of(one("a", only="bob"))
    assert run(providers.send(DELIVERY)) == [UNREACHABLE]


def test_the_deadline_ends_an_attempt_whose_end_is_not_known() -> None:
    providers, _ = of(one("a", "hang", "ok"), timeout_s=0.05)
    (hung, sent) = run(providers.send(DELIVERY), providers.send(DELIVERY))
    assert isinstance(hung, SendError)
    assert (hung.error_class, hung.message) == ("ambiguous", "no answer within 0.05 s")
    assert sent == Sent("taken")


def test_a_bug_is_transient_and_no_message_has_a_secret() -> None:
    providers, _ = of(one("a", "bug", "permanent", token="s3cr3t!"))
    outcomes = run(providers.send(DELIVERY), providers.send(DELIVERY))
    assert classes(outcomes) == ["transient", "permanent"]
    assert [str(outcome) for outcome in outcomes] == ["RuntimeError: with ***", "no, not with ***"]


def test_nor_has_it_a_secret_in_another_form() -> None:
    """As where a service quotes the header that it did not like."""
    providers, _ = of(ProviderSettings("", "tests.support.leaky:Leaky", {"token": "s3cr3t!", "fails": True}))
    (outcome,) = run(providers.send(msgspec.structs.replace(DELIVERY, recipient=PAGED)))
    assert isinstance(outcome, SendError)
    assert not any(form in outcome.message for form in disguised(["s3cr3t!"]))


@pytest.mark.parametrize("kind", ["Scripted", "Batched"])
def test_a_plug_in_that_cancels_itself_ends_the_attempt_and_no_more(kind: str) -> None:
    providers, clock = of(one("a", *["transient"] * ATTEMPTS_MIN, "cancel", "ok", kind=kind))
    times(providers, ATTEMPTS_MIN)
    for expected in ("ambiguous", "Sent"):
        clock.now += OPEN_S
        found = asyncio.run(providers.send_many([DELIVERY])) if providers.batch_max else run(providers.send(DELIVERY))
        assert classes(found) == [expected]


def test_half_open_not_a_whole_batch_is_tried() -> None:
    Batched.sizes.clear()
    providers, clock = of(one("first", *["transient"] * (ATTEMPTS_MIN + 1), "ok", kind="Batched"))
    times(providers, ATTEMPTS_MIN)
    clock.now = OPEN_S
    assert classes(asyncio.run(providers.send_many([DELIVERY] * 3))) == ["transient", "Held", "Held"]
    assert Batched.sizes == []
    clock.now += OPEN_S
    assert classes(asyncio.run(providers.send_many([DELIVERY] * 3))) == ["Sent", "Held", "Held"]
    assert classes(asyncio.run(providers.send_many([DELIVERY] * 3))) == ["Sent"] * 3
    assert Batched.sizes == [3]


def test_services_of_users_are_not_held_against_each_other() -> None:
    providers, _ = of(one("a", "misconfigured", *["transient"] * 30, kind="OfUsers"))
    assert times(providers, 31) == ["transient"] * 31
    assert providers.describe() == [{"provider": "tests.support.scripted:OfUsers", "state": "closed"}]


def test_a_send_that_blocks_has_a_thread() -> None:
    Blocking.release.clear()
    providers, _ = of(one("a", "hang", "hang", "ok", kind="Blocking"), timeout_s=0.2, concurrency=2)

    async def three() -> list[Outcome]:
        return await asyncio.gather(*(providers.send(DELIVERY) for _ in range(3)))

    try:
        outcomes = asyncio.run(three())
    finally:
        Blocking.release.set()
    assert classes(outcomes) == ["ambiguous", "ambiguous", "transient"]
    assert str(outcomes[2]) == "no thread is free: all wait for the service"


def test_a_batch_has_an_outcome_for_each() -> None:
    providers, _ = of(one("a", "ok", "permanent", "ok", kind="Batched"))
    Batched.sizes.clear()
    assert classes(asyncio.run(providers.send_many([DELIVERY] * 3))) == ["Sent", "permanent", "Sent"]
    assert (Batched.sizes, providers.batch_max) == ([3], 3)


@pytest.mark.parametrize("error_class", ["misconfigured", "throttled"])
def test_a_batch_that_is_refused_goes_one_by_one_to_the_next(error_class: str) -> None:
    """In the very attempt, and from then on."""
    providers, _ = of(one("a", "permanent", "ambiguous", error_class, kind="Batched"), one("b"))
    assert classes(asyncio.run(providers.send_many([DELIVERY] * 3))) == ["permanent", "ambiguous", "Sent"]
    assert classes(asyncio.run(providers.send_many([DELIVERY] * 2))) == ["Sent"] * 2
    assert (len(Scripted.asked["a"]), len(Scripted.asked["b"])) == (3, 3)


def test_closing_is_idempotent() -> None:
    providers, _ = of(one("a"), one("b", kind="Blocking"))
    Scripted.closed.clear()

    async def twice() -> None:
        await providers.close()
        await providers.close()

    asyncio.run(twice())
    assert sorted(Scripted.closed) == ["a", "b"]


def test_one_that_cannot_be_closed_keeps_no_other_from_closing() -> None:
    providers, _ = of(one("a", kind="Clinging"), one("b"))
    Scripted.closed.clear()
    asyncio.run(providers.close())
    assert Scripted.closed == ["b"]


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        (one("a", kind="Odd"), "TypeError: send returned str; it is to return Sent or None, and to raise SendError"),
        (one("a", kind="Odd", only="bob"), "KeyError: 'ann'"),
        (one("a", "temporary"), "ValueError: 'temporary' is no class of errors; there are transient, throttled, "),
    ],
)
def test_a_plug_in_that_does_not_keep_to_the_protocol_is_told_so(provider: ProviderSettings, says: str) -> None:
    providers, _ = of(provider)
    (outcome,) = run(providers.send(DELIVERY))
    assert isinstance(outcome, SendError)
    assert outcome.error_class == "transient"
    assert outcome.message.startswith(says)
