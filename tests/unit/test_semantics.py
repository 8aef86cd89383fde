"""The rules of preferences, limits, digests, schedules and idempotency, sentence by sentence.

Each test's docstring, or its row's id, quotes the sentence that it shows. A shard with its journal runs in all of them;
only the clock and the providers are the test's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.caps import CapSettings
from shards.digests import DigestSettings
from shards.limiter import RateLimit
from shards.rules import Category
from shards.settings import PreferenceSettings, Schedules
from shards.units import Seconds
from shards.wire.link import Rejection
from tests.support.simulated import simulated
from tests.support.world import World, instant_us

Make = Callable[..., World]
EMAIL: dict[str, Any] = {"channels": ["email"]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Make]:
    made: list[World] = []

    def make(**changes: Any) -> World:
        made.append(World(tmp_path, **changes))
        return made[-1]

    yield make
    for one in made:
        assert one.conserved
        one.close()


def email(key: str, **fields: Any) -> dict[str, Any]:
    return {**EMAIL, "idempotency_key": key, **fields}


def seconds(text: str) -> int:
    return instant_us(text) // 1_000_000


# --- preferences and contacts -----------------------------------------------------------------------------------------


def test_unset_means_allowed(world: Make) -> None:
    one = world()
    one.user(locale="fr")
    one.submit({"idempotency_key": "k", "category": "marketing"})
    assert one.outcomes("k") == {"email": "delivered", "inapp": "delivered"}


@pytest.mark.parametrize(
    ("preferences", "blocked"),
    [
        pytest.param({"channels": {"email": False}}, {"email"}, id="any false that applies blocks: channel"),
        pytest.param({"categories": {"marketing": False}}, {"email", "inapp"}, id="any false blocks: category"),
        pytest.param({"categories": {"marketing": {"email": False}}}, {"email"}, id="blocks: category x channel"),
        pytest.param({"channels": {"email": True}, "categories": {"marketing": False}}, {"email", "inapp"}, id="any"),
        pytest.param({"categories": {"system": False, "marketing": {"sms": False}}}, set(), id="that applies"),
    ],
)
def test_any_false_that_applies_blocks(world: Make, preferences: dict[str, Any], blocked: set[str]) -> None:
    one = world()
    one.user(preferences=preferences)
    one.submit({"idempotency_key": "k", "category": "marketing"})
    expected = {name: "suppressed:preference" if name in blocked else "delivered" for name in ("email", "inapp")}
    assert one.outcomes("k") == expected


ALWAYS = {"start": "00:00", "end": "23:59"}


def test_override_preferences_ignores_preferences_and_quiet_hours(world: Make) -> None:
    """A category with `override_preferences` (security) ignores preferences and quiet hours."""
    one = world(categories={"alarm": Category(channels=("email",), priority="low", override_preferences=True)})
    one.user(preferences={"channels": {"email": False}, "quiet_hours": ALWAYS})
    one.submit({"idempotency_key": "k", "category": "alarm"})
    assert one.outcome("k") == "delivered"


def test_critical_ignores_quiet_hours(world: Make) -> None:
    """`critical` priority ignores quiet hours: and nothing else."""
    one = world()
    one.user(preferences={"quiet_hours": ALWAYS, "channels": {"sms": False}})
    one.submit(
        email("critical", priority="critical"),
        email("high", priority="high"),
        {"idempotency_key": "sms", "channels": ["sms"], "priority": "critical"},
    )
    outcomes = [one.outcome(key) for key in ("critical", "high", "sms")]
    assert outcomes == ["delivered", "deferred:quiet_hours", "suppressed:preference"]


QUIET = [
    # what is shown, the zone, start, end, days, when it is submitted, when it is released (None: at once)
    ("defer to the window's end", "UTC", "12:00", "14:00", None, "2026-01-05T13:00Z", "2026-01-05T14:00Z"),
    ("before it is not quiet", "UTC", "12:00", "14:00", None, "2026-01-05T11:59:59Z", None),
    ("at its first instant it is", "UTC", "12:00", "14:00", None, "2026-01-05T12:00Z", "2026-01-05T14:00Z"),
    ("at its end it is not", "UTC", "12:00", "14:00", None, "2026-01-05T14:00Z", None),
    ("the user's IANA zone", "Asia/Kolkata", "22:00", "08:00", None, "2026-01-05T17:00Z", "2026-01-06T02:30Z"),
    ("overnight wrap, the evening", "UTC", "22:00", "08:00", None, "2026-01-05T23:00Z", "2026-01-06T08:00Z"),
    ("overnight wrap, the morning", "UTC", "22:00", "08:00", None, "2026-01-06T07:00Z", "2026-01-06T08:00Z"),
    ("days: the day it starts", "UTC", "22:00", "08:00", ["fri"], "2026-01-10T01:00Z", "2026-01-10T08:00Z"),
    ("days: no other", "UTC", "22:00", "08:00", ["fri"], "2026-01-09T01:00Z", None),
    # Paris: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00
    ("put forward: across", "Europe/Paris", "22:00", "08:00", None, "2026-03-28T22:00Z", "2026-03-29T06:00Z"),
    ("put forward: end skipped", "Europe/Paris", "22:00", "02:30", None, "2026-03-28T22:00Z", "2026-03-29T01:00Z"),
    ("put forward: start skipped", "Europe/Paris", "02:30", "06:00", None, "2026-03-29T01:30Z", "2026-03-29T04:00Z"),
    ("put forward: all skipped", "Europe/Paris", "02:10", "02:50", None, "2026-03-29T01:00Z", None),
    ("put back: across", "Europe/Paris", "22:00", "08:00", None, "2026-10-24T21:00Z", "2026-10-25T07:00Z"),
    ("put back: end comes twice", "Europe/Paris", "22:00", "02:30", None, "2026-10-24T21:00Z", "2026-10-25T01:30Z"),
    ("put back: start comes twice", "Europe/Paris", "02:30", "06:00", None, "2026-10-25T00:45Z", "2026-10-25T05:00Z"),
    ("put forward in New York", "America/New_York", "22:00", "08:00", None, "2026-03-08T04:00Z", "2026-03-08T12:00Z"),
    ("put back in New York", "America/New_York", "22:00", "08:00", None, "2026-11-01T03:00Z", "2026-11-01T13:00Z"),
    ("start == end: never quiet", "UTC", "08:00", "08:00", None, "2026-01-05T08:00Z", None),
    ("start == end: midnight", "UTC", "00:00", "00:00", None, "2026-01-05T00:00Z", None),
    ("into the leap day", "UTC", "22:00", "08:00", None, "2028-02-28T23:00Z", "2028-02-29T08:00Z"),
    ("out of the leap day", "UTC", "22:00", "08:00", ["tue"], "2028-02-29T23:00Z", "2028-03-01T08:00Z"),
    ("no leap day in 2100's neighbour", "UTC", "22:00", "08:00", None, "2027-02-28T23:00Z", "2027-03-01T08:00Z"),
    ("into the next year", "UTC", "22:00", "08:00", None, "2026-12-31T23:00Z", "2027-01-01T08:00Z"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "start", "end", "days", "submitted", "released"), [row[1:] for row in QUIET], ids=[row[0] for row in QUIET]
)
def test_quiet_hours_defer_and_never_drop(
    world: Make, zone: str, start: str, end: str, days: list[str] | None, submitted: str, released: str | None
) -> None:
    one = world(at=submitted)
    one.user(
        timezone=zone, preferences={"quiet_hours": {"start": start, "end": end, **({"days": days} if days else {})}}
    )
    one.submit(email("k"))
    if released is not None:
        assert one.outcome("k") == "deferred:quiet_hours"
        assert one.status("k")["email"]["next_attempt_at"] == seconds(released) * 1000
        one.restart()
        one.until(released)
    assert one.outcome("k") == "delivered"
    assert one.times() == [seconds(released or submitted)]


def test_the_users_zone_then_the_default_then_utc(world: Make) -> None:
    """User's IANA zone, then the configured default, then UTC."""
    quiet = {"quiet_hours": {"start": "22:00", "end": "08:00"}}
    one = world(at="2026-01-05T12:00:00Z", preferences=PreferenceSettings(timezone="Asia/Tokyo"))  # 21:00 there
    one.user("zoned", timezone="Pacific/Auckland", preferences=quiet)  # 01:00
    one.user("default", preferences=quiet)
    one.submit(email("z", user_id="zoned"), email("d", user_id="default"))
    one.advance(3600)
    one.submit(email("d2", user_id="default"))
    found = one.outcome("z", "zoned"), one.outcome("d", "default"), one.outcome("d2", "default")
    assert found == ("deferred:quiet_hours", "delivered", "deferred:quiet_hours")
    one.restart(preferences=PreferenceSettings())
    one.submit(email("u", user_id="default"))  # 13:00 in UTC
    assert one.outcome("u", "default") == "delivered"


