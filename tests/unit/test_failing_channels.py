"""What the shard makes of the answers of services: retries, dead letters, contacts, endpoints, pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shards.answers import ErrorClass
from shards.retry import WEBHOOK_RETRY, RetryPolicy
from shards.sending import Advice
from shards.settings import Bounds, ChannelSettings, Idempotency, ProviderSettings, Retention
from shards.units import Seconds
from tests.support.logs import captured_logs
from tests.support.world import World

Make = Callable[..., World]
DAY = 86_400
LONG: dict[str, Any] = {
    "idempotency": Idempotency(window=Seconds(60.0 * DAY)),
    "retention": Retention(finished=Seconds(60.0 * DAY)),
}


def real(**changes: Any) -> ChannelSettings:
    """A channel that is not simulated; the world stands in for it."""
    provider = ProviderSettings("", "tests.support.scripted:Scripted", {"label": "world"})
    return ChannelSettings((provider,), **changes)


CHANNELS = {name: real() for name in ("email", "push", "webhook")}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Make]:
    made: list[World] = []

    def make(**changes: Any) -> World:
        made.append(World(tmp_path, **{"channels": CHANNELS, **changes}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def said(key: str, channel: str = "email", **more: Any) -> dict[str, Any]:
    return {"idempotency_key": key, "channels": [channel], **more}


def hook(one: World, user_id: str = "ann", url: str = "https://example.org/hook") -> None:
    one.user(user_id, contacts={"webhook": {"url": url}})


def answers(one: World, error_class: ErrorClass, channel: str = "email", advice: Advice | None = None) -> None:
    one.failing, one.error, one.advice = {channel}, error_class, advice


def works(one: World) -> None:
    one.failing = set()


def tokens(one: World) -> list[str]:
    """Of the devices that are used."""
    people = one.core.people
    return [device.token for device in people.recipient(people.user("ann")).contacts.push]


# --- contacts ---------------------------------------------------------------------------------------------------------


def test_a_real_channel_needs_a_contact(world: Make) -> None:
    one = world()
    one.submit(said("k"))
    assert one.outcome("k") == "suppressed:no_contact"


def test_a_bad_address_is_not_used_again_until_it_is_changed(world: Make) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "bad_address")
    one.submit(said("first"))
    works(one)
    assert one.outcome("first") == "dead:bad_address"
    one.submit(said("second"))
    assert one.outcome("second") == "suppressed:bad_address"
    (dead,) = one.ask("user.get", user_id="ann")["not_used"]
    assert (dead["channel"], dead["contact"], dead["error"]) == ("email", "ann@example.org", "no")
    one.restart()
    one.submit(said("third"))
    assert one.outcome("third") == "suppressed:bad_address"
    one.user(contacts={"email": "ann@example.org"}, locale="fr")
    one.submit(said("fourth"))
    assert one.outcome("fourth") == "suppressed:bad_address", "it is the same address"
    one.user(contacts={"email": "ann@example.com"})
    one.submit(said("fifth"))
    assert one.outcome("fifth") == "delivered"
    assert "not_used" not in one.ask("user.get", user_id="ann")
    one.user(contacts={"email": "ann@example.org"})
    one.submit(said("sixth"))
    assert one.outcome("sixth") == "delivered", "what was held against it is forgotten"
    assert one.conserved


def test_only_the_token_that_is_dead_is_left_out(world: Make) -> None:
    one = world()
    devices = [{"provider": "fcm", "token": "old"}, {"provider": "fcm", "token": "new"}]
    one.user(contacts={"push": devices})
    answers(one, "bad_address", "push", Advice(bad=("old",)))
    one.submit(said("first", "push"))
    works(one)
    one.submit(said("second", "push"))
    assert one.outcome("second") == "delivered"
    assert tokens(one) == ["new"]
    answers(one, "bad_address", "push", Advice(bad=("new",)))
    one.submit(said("third", "push"))
    one.submit(said("fourth", "push"))
    assert one.outcome("fourth") == "suppressed:bad_address"


@pytest.mark.parametrize("error_class", ["transient", "ambiguous", "permanent"])
def test_a_dead_token_is_left_out_whatever_became_of_the_other_devices(world: Make, error_class: ErrorClass) -> None:
    one = world()
    one.user(contacts={"push": [{"provider": "fcm", "token": "old"}, {"provider": "fcm", "token": "new"}]})
    answers(one, error_class, "push", Advice(bad=("old",)))
    one.submit(said("k", "push"))
    assert tokens(one) == ["new"]
    one.restart()
    assert tokens(one) == ["new"]


def test_a_token_that_the_user_has_no_more_is_not_held_against_them(world: Make) -> None:
    """Its attempt was under way when the document changed; the device may come back with it."""
    one = world()
    one.user(contacts={"push": [{"provider": "fcm", "token": "new"}]})
    answers(one, "transient", "push", Advice(bad=("old",)))
    one.submit(said("k", "push"))
    assert not list(one.shard.journal.health.health_of("ann"))


def test_a_replay_uses_the_contact_again(world: Make) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "bad_address")
    one.submit(said("k"))
    works(one)
    assert one.ask("dead.replay")["count"] == 1
    assert one.outcome("k") == "delivered"
    one.submit(said("next"))
    assert one.outcome("next") == "delivered"
    assert one.conserved


def test_the_contacts_of_a_user_who_is_deleted_are_forgotten(world: Make) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "bad_address")
    one.submit(said("k"))
    one.ask("user.delete", user_id="ann")
    assert not list(one.shard.journal.health.health_of("ann"))


# --- endpoints --------------------------------------------------------------------------------------------------------


def test_webhooks_are_tried_eight_times_over_a_day_and_a_bit(world: Make) -> None:
    one = world(**LONG)
    hook(one)
    answers(one, "transient", "webhook")
    one.submit(said("k", "webhook"))
    one.advance(2 * DAY)
    assert one.outcome("k") == "dead:max_retries"
    times = one.times("webhook")
    waits = [after - before for before, after in pairwise(times)]
    assert len(times) == 8
    for waited, planned in zip(waits, WEBHOOK_RETRY.schedule, strict=True):
        assert 0.8 * planned - 2 <= waited <= 1.2 * planned + 2


def test_an_endpoint_that_failed_for_days_is_disabled_and_a_success_between_clears_it(
    world: Make,
) -> None:
    one = world(**LONG)
    hook(one)
    answers(one, "transient", "webhook")
    one.submit(said("first", "webhook"))
    one.advance(2 * DAY)
    works(one)
    one.submit(said("fine", "webhook"))
    answers(one, "transient", "webhook")
    one.advance(5 * DAY)
    one.submit(said("second", "webhook"))
    one.advance(2 * DAY)
    one.restart()
    one.submit(said("third", "webhook"))
    one.advance(2 * DAY)
    assert one.outcome("third") == "dead:max_retries"
    one.advance(4 * DAY)
    one.submit(said("fourth", "webhook"))
    with captured_logs() as alerts:
        one.advance(2 * DAY)
    assert one.outcome("fourth") == "dead:max_retries"
    assert [alert["event"] for alert in alerts] == ["an endpoint is disabled"]
    assert one.ask("status", id=alerts[0]["id"])["deliveries"] == [one.status("fourth")["webhook"]]
    one.submit(said("fifth", "webhook"))
    assert one.outcome("fifth") == "suppressed:bad_address"


def test_a_hanging_endpoint_holds_up_its_own_deliveries_only(world: Make) -> None:
    one = world(channels={**CHANNELS, "webhook": real(concurrency=64, per_endpoint=4)})
    hook(one, "ann", "https://slow.example.org/a")
    hook(one, "bob", "https://SLOW.example.org/b")
    hook(one, "eve", "https://fast.example.org/")
    one.submit(*(said(f"w{n}", "webhook", user_id=user) for n in range(3) for user in ("ann", "eve")))
    one.sent.clear()
    one.hold = True
    one.submit(*(said(f"s{n}", "webhook", user_id=("ann", "bob")[n % 2]) for n in range(200)))
    one.submit(*(said(f"f{n}", "webhook", user_id="eve") for n in range(4)))
    assert [sent.said.user_id for sent in one.sent].count("eve") == 4
    assert len(one.sent) == 8
    assert [one.outcome(key, user) for key, user in (("s0", "ann"), ("s199", "bob"))] == ["pending", "pending:endpoint"]
    told = one.ask("status", user_id="bob", idempotency_key="s199")["decisions"]
    waits, _ = [finding for finding in told if finding["reason"] == "endpoint"]
    assert (waits["step"], waits["result"], waits["detail"]["why"]) == ("channel", "defer", "endpoint")
    for user, reason in (("bob", "endpoint"), ("eve", None)):
        last = one.ask("explain", notification={"user_id": user, "title": "x", "channels": ["webhook"]})["decisions"][
            -1
        ]
        assert (last["step"], last["reason"]) == ("outcome", reason)
    one.hold = False
    one.advance(1)
    assert {one.outcome(f"s{n}", ("ann", "bob")[n % 2]) for n in range(200)} == {"delivered"}
    order = [sent.said.idempotency_key for sent in one.sent if sent.said.user_id == "ann"]
    assert order == sorted(order, key=lambda key: int((key or "s0")[1:])), "O: as they were accepted"


def test_what_waits_for_an_endpoint_can_be_cancelled_and_expires(world: Make) -> None:
    one = world(channels={**CHANNELS, "webhook": real(per_endpoint=1)})
    hook(one)
    one.hold = True
    expires = one.now_us // 1000 + 5_000
    one.submit(said("first", "webhook"), said("off", "webhook"), said("late", "webhook", expires_at=expires))
    assert one.ask("cancel", user_id="ann", idempotency_key="off")["cancelled"] == 1
    one.advance(10)
    one.hold = False
    one.advance(10)
    assert [one.outcome(key) for key in ("first", "off", "late")] == [
        "delivered", "cancelled:cancelled", "expired:expires_at",
    ]  # fmt: skip
    assert one.conserved


def test_those_behind_many_that_were_cancelled_start_at_once(world: Make) -> None:
    one = world(channels={**CHANNELS, "webhook": real(concurrency=4)})
    hook(one)
    one.hold = True
    one.submit(*(said(f"k{n}", "webhook") for n in range(50)))
    for number in range(1, 49):
        one.ask("cancel", user_id="ann", idempotency_key=f"k{number}")
    one.hold = False
    one.run()
    assert one.outcome("k49") == "delivered"
    assert one.core.in_flight[one.core.channel_names.index("webhook")] == 0


def test_what_finds_no_place_even_to_wait_is_on_disk(world: Make) -> None:
    one = world(bounds=Bounds(retrying=1_000))
    hook(one)
    one.hold = True
    one.submit(*(said(f"k{n}", "webhook") for n in range(1_500)))
    assert one.outcome("k1400") == "deferred:endpoint"
    assert one.core.deferrals.counts.total() == 1_500 - 1 - 500
    one.restart()
    one.hold = False
    one.advance(10)
    assert len(one.sent) == 1_500 + 1
    assert one.outcome("k1499") == "delivered"
    assert one.conserved


def test_ten_thousand_for_one_endpoint_wait_for_nothing_but_its_answers(world: Make) -> None:
    one = world()
    hook(one)
    for first in range(0, 10_000, 1_000):
        one.submit(*(said(f"k{n}", "webhook") for n in range(first, first + 1_000)))
    one.advance(1)
    assert len(one.sent) == 10_000
    assert one.conserved


def test_endpoints_that_hang_take_no_place_of_those_that_answer(world: Make) -> None:
    one = world(channels={**CHANNELS, "webhook": real(concurrency=16)})
    hook(one, "eve", "https://fast.example.org/")
    one.submit(said("first", "webhook", user_id="eve"))
    for number in range(50):
        hook(one, f"u{number}", f"https://u{number}.example.org/")
    one.hold = True
    one.submit(*(said(f"k{n}", "webhook", user_id=f"u{n % 50}") for n in range(500)))
    one.submit(said("second", "webhook", user_id="eve"))
    assert one.sent[-1].said.user_id == "eve"
    assert len(one.sent) == 1 + 8 + 1


def test_what_waits_for_its_endpoint_goes_at_the_pace_of_the_channel(world: Make) -> None:
    one = world(channels={**CHANNELS, "webhook": real(rate="10/second", burst=5)})
    hook(one)
    one.submit(*(said(f"k{n}", "webhook") for n in range(20)))
    one.advance(2)
    times = [sent.at_us for sent in one.sent]
    assert len(times) == 20
    assert all(99_000 <= later - before <= 102_000 for before, later in pairwise(times[5:]))


def test_after_a_reload_with_fewer_places_half_of_those_are_for_endpoints_that_answer(world: Make) -> None:
    one = world(channels={**CHANNELS, "webhook": real(concurrency=16)})
    for number in range(50):
        hook(one, f"u{number}", f"https://u{number}.example.org/")
    webhook = {"webhook": real(concurrency=4)}
    one.shard.reconfigure(msgspec.structs.replace(one.settings, channels=CHANNELS | webhook), one.now)
    one.hold = True
    one.submit(*(said(f"k{n}", "webhook", user_id=f"u{n % 50}") for n in range(100)))
    assert len(one.sent) == 2


def test_those_that_wait_and_new_ones_go_in_turns(world: Make) -> None:
    """Otherwise endpoints that always have something waiting would keep out all others."""
    one = world(channels={**CHANNELS, "webhook": real(concurrency=2)})
    hook(one, "ann", "https://busy.example.org/")
    hook(one, "eve", "https://other.example.org/")
    one.submit(*(said(f"k{n}", "webhook") for n in range(200)), said("new", "webhook", user_id="eve"))
    one.advance(1)
    users = [sent.said.user_id for sent in one.sent]
    assert users.index("eve") < 20


def test_an_endpoint_that_asks_for_patience_gets_it_and_others_of_its_host_do_not_wait(world: Make) -> None:
    one = world()
    hook(one, "ann", "https://shared.example.org/ann")
    hook(one, "eve", "https://shared.example.org/eve")
    answers(one, "throttled", "webhook", Advice(retry_after_s=7_200.0))
    one.submit(said("first", "webhook"))
    works(one)
    one.submit(said("second", "webhook"), said("other", "webhook", user_id="eve"))
    assert (one.outcome("second"), one.outcome("other", "eve")) == ("deferred:endpoint", "delivered")
    one.advance(7_100)
    assert len(one.times("webhook")) == 2
    one.advance(102)
    assert {one.outcome(key) for key in ("first", "second")} == {"delivered"}
    assert one.conserved


def test_what_waits_on_disk_for_its_endpoint_keeps_what_went_wrong(world: Make) -> None:
    one = world()
    hook(one)
    answers(one, "transient", "webhook")
    one.submit(said("first", "webhook"))
    answers(one, "throttled", "webhook", Advice(retry_after_s=7_200.0))
    one.submit(said("second", "webhook"))
    one.advance(60)
    status = one.status("first")["webhook"]
    assert (status["outcome"], status["attempts"], status["last_error"]) == ("deferred", 1, "no")


def test_a_critical_one_goes_before_all_that_wait_for_its_endpoint(world: Make) -> None:
    one = world(channels={**CHANNELS, "webhook": real(per_endpoint=8)})
    hook(one)
    one.hold = True
    one.submit(*(said(f"k{n}", "webhook", priority="low") for n in range(1_500)))
    one.submit(said("urgent", "webhook", priority="critical"))
    one.hold = False
    one.run()
    assert one.sent[1].said.idempotency_key == "urgent", "P: one is under way when it comes"
    assert one.conserved


def test_long_waits_for_endpoints_that_fail_hold_up_no_others(world: Make) -> None:
    one = world(**LONG, bounds=Bounds(retrying=10))
    for number in range(30):
        hook(one, f"u{number}", f"https://u{number}.example.org/")
    answers(one, "ambiguous", "webhook")  # to be left alone for more than a minute
    one.submit(*(said("k", "webhook", user_id=f"u{number}") for number in range(29)))
    one.advance(120)
    works(one)
    one.submit(said("k", "webhook", user_id="u29"))
    assert one.outcome("k", "u29") == "delivered"
    assert one.outcome("k", "u28") == "deferred:retry"
    status = one.status("k", "u28")["webhook"]
    assert (status["attempts"], status["last_error"]) == (2, "no")
    one.advance(DAY)
    assert {one.outcome("k", f"u{number}") for number in range(30)} == {"delivered"}
    assert {one.status("k", f"u{number}")["webhook"]["attempts"] for number in range(29)} == {3}
    assert one.conserved


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked_s", "waits_s"), [(10.0, 60), (600.0, 600), (10.0 * DAY, DAY)])
def test_what_a_service_asks_for_is_honoured_up_to_a_day(world: Make, asked_s: float, waits_s: int) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "throttled", advice=Advice(retry_after_s=asked_s))
    one.submit(said("k"))
    works(one)
    one.advance(2 * DAY)
    first, second = one.times()
    assert second - first == waits_s


def test_a_long_patience_survives_a_restart(world: Make) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "throttled", advice=Advice(retry_after_s=7_200.0))
    one.submit(said("k"))
    works(one)
    one.restart()
    one.advance(7_100)
    assert len(one.times()) == 1
    one.advance(101)
    assert one.outcome("k") == "delivered"


def test_a_webhook_that_did_not_answer_is_left_alone_for_a_minute(world: Make) -> None:
    one = world()
    hook(one)
    answers(one, "ambiguous", "webhook")
    one.submit(said("k", "webhook"))
    works(one)
    one.advance(DAY)
    first, second = one.times("webhook")
    assert second - first == 60


def test_what_nobody_knows_the_end_of_can_be_held_for_a_person(world: Make) -> None:
    one = world(channels={"email": real(on_ambiguous="hold")})
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "ambiguous")
    one.submit(said("k"))
    assert one.outcome("k") == "dead:ambiguous"
    works(one)
    one.ask("dead.replay")
    assert one.outcome("k") == "delivered"


def test_nor_is_what_was_under_way_when_the_shard_died_sent_again_then(world: Make) -> None:
    one = world(channels={"email": real(on_ambiguous="hold"), "webhook": real()})
    one.user(contacts={"email": "ann@example.org", "webhook": {"url": "https://example.org/"}})
    for channel in one.shard.channels.values():
        channel.harmless = False
    one.hold = True
    one.submit(said("k"), said("other", "webhook"), said("waits", "inapp"))
    one.hold = False
    one.restart()
    assert (one.outcome("k"), one.outcome("other")) == ("dead:ambiguous", "delivered")
    assert len(one.times()) == 1
    assert one.conserved
    one.ask("dead.replay")
    assert one.outcome("k") == "delivered"


def test_nor_what_was_given_up_at_the_end_of_a_stop(world: Make) -> None:
    one = world(channels={"email": real(on_ambiguous="hold"), "webhook": real()})
    one.user(contacts={"email": "ann@example.org", "webhook": {"url": "https://example.org/"}})
    for channel in one.shard.channels.values():
        channel.harmless = False
    one.hold = True
    one.submit(said("k"), said("other", "webhook"))
    one.hold = False
    one.close()
    one.restart()
    assert (one.outcome("k"), one.outcome("other")) == ("dead:ambiguous", "delivered")


def test_a_channel_may_have_a_policy_of_its_own(world: Make) -> None:
    own = RetryPolicy(schedule=(Seconds(7.0), Seconds(11.0)), jitter="none")
    one = world(channels={"email": real(retry=own)})
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "transient")
    one.submit(said("k"))
    one.advance(DAY)
    start = one.times()[0]
    assert [at - start for at in one.times()] == [0, 7, 18]


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_refused_credentials_pause_the_channel_and_burn_no_attempt(world: Make) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    hook(one, "bob")
    answers(one, "misconfigured")
    one.submit(said("first"), said("second"), said("other", "webhook", user_id="bob"))
    one.advance(DAY)
    assert len(one.times()) == 2
    status = one.status("first")["email"]
    assert (status["outcome"], status["reason"], status["attempts"]) == ("pending", "channel_paused", 0)
    assert status["last_error"] == "no"
    told = one.ask("status", user_id="ann", idempotency_key="first")["decisions"]
    (channel,) = [finding for finding in told if finding["step"] == "channel"]
    assert (channel["result"], channel["detail"]["why"]) == ("defer", "misconfigured")
    told = one.ask("explain", notification={"user_id": "ann", "title": "x", "channels": ["email"]})["decisions"]
    assert ["defer", "channel_paused"] in [[finding["result"], finding["reason"]] for finding in told]
    assert one.outcome("other", "bob") == "delivered"
    pause = one.core.paused[one.core.channel_names.index("email")]
    assert (pause.reason, pause.message) == ("misconfigured", "no")
    works(one)
    one.shard.pauses.resume("email")
    one.run()
    assert (one.outcome("first"), one.outcome("second")) == ("delivered", "delivered")
    order = [sent.said.idempotency_key for sent in one.sent if sent.channel == "email"]
    assert order == ["first", "second"] * 2, "O: as they were accepted"
    assert one.status("first")["email"]["attempts"] == 1
    assert one.conserved


def test_a_restart_or_another_configuration_tries_refused_credentials_again(world: Make) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "misconfigured")
    one.submit(said("first"))
    works(one)
    one.restart()
    assert one.outcome("first") == "delivered"
    answers(one, "misconfigured")
    one.submit(said("second"))
    works(one)
    one.shard.reconfigure(one.settings, one.now)  # only templates were put
    one.run()
    assert one.outcome("second") == "pending:channel_paused"
    one.shard.reconfigure(msgspec.structs.replace(one.settings, reads=1), one.now)
    one.run()
    assert one.outcome("second") == "delivered"


def test_what_an_operator_pauses_stays_so(world: Make) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    one.shard.pauses.pause("email", one.now)
    one.turn()
    one.submit(said("k"), said("inbox", "inapp"))
    one.restart()
    one.shard.reconfigure(msgspec.structs.replace(one.settings, reads=1), one.now)
    one.advance(DAY)
    assert (one.outcome("k"), one.outcome("inbox")) == ("pending:channel_paused", "delivered")
    assert one.ask("cancel", user_id="ann", idempotency_key="k")["cancelled"] == 1
    one.submit(said("next"))
    one.shard.pauses.resume("email")
    one.run()
    assert (one.outcome("k"), one.outcome("next")) == ("cancelled:cancelled", "delivered")
    one.restart()
    one.submit(said("last"))
    assert one.outcome("last") == "delivered"


def test_the_inbox_can_be_paused_too(world: Make) -> None:
    one = world()
    one.shard.pauses.pause("inapp", one.now)
    one.submit(said("k", "inapp"))
    assert one.inbox() == []
    one.shard.pauses.resume("inapp")
    one.run()
    assert [item["title"] for item in one.inbox()] == ["hello"]


def test_a_delivery_cancelled_while_credentials_are_refused_ends_so(world: Make) -> None:
    one = world()
    one.user(contacts={"email": "ann@example.org"})
    answers(one, "misconfigured")
    one.hold = True
    one.submit(said("k"))
    assert one.ask("cancel", user_id="ann", idempotency_key="k")["cancelled"] == 0
    one.hold = False
    one.run()
    assert one.outcome("k") == "cancelled:cancelled"
    assert one.conserved
