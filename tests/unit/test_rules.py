"""Routing."""

from __future__ import annotations

import pytest

from shards import rules
from shards.rules import Category, Routing
from shards.wire import CHANNELS, Notification, RequestError

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
    assert len(routing._wished) <= 2


@pytest.mark.parametrize("channels", [(), ("email", "email")])
def test_a_category_names_each_channel_once(channels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="channels"):
        Category(channels)