def test_inapp_and_webhook_are_not_quieted(world: Make) -> None:
    one = world()
    one.user(preferences={"quiet_hours": ALWAYS})
    channels = ["inapp", "webhook", "email", "sms", "push", "system"]
    one.submit({"idempotency_key": "k", "channels": channels})
    quieted = {name for name, outcome in one.outcomes("k").items() if outcome == "deferred:quiet_hours"}
    assert quieted == {"email", "sms", "push", "system"}


def test_on_release_expiry_and_preferences_are_checked_again(world: Make) -> None:
    one = world(at="2026-01-05T13:00:00Z")
    quiet = {"quiet_hours": {"start": "12:00", "end": "14:00"}}
    one.user("changes", preferences=quiet)
    one.user("leaves", contacts={"email": "a@b.example"}, preferences=quiet)
    one.user(preferences=quiet)
    one.submit(
        email("k"),
        email("soon", expires_at="2026-01-05T13:30:00Z"),
        email("later", expires_at="2026-01-05T14:30:00Z"),
        email("k", user_id="changes"),
        email("k", user_id="leaves"),
    )
    one.user("changes", preferences={"channels": {"email": False}})
    one.user("leaves", contacts={"phone": "+33612345678"})
    one.until("2026-01-05T14:00:00Z")
    assert [one.outcome(key) for key in ("k", "soon", "later")] == ["delivered", "expired:expires_at", "delivered"]
    assert one.outcome("k", "changes") == "suppressed:preference"
    assert one.outcome("k", "leaves") == "suppressed:no_contact"
    assert len(one.sent) == 2


