"""Routing."""

from __future__ import annotations

import pytest

from shards import rules
from shards.rules import Category, PlacedRule, Routing
from shards.wire.errors import RequestError
from shards.wire.notification import CHANNELS, Notification

NUMBERS = {name: number for number, name in enumerate(CHANNELS)}


def routed(routing: Routing, **fields: object) -> tuple[list[str], int]:
    rule = routing.resolve(Notification(**fields))  # type: ignore[arg-type]
    return [CHANNELS[channel] for channel in rule.channels], rule.priority


@pytest.mark.parametrize(
    ("category", "channels", "priority"),
    [
        ("transaction", ["email", "push", "inapp"], 2),
        ("marketing", ["email", "inapp"], 0),
        ("security", ["email", "sms", "push"], 3),
        ("system", ["inapp"], 1),
    ],
)
def test_the_default_routing(category: str, channels: list[str], priority: int) -> None:
    assert routed(Routing({}, NUMBERS), category=category) == (channels, priority)


def test_a_notifications_own_wishes() -> None:
    routing = Routing({}, NUMBERS)
    assert routed(routing, channels=["sms", "email"], priority="low") == (["sms", "email"], 0)
    assert routed(routing, priority=3) == (["inapp"], 3)


def test_who_named_the_channels_decides_about_unconfigured_ones() -> None:
    configured = {"system": Category(("email",)), "marketing": Category(("email", "inapp"))}
    routing = Routing(configured, NUMBERS)
    assert routing.resolve(Notification(category="system")).explicit
    assert not routing.resolve(Notification(category="marketing")).explicit  # as the default has it
    assert routing.resolve(Notification(category="marketing", channels=["sms"])).explicit


@pytest.mark.parametrize(
    ("fields", "code", "field", "hint"),
    [
        ({"category": "transactions"}, "unknown_category", "category", "did you mean transaction?"),
        ({"category": "zzz"}, "unknown_category", "category", "known: marketing, security, system, transaction"),
        ({"channels": ["emial"]}, "unknown_channel", "channels", "did you mean email?"),
        ({"channels": ["sms", "sms"]}, "bad_value", "channels", "twice"),
        ({"priority": "urgent"}, "bad_value", "priority", "low, normal, high, critical"),
        ({"priority": 4}, "bad_value", "priority", "0 to 3"),
    ],
)
def test_what_is_unknown_names_the_nearest(fields: dict[str, object], code: str, field: str, hint: str) -> None:
    with pytest.raises(RequestError) as caught:
        routed(Routing({}, NUMBERS), **fields)
    error = caught.value.error
    assert (error.code, error.field) == (code, field)
    assert hint in error.message


def test_the_cache_of_wishes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "RULES_CACHED_MAX", 2)
    routing = Routing({}, NUMBERS)
    for channel in CHANNELS:
        routed(routing, channels=[channel])
    assert len(routing._made) <= 2


@pytest.mark.parametrize("channels", [(), ("email", "email")])
def test_a_category_names_each_channel_once(channels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="channels"):
        Category(channels)


# --- configured rules ---------------------------------------------------------------------------------------------

RULES = (
    PlacedRule("big", when="payload.amount > 1000", categories=("transaction",), channels=("sms", "inapp"), line=7),
    PlacedRule("night", when="local.hour < 8", categories=("transaction", "marketing"), priority="low"),
    PlacedRule("french", when="locale == 'fr'", categories=("marketing",), channels=("push",), priority="high"),
    PlacedRule("rest", categories=("marketing",), priority="normal"),
)
NOON, NIGHT = ("ada", 12 * 3_600_000, "fr"), ("ada", 3 * 3_600_000, "fr")
GERMAN = (*NOON[:2], "de")
BIG = {"category": "transaction", "payload": {"amount": 2000}}


def ruled(asker: tuple[str, int, str], **fields: object) -> tuple[list[str], int, int]:
    rule = Routing({}, NUMBERS, RULES).resolve(Notification(**fields), *asker)  # type: ignore[arg-type]
    return [CHANNELS[channel] for channel in rule.channels], rule.priority, rule.number


@pytest.mark.parametrize(
    ("asker", "fields", "expected"),
    [
        (NOON, BIG, (["sms", "inapp"], 2, 1)),
        (NIGHT, BIG, (["sms", "inapp"], 2, 1)),  # the first wins, and the second is not asked for what it leaves open
        (NIGHT, {"category": "transaction"}, (["email", "push", "inapp"], 0, 2)),
        (NOON, {"category": "transaction"}, (["email", "push", "inapp"], 2, 0)),
        (NIGHT, {"category": "marketing"}, (["email", "inapp"], 0, 2)),
        (NOON, {"category": "marketing"}, (["push"], 2, 3)),
        (GERMAN, {"category": "marketing"}, (["email", "inapp"], 1, 4)),
        (NOON, {"category": "system", "payload": {"amount": 2000}}, (["inapp"], 1, 0)),
        (NOON, {**BIG, "channels": ["email"]}, (["email"], 2, 0)),  # nothing is left for the rule to decide
        (NOON, {**BIG, "priority": 0}, (["sms", "inapp"], 0, 1)),
        (NOON, {"category": "marketing", "channels": ["email"]}, (["email"], 2, 3)),
        (NOON, {"category": "marketing", "priority": "critical"}, (["push"], 3, 3)),
        (NOON, {"category": "marketing", "channels": ["sms"], "priority": "low"}, (["sms"], 0, 0)),
    ],
)
def test_the_first_rule_that_matches_wins(
    asker: tuple[str, int, str], fields: dict[str, object], expected: tuple[list[str], int, int]
) -> None:
    assert ruled(asker, **fields) == expected


def test_the_condition_sees_the_priority_that_the_category_gives() -> None:
    routing = Routing({}, NUMBERS, (PlacedRule("p", when="priority == 'high'", channels=("sms",)),))
    assert routing.resolve(Notification(category="transaction")).number == 1
    assert routing.resolve(Notification(category="system", priority=2)).number == 1
    assert routing.resolve(Notification(category="system")).number == 0


def test_channels_of_a_rule_are_explicit() -> None:
    routing = Routing({}, NUMBERS, RULES)
    assert routing.resolve(Notification(**BIG), *NOON).explicit  # type: ignore[arg-type]
    assert not routing.resolve(Notification(category="transaction"), *NIGHT).explicit


def test_only_categories_that_no_rule_looks_at_are_plain() -> None:
    assert {name for name, _ in Routing({}, NUMBERS, RULES).plain} == {"security", "system"}
    assert not Routing({}, NUMBERS, (PlacedRule("all", priority="low"),)).plain


def test_what_a_rules_number_means() -> None:
    assert Routing({}, NUMBERS, RULES).describe()[:2] == [
        ("big", 7, "payload.amount > 1000"),
        ("night", None, "local.hour < 8"),
    ]


def test_a_condition_without_an_answer_is_no_match() -> None:
    routing = Routing({}, NUMBERS, RULES)
    assert routing.resolve(Notification(category="transaction"), *NOON).number == 0
    assert routing.failures() == {"big": 1}


def test_a_rule_is_made_once_for_all_who_are_alike() -> None:
    routing = Routing({}, NUMBERS, RULES)
    first, second = (routing.resolve(Notification(**BIG), *NOON) for _ in range(2))  # type: ignore[arg-type]
    assert first is second