def test_a_longer_quiet_time_defers_anew(world: Make) -> None:
    """On release, preferences are checked again: quiet hours among them."""
    one = world(at="2026-01-05T13:00:00Z")
    one.user(preferences={"quiet_hours": {"start": "12:00", "end": "14:00"}})
    one.submit(email("k"))
    one.user(preferences={"quiet_hours": {"start": "12:00", "end": "16:00"}})
    one.until("2026-01-05T18:00:00Z")
    assert one.times() == [seconds("2026-01-05T16:00:00Z")]


@pytest.mark.parametrize(
    ("contacts", "reached"),
    [
        ({"email": "a@b.example"}, {"email"}),
        ({"phone": "+33612345678"}, {"sms"}),
        ({"push": [{"provider": "fcm", "token": "t"}]}, {"push"}),
        ({"webhook": {"url": "https://a.example", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}, {"webhook"}),
    ],
    ids=["e-mail", "phone", "push", "webhook"],
)
def test_without_a_contact_suppressed_no_contact(world: Make, contacts: dict[str, Any], reached: set[str]) -> None:
    """A user without a contact for a channel: outcome `suppressed` with reason `no_contact`, visible in `status`."""
    one = world()
    one.user(contacts=contacts)
    need = ["email", "sms", "push", "webhook"]
    one.submit({"idempotency_key": "k", "channels": [*need, "inapp", "system"]})
    expected = {name: "delivered" if name in reached else "suppressed:no_contact" for name in need}
    assert one.outcomes("k") == {**expected, "inapp": "delivered", "system": "delivered"}


# --- limits -----------------------------------------------------------------------------------------------------------

TWO_A_MINUTE = {"email": RateLimit("2/minute")}


def test_limits_are_per_user_and_channel(world: Make) -> None:
    """`rate_limits`: per user and channel."""
    one = world(rate_limits=TWO_A_MINUTE)
    one.submit(*(email(f"k{n}", channels=["email", "sms"]) for n in range(3)), email("k", user_id="bob"))
    assert [one.outcomes(f"k{n}")["email"] for n in range(3)] == ["delivered", "delivered", "rate_limited:limit"]
    assert {one.outcomes(f"k{n}")["sms"] for n in range(3)} == {one.outcome("k", "bob")} == {"delivered"}


def test_at_most_burst_and_rate_times_t_pass(world: Make) -> None:
    """In any window of t at most burst + rate x t pass, burst = N by default."""
    one = world(rate_limits=TWO_A_MINUTE)
    for n in range(300):
        one.submit(email(f"k{n}"))
        one.advance(1)
    times = one.times()
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= 2 + 2 / 60 * (times[last] - times[first])
    assert len(times) == 2 + 300 // 30 - 1


def test_retries_are_free(world: Make) -> None:
    """Charged once, at the decision; retries are free; no refunds."""
    one = world(rate_limits={"email": RateLimit("2/day")})
    one.failing = {"email"}
    one.submit(email("k1"))
    one.advance(120)
    one.restart()
    one.advance(120)
    assert len(one.sent) == 5
    one.failing = set()
    one.submit(email("k2"), email("k3"))
    assert (one.outcome("k2"), one.outcome("k3")) == ("delivered", "rate_limited:limit")


def test_no_refunds(world: Make) -> None:
    """Charged once, at the decision; no refunds."""
    one = world(rate_limits={"email": RateLimit("1/day")})
    one.failing = {"email"}
    one.submit(email("k1"))
    one.ask("cancel", user_id="ann", idempotency_key="k1")
    one.submit(email("k2"))
    assert (one.outcome("k1"), one.outcome("k2")) == ("cancelled:cancelled", "rate_limited:limit")


def test_what_was_spent_is_spent_after_a_kill(world: Make) -> None:
    """After a kill: the last snapshot plus the ledger since; where unsure, it counts as spent."""
    caps = {"c": CapSettings(limit=3, window=Seconds(3600.0), channels=("sms",))}
    one = world(rate_limits={"email": RateLimit("2/hour")}, caps=caps)
    one.submit(email("k1"), email("k2"), *({"idempotency_key": f"s{n}", "channels": ["sms"]} for n in range(3)))
    one.restart()
    one.submit(email("k3"), {"idempotency_key": "s3", "channels": ["sms"]})
    assert (one.outcome("k3"), one.outcome("s3")) == ("rate_limited:limit", "rate_limited:cap")


def test_overflow_delay(world: Make) -> None:
    """`overflow = "delay"`: sent when it conforms, in the order of acceptance."""
    one = world(rate_limits={"email": RateLimit("2/minute", overflow="delay")})
    one.submit(*(email(f"k{n}", title=str(n)) for n in range(5)))
    assert one.outcome("k2") == "deferred:limit"
    start = one.times()[0]
    one.restart()
    one.advance(300)
    assert [at - start for at in one.times()] == [0, 0, 30, 60, 90]
    assert [sent.said.title for sent in one.sent] == ["0", "1", "2", "3", "4"]


def test_overflow_inapp(world: Make) -> None:
    """`overflow = "inapp"`: into the inbox instead, or `rate_limited` if that is planned already."""
    one = world(rate_limits={"email": RateLimit("1/hour", overflow="inapp")})
    one.submit(email("k1"), email("k2"), email("k3", channels=["email", "inapp"]))
    assert one.outcomes("k2") == {"inapp": "delivered:overflow"} or one.outcomes("k2") == {"inapp": "delivered"}
    assert one.outcomes("k3") == {"email": "rate_limited:limit", "inapp": "delivered"}
    assert len(one.inbox()) == 2


def test_overflow_digest(world: Make) -> None:
    """`overflow = "digest"`: what exceeds is summed up."""
    digest = DigestSettings(template="t", window=Seconds(600.0), when="overflow")
    one = world(rate_limits={"email": RateLimit("1/hour", overflow="digest")}, digests={"d": digest})
    one.submit(*(email(f"k{n}") for n in range(4)))
    assert [one.outcome(f"k{n}") for n in range(4)] == ["delivered", *["deferred:digest"] * 3]
    one.advance(600)
    # the digest itself exceeds the limit as well, and there is nothing further to put it into: it waits for room
    assert [one.outcome(f"k{n}") for n in range(1, 4)] == ["deferred:limit", *["deferred:digest"] * 2]
    one.advance(3600)
    assert {one.outcome(f"k{n}") for n in range(1, 4)} == {"delivered"}


def test_exempt_priorities_pass_and_count(world: Make) -> None:
    """`critical` may be exempt (`exempt = ["critical"]`), but still counts."""
    one = world(rate_limits={"email": RateLimit("2/hour", exempt=("critical",))})
    one.submit(*(email(f"c{n}", priority="critical") for n in range(3)), email("k"))
    assert {one.outcome(f"c{n}") for n in range(3)} == {"delivered"}
    assert one.outcome("k") == "rate_limited:limit"


def test_caps_count_across_categories_and_channels(world: Make) -> None:
    """`caps`: per user across categories and channels, for example 5 marketing messages a day; exact windows."""
    cap = CapSettings(limit=3, window=Seconds(3600.0), categories=("marketing", "system"), channels=("email", "sms"))
    one = world(caps={"c": cap})
    for n, (category, channel) in enumerate((("marketing", "email"), ("system", "sms"), ("marketing", "sms"))):
        one.submit({"idempotency_key": f"k{n}", "category": category, "channels": [channel]})
        one.advance(600)
    one.submit(email("over", category="system"), email("other", category="transaction"), email("k", user_id="bob"))
    assert (one.outcome("over"), one.outcome("other"), one.outcome("k", "bob")) == (
        "rate_limited:cap", "delivered", "delivered",
    )  # fmt: skip
    one.advance(1800 - 1)  # one second before the first one is an hour old
    one.submit(email("early"))
    one.advance(1)
    one.submit(email("again"), email("too much"))
    assert [one.outcome(key) for key in ("early", "again", "too much")] == [
        "rate_limited:cap", "delivered", "rate_limited:cap",
    ]  # fmt: skip


def test_provider_limits_hold_for_all_users_together(world: Make) -> None:
    """Provider limits: per channel over all users of the machine, divided over shards: what exceeds waits."""
    slow = simulated(rate="10/second", burst=1)
    one = world(channels={"email": slow}, shards=1)
    one.submit(*(email(f"k{n}", user_id=f"user-{n}") for n in range(40)))
    one.advance(10)
    first = one.sent[0].at_us
    assert len(one.sent) == 40
    assert max(at for _, at in ((n, sent.at_us - first - 100_000 * n) for n, sent in enumerate(one.sent))) >= -1_000
    assert one.sent[-1].at_us - first >= 3_800_000


# --- digest -----------------------------------------------------------------------------------------------------------

HOUR = DigestSettings(template="digest", window=Seconds(3600.0))


def said(one: World, at: int = 0) -> dict[str, Any]:
    payload = one.sent[at].said.payload
    assert payload is not None
    return payload


def titles(payload: dict[str, Any]) -> list[str]:
    return [item["title"] for item in payload["items"]]


def test_the_key_of_a_digest(world: Make) -> None:
    """Key: user + channel + category + an optional payload key."""
    one = world(digests={"d": DigestSettings(template="digest", key="thread", window=Seconds(3600.0))})
    one.submit(
        email("a1", title="a1", payload={"thread": 1}),
        email("a2", title="a2", payload={"thread": 1}),
        email("thread", title="thread", payload={"thread": 2}),
        email("none", title="none"),
        email("category", title="category", category="marketing", payload={"thread": 1}),
        email("sms", title="sms", channels=["sms"], payload={"thread": 1}),
        email("user", title="user", user_id="bob", payload={"thread": 1}),
    )
    one.advance(3600)
    found = sorted((sent.channel, titles(sent.said.payload or {})) for sent in one.sent)
    assert found == sorted(
        [("email", ["a1", "a2"]), *(("email", [name]) for name in ("thread", "none", "category", "user")),
         ("sms", ["sms"])]
    )  # fmt: skip


def test_the_window_opens_at_the_first_event_and_is_fixed(world: Make) -> None:
    one = world(digests={"d": HOUR})
    start = one.now_us // 1_000_000
    for n in range(8):
        one.submit(email(f"k{n}"))
        one.advance(600)
    one.advance(3600)
    assert [at - start for at in one.times()] == [3600, 3600 + 3600]
    assert [payload["count"] for payload in (said(one, 0), said(one, 1))] == [6, 2]
    assert {one.outcome(f"k{n}") for n in range(8)} == {"delivered"}


def test_leading_sends_the_first_at_once_and_digests_the_rest(world: Make) -> None:
    """Optional "leading" mode sends the first at once and digests the rest."""
    one = world(digests={"d": DigestSettings(template="digest", window=Seconds(3600.0), leading=True)})
    one.submit(*(email(f"k{n}", title=str(n)) for n in range(3)))
    assert [sent.said.title for sent in one.sent] == ["0"]
    one.restart()
    one.advance(3600)
    assert len(one.sent) == 2
    assert titles(said(one, 1)) == ["1", "2"]
    one.submit(email("k3", title="3"))
    assert one.sent[-1].said.title == "3"


def test_a_leading_one_alone_is_all(world: Make) -> None:
    """An empty digest sends nothing."""
    one = world(digests={"d": DigestSettings(template="digest", window=Seconds(3600.0), leading=True)})
    one.submit(email("k"))
    one.advance(7200)
    assert len(one.sent) == 1


def test_flush_early_at_n_items(world: Make) -> None:
    """Flush early at N items (2-1000)."""
    one = world(digests={"d": DigestSettings(template="digest", window=Seconds(3600.0), items_max=3)})
    one.submit(*(email(f"k{n}", title=str(n)) for n in range(7)))
    assert [titles(said(one, at)) for at in range(2)] == [["0", "1", "2"], ["3", "4", "5"]]
    assert one.outcome("k6") == "deferred:digest"
    one.advance(3600)
    assert titles(said(one, 2)) == ["6"]


def test_flush_early_on_expiry(world: Make) -> None:
    """Flush early on expiry: a second before the first of its items would expire."""
    one = world(digests={"d": HOUR})
    start = one.now_us // 1_000_000
    one.submit(email("k1"))
    one.submit(email("k2", expires_at=(start + 600) * 1000))
    one.advance(3600)
    assert [at - start for at in one.times()] == [599]
    assert said(one)["count"] == 2


def test_the_template_gets_items_and_count(world: Make) -> None:
    """The template gets `items` (first and last 10) and `count`."""
    one = world(digests={"d": HOUR})
    one.submit(*(email(f"k{n}", title=str(n), body="b", type="warning", payload={"n": n}) for n in range(25)))
    one.advance(3600)
    (sent,) = one.sent
    payload = said(one)
    assert (sent.said.template, payload["count"]) == ("digest", 25)
    assert titles(payload) == [str(n) for n in (*range(10), *range(15, 25))]
    first = payload["items"][0]
    assert (first["body"], first["type"], first["payload"]) == ("b", "warning", {"n": 0})
    assert one.ask("status", id=first["id"])["id"] == first["id"]


def test_cancelling_removes_one_item(world: Make) -> None:
    one = world(digests={"d": HOUR})
    one.submit(*(email(f"k{n}", title=str(n)) for n in range(3)))
    assert one.ask("cancel", user_id="ann", idempotency_key="k0") == {"cancelled": 1}
    one.restart()
    one.advance(3600)
    assert titles(said(one)) == ["1", "2"]
    outcomes = [one.outcome(f"k{n}") for n in range(3)]
    assert outcomes == ["cancelled:cancelled", "delivered", "delivered"]


def test_cancelling_after_the_configuration_has_no_such_digest_removes_one_item(world: Make) -> None:
    one = world(digests={"d": HOUR})
    one.submit(email("k0"), email("k1"))
    one.restart(digests={})
    assert one.ask("cancel", user_id="ann", idempotency_key="k0") == {"cancelled": 1}
    one.advance(3600)
    assert said(one)["count"] == 1


def test_an_empty_digest_sends_nothing(world: Make) -> None:
    one = world(digests={"d": HOUR})
    one.submit(email("k0"), email("k1"))
    for key in ("k0", "k1"):
        one.ask("cancel", user_id="ann", idempotency_key=key)
    one.advance(7200)
    assert not one.sent
    assert not one.core.windows.items()


def test_critical_skips_digests(world: Make) -> None:
    """`critical` skips."""
    one = world(digests={"d": HOUR})
    one.submit(email("k", priority="critical"))
    assert one.outcome("k") == "delivered"
    assert one.sent[0].said.title == "hello"


def test_what_comes_in_the_turn_that_closes_a_window_opens_the_next(world: Make) -> None:
    """Known failure elsewhere: two digests racing in one workflow send twice."""
    one = world(digests={"d": HOUR})
    one.submit(email("k0", title="0"), email("k1", title="1"))
    one.now_us += 3600 * 1_000_000
    one.turn([one.frame(email("k2", title="2"))])
    one.run()
    one.advance(3600)
    assert [titles(said(one, at)) for at in range(len(one.sent))] == [["0", "1"], ["2"]]
    assert {one.outcome(f"k{n}") for n in range(3)} == {"delivered"}


def test_what_is_released_into_a_window_that_closes_is_in_one_digest(world: Make) -> None:
    """A digest is owned by one shard, so it must not send twice: nor may an item be left behind."""
    one = world(digests={"d": HOUR})
    due_ms = one.now_us // 1_000 + 3_600_000
    one.submit(email("k0", title="0"), email("k1", title="1", send_at=due_ms))
    one.advance(7200)
    assert sorted(title for at in range(len(one.sent)) for title in titles(said(one, at))) == ["0", "1"]
    assert {one.outcome(f"k{n}") for n in range(2)} == {"delivered"}


def test_one_delivery_with_one_stable_id_per_window(world: Make) -> None:
    """One digest delivery with one stable id per window; its sends fall under invariant D."""
    one = world(digests={"d": HOUR})
    one.failing = {"email"}
    one.submit(*(email(f"k{n}") for n in range(3)))
    one.advance(1800)
    one.restart()
    one.advance(1800)
    one.advance(60)
    one.restart()
    one.failing = set()
    one.advance(60)
    assert len(one.sent) == 3
    assert len({sent.said.id for sent in one.sent}) == 1
    assert {sent.said.payload["count"] for sent in one.sent if sent.said.payload} == {3}
    assert {one.outcome(f"k{n}") for n in range(3)} == {"delivered"}
    one.advance(7200)
    assert len(one.sent) == 3


def test_items_share_the_digests_outcome_and_its_dead_letter(world: Make) -> None:
    """Each item of a digest takes its digest's outcome; the digest itself is not planned."""
    one = world(digests={"d": HOUR})
    one.failing, one.error = {"email"}, "permanent"
    one.submit(*(email(f"k{n}") for n in range(3)))
    one.advance(3600)
    assert {one.outcome(f"k{n}") for n in range(3)} == {"dead:permanent"}
    ((_, _, letter),) = one.shard.journal.dead.find({}, 10)
    assert b'"template":"digest"' in letter.notification
    assert b'"count":3' in letter.notification
    one.failing = set()
    assert one.ask("dead.replay") == {"count": 1}
    assert {one.outcome(f"k{n}") for n in range(3)} == {"delivered"}
    assert said(one, 1)["count"] == 3


def test_the_digest_waits_for_the_end_of_quiet_hours(world: Make) -> None:
    """The order: digest, cap, limit, quiet hours."""
    one = world(at="2026-01-05T21:30:00Z", digests={"d": HOUR})
    one.user(preferences={"quiet_hours": {"start": "22:00", "end": "08:00"}})
    one.submit(email("k0"), email("k1"))
    one.until("2026-01-05T23:00:00Z")
    assert one.outcome("k0") == "deferred:quiet_hours"
    one.restart()
    one.until("2026-01-06T09:00:00Z")
    assert one.times() == [seconds("2026-01-06T08:00:00Z")]
    assert said(one)["count"] == 2


def test_preferences_are_asked_when_the_digest_is_sent(world: Make) -> None:
    one = world(digests={"d": HOUR})
    one.submit(email("k0"), email("k1"))
    one.user(preferences={"channels": {"email": False}})
    one.advance(3600)
    assert {one.outcome(f"k{n}") for n in range(2)} == {"suppressed:preference"}


def test_a_digest_in_the_inbox_is_shown_in_its_carriers_place(world: Make) -> None:
    one = world(digests={"d": HOUR})
    one.submit(*({"idempotency_key": f"k{n}", "channels": ["inapp"], "title": str(n)} for n in range(3)))
    one.submit({"idempotency_key": "k", "channels": ["inapp", "email"], "title": "both", "category": "marketing"})
    one.advance(3600)
    one.restart()
    by_template = [(item["template"], item["payload"]["count"]) for item in one.inbox()]
    assert by_template == [("digest", 3), ("digest", 1)]


def test_frames_of_a_sent_digest_are_forgotten(world: Make) -> None:
    """Invariant B: what has ended takes no memory."""
    one = world(digests={"d": HOUR})
    for n in range(5):
        one.submit(email(f"k{n}"))
    one.ask("cancel", user_id="ann", idempotency_key="k1")
    one.failing = {"email"}
    one.advance(3601)
    assert len(one.core.frames) == 1, "the carrier's, which waits for its retry"
    one.failing = set()
    one.advance(60)
    assert not one.core.frames


# --- schedule, expiry, cancel -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("send_at", [0, "2020-01-31T08:00:00Z", "2026-01-05T12:00:00Z"])
def test_send_at_in_the_past_means_now(world: Make, send_at: Any) -> None:
    one = world()
    one.submit(email("k", send_at=send_at))
    assert one.outcome("k") == "delivered"


def test_what_is_scheduled_is_sent_then_and_not_before(world: Make) -> None:
    one = world()
    one.submit(email("k", send_at="2026-01-05T12:30:00Z"), email("leap", send_at="2026-02-28T23:59:59+00:00"))
    assert one.status("k")["email"]["next_attempt_at"] == seconds("2026-01-05T12:30:00Z") * 1000
    one.until("2026-01-05T12:29:59Z")
    assert (one.outcome("k"), one.sent) == ("deferred:send_at", [])
    one.restart()
    one.until("2026-12-31T00:00:00Z")
    assert one.times() == [seconds("2026-01-05T12:30:00Z"), seconds("2026-02-28T23:59:59Z")]
    assert not any(latencies.buckets() for latencies in one.core.latencies), "what waited on purpose has no latency"


def test_beyond_the_horizon_is_an_error(world: Make) -> None:
    """More than the configured horizon (1 year) ahead is an error."""
    one = world(schedules=Schedules())
    verdict = one.submit(email("k", send_at="2027-01-05T12:00:00Z"), email("far", send_at="2027-01-05T12:00:01Z"))
    (rejection,) = verdict.rejected
    assert isinstance(rejection, Rejection)
    assert (rejection.index, rejection.error.code, rejection.error.field) == (1, "bad_value", "send_at")
    assert "365 days (schedules.horizon)" in rejection.error.message


def test_expires_before_the_send_is_expired(world: Make) -> None:
    """`expires_at` before the send gives outcome `expired`."""
    one = world()
    one.submit(
        email("k", send_at="2026-01-05T13:00:00Z", expires_at="2026-01-05T12:30:00Z"),
        email("past", expires_at="2026-01-05T11:00:00Z"),
    )
    assert (one.outcome("k"), one.outcome("past")) == ("deferred:send_at", "expired:expires_at")
    one.until("2026-01-05T12:30:00Z")
    assert one.outcome("k") == "expired:expires_at"
    one.advance(7200)
    assert not one.sent


def test_expires_while_retrying(world: Make) -> None:
    """`expires_at` before the send gives outcome `expired`, also while retrying."""
    one = world()
    one.failing = {"email"}
    one.submit(email("k", expires_at="2026-01-05T12:02:30Z"))
    one.advance(240)
    assert one.outcome("k") == "expired:expires_at"
    assert len(one.sent) == 3


def test_cancel_ends_every_pending_deferred_or_retrying_delivery(world: Make) -> None:
    slow = simulated(rate="1/minute", burst=1)
    one = world(channels={"email": simulated(), "sms": slow, "push": slow})
    one.user(preferences={"quiet_hours": {"start": "00:00", "end": "23:59", "days": ["tue"]}})
    one.failing = {"email"}
    one.submit(
        {"channels": ["sms"], "idempotency_key": "first"},
        {"channels": ["email", "sms"], "idempotency_key": "k"},
        email("later", send_at="2026-01-06T10:00:00Z"),
    )
    assert one.outcomes("k") == {"email": "retrying", "sms": "pending"}
    assert one.ask("cancel", user_id="ann", idempotency_key="k") == {"cancelled": 2}
    assert one.ask("cancel", user_id="ann", idempotency_key="later") == {"cancelled": 1}
    attempts = len(one.sent)
    one.restart()
    one.advance(23 * 3600)
    assert len(one.sent) == attempts
    assert one.outcomes("k") == {"email": "cancelled:cancelled", "sms": "cancelled:cancelled"}
    assert one.outcome("later") == "cancelled:cancelled"


def test_what_waits_for_the_end_of_quiet_hours_is_cancelled(world: Make) -> None:
    one = world()
    one.user(preferences={"quiet_hours": ALWAYS})
    one.submit(email("k"))
    assert one.ask("cancel", user_id="ann", idempotency_key="k") == {"cancelled": 1}
    one.restart()
    one.advance(86_400)
    assert not one.sent
    assert sum(one.core.deferrals.counts.values()) == 0


def test_cancel_answers_already_final_only_if_nothing_was_open(world: Make) -> None:
    one = world()
    one.failing = {"email"}
    one.submit({"channels": ["email", "inapp"], "idempotency_key": "k"})
    assert one.ask("cancel", user_id="ann", idempotency_key="k") == {"cancelled": 1}
    assert one.refused("cancel", user_id="ann", idempotency_key="k") == "already_final"
    assert one.refused("cancel", user_id="ann", idempotency_key="other") == "not_found"


@pytest.mark.parametrize("killed", [False, True])
def test_one_in_flight_becomes_cancelled_instead_of_retrying(world: Make, killed: bool) -> None:
    """One in flight is not counted, but becomes `cancelled` instead of retrying; this survives restarts."""
    one = world()
    one.hold, one.failing = True, {"email"}
    one.submit(email("k"))
    assert one.ask("cancel", user_id="ann", idempotency_key="k") == {"cancelled": 0}
    if killed:
        one.restart()
    one.hold = False
    one.run()
    one.advance(3600)
    assert one.outcome("k") == "cancelled:cancelled"
    assert len(one.sent) == 1


def test_a_second_attempt_in_flight_becomes_cancelled_after_a_kill(world: Make) -> None:
    one = world()
    one.failing = {"email"}
    one.submit(email("k"))
    one.hold = True
    one.advance(60)
    assert one.ask("cancel", user_id="ann", idempotency_key="k") == {"cancelled": 0}
    one.restart()
    one.hold = False
    one.advance(3600)
    assert one.outcome("k") == "cancelled:cancelled"
    assert len(one.sent) == 2


def test_one_in_flight_that_succeeds_is_delivered(world: Make) -> None:
    one = world()
    one.hold = True
    one.submit(email("k"))
    assert one.ask("cancel", user_id="ann", idempotency_key="k") == {"cancelled": 0}
    one.hold = False
    one.run()
    assert one.outcome("k") == "delivered"


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize("key", ["k0", "k1"], ids=["carrier", "other"])
def test_cancel_of_one_item_does_not_end_a_digest_in_flight(world: Make, key: str, attempts: int, killed: bool) -> None:
    one = world(digests={"d": HOUR})
    one.submit(email("k0"), email("k1"))
    one.failing = {"email"}
    one.hold = attempts == 1
    one.advance(3600)
    one.hold = True
    one.advance(60 * (attempts - 1))
    assert one.ask("cancel", user_id="ann", idempotency_key=key) == {"cancelled": 0}
    if killed:
        one.restart()
    one.hold = False
    one.run()
    one.failing = set()
    one.advance(60)
    outcomes = {"k0": "delivered", "k1": "delivered", key: "cancelled:cancelled"}
    assert {name: one.outcome(name) for name in outcomes} == outcomes
    counts = [(sent.said.payload or {})["count"] for sent in one.sent]
    assert counts[:attempts] == [2] * attempts
    assert set(counts[attempts:]) == {1}
    assert one.conserved


# --- idempotency ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [set(), {"email"}], ids=["success", "failure"])
def test_a_window_of_24_hours_success_and_failure_alike(world: Make, failing: set[str]) -> None:
    """Window 24 h, success and failure alike; the duplicate's receipt carries the original's id."""
    one = world()
    one.failing, one.error = failing, "permanent"
    one.submit(email("k"))
    original = one.ask("status", user_id="ann", idempotency_key="k")["id"]
    one.advance(86_400 - 60)
    one.restart()
    (duplicate,) = one.submit(email("k")).duplicates
    assert (duplicate.id, duplicate.mismatch) == (original, False)
    one.advance(120)
    assert not one.submit(email("k")).duplicates
    assert len(one.sent) == 2


@pytest.mark.parametrize(
    "change", [{"title": "other"}, {"send_at": "2026-01-07T00:00:00Z"}, {"channels": ["sms"]}, {"payload": {"n": 1}}]
)
def test_a_different_body_is_a_mismatch(world: Make, change: dict[str, Any]) -> None:
    """The same key with a different body is a duplicate with `mismatch: true`."""
    one = world()
    one.submit(email("k"))
    (duplicate,) = one.submit({**email("k"), **change}).duplicates
    assert duplicate.mismatch


def test_a_scheduled_or_cancelled_one_keeps_its_key(world: Make) -> None:
    one = world()
    scheduled = email("k", send_at="2026-01-05T13:00:00Z")
    one.submit(scheduled)
    assert not one.submit(scheduled).duplicates[0].mismatch
    one.ask("cancel", user_id="ann", idempotency_key="k")
    assert len(one.submit(scheduled).duplicates) == 1
    one.advance(7200)
    assert not one.sent


@pytest.mark.parametrize(
    ("key", "taken"), [("k" * 255, True), ("k" * 256, False), ("é" * 127, True), ("é" * 128, False)]
)
def test_keys_up_to_255_bytes(world: Make, key: str, taken: bool) -> None:
    verdict = world().submit(email(key))
    assert [rejection.error.field for rejection in verdict.rejected] == ([] if taken else ["idempotency_key"])
