"""Conditions in CEL: what is refused at the start, and what a notification without an answer does."""

from __future__ import annotations

import contextlib
import datetime
import re
from typing import Any

import pytest

from shards import conditions
from shards.conditions import VARIABLES, Conditions, check
from shards.wire.notification import Notification

AT = datetime.datetime(2026, 3, 2, 23, 30, tzinfo=datetime.UTC)  # a Monday
NOTIFICATION = Notification(
    user_id="ada",
    category="marketing",
    type="warning",
    title="Sale",
    payload={"amount": 120, "items": [{"sku": "a"}, {"sku": "b"}], "vip": True},
    channels=["email", "sms"],
    metadata={"source": "shop"},
)


def answers(expression: str, notification: Notification = NOTIFICATION, **about: Any) -> bool:
    check(expression)
    found = Conditions([expression])
    asked = {"priority": "low", "user_id": "ada", "locale": "fr-CA", "zone": "UTC"} | about
    found.tell(notification, **asked, now_ms=int(AT.timestamp() * 1000))
    return found.hold(0)


ASKED = [
    ("category == 'marketing'", "category == 'system'"),
    ("type == 'warning'", "type == 'info'"),
    ("priority == 'low'", "priority in ['high', 'critical']"),
    ("locale.startsWith('fr')", "locale == ''"),
    ("payload.amount > 100", "payload.amount > 120"),
    ("payload.items.exists(i, i.sku == 'b')", "payload.items.all(i, i.sku == 'b')"),
    ("has(payload.vip) && payload.vip", "has(payload.none)"),
    ("title.matches('^S.*e$')", "title.contains('x')"),
    ("metadata.source == 'shop'", "'other' in metadata"),
    ("channels == ['email', 'sms']", "size(channels) == 0"),
    ("user_id == 'ada'", "user_id == 'bob'"),
    ("now > timestamp('2026-03-02T23:29:59Z')", "now > timestamp('2026-03-02T23:30:00Z')"),
    ("local == {'hour': 23, 'minute': 30, 'weekday': 'mon'}", "local.hour < 8"),
    ("payload.items.map(i, i.sku) == ['a', 'b'] && payload.items.size() == 2", "false"),
    ("type(payload.amount) == int", "type(payload.amount) == string"),
]


@pytest.mark.parametrize(("true", "false"), ASKED)
def test_what_an_expression_may_ask(true: str, false: str) -> None:
    assert answers(true)
    assert not answers(false)


def test_each_variable_is_asked_somewhere_above() -> None:
    text = " ".join(true for true, _ in ASKED)
    assert {name for name in VARIABLES if name in text} == VARIABLES.keys()


def test_what_a_notification_does_not_have_is_empty() -> None:
    bare = Notification(user_id="ada")
    assert answers("title == '' && payload == {} && metadata == {} && channels == [] && type == 'info'", bare)


def test_the_local_time_is_the_users() -> None:
    assert answers("local.hour == 3 && local.minute == 0 && local.weekday == 'tue'", zone="Asia/Tehran")


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("payload.amount >", "not CEL: line 1, column 17: Syntax error: mismatched input"),
        ("true\n&& (", "not CEL: line 2, column"),
        ("titel == 'x'", "unknown variable 'titel'; did you mean title?"),
        ("title.startWith('x')", "unknown function 'startWith'; did you mean startsWith"),
        ("x.exists(y, y == 1)", "unknown variable 'x'"),
        ("title", "it gives 'title', and not true or false"),
        ("size(channels) + 1", "it gives 2, and not true or false"),
        ("title > 3", "not defined for the given operand types"),
        ("local.hr == 3", "local: unknown key 'hr'"),
        ("local.hours == 3", "local: unknown key 'hours'; did you mean hour?"),
        ("now.getHours('UTC') == 3", "getHours() does not take what is given to it"),
        ("title.matches('(')", "not a valid regex"),
        ("payload{a: 1} == 1", "not enabled"),
        ("payload.a.all(x, payload.b.all(y, x == y))", "all() stands in another loop"),
        ("payload.a.map(x, (payload.b).filter(y, x == y)) == []", "filter() stands in another loop"),
        ("payload.a.all(x, x.matches('a'))", "stands in no loop"),
        ("title.matches(payload.pattern)", 'takes its pattern as text: title.matches("^A")'),
        ("title.matches('a' + 'b')", "takes its pattern as text"),
        ("true" + " " * conditions.EXPRESSION_MAX, "at most 2000"),
    ],
)
def test_what_is_wrong_is_told_at_the_start(expression: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        check(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "payload.a.all(x, x > 1) && payload.b.exists(y, y == 2)",
        "title.contains('all( exists(') // all( map(",
        r"title.contains('it\'s') && payload.a.all(x, true)",
        "r'\\' == '''all(''' || true",
        "payload.amount",  # may be true or false
        "has(payload.a) && (payload.a[0] == 'x' || payload.filter == 'map')",
    ],
)
def test_what_may_be_right_is_not_refused(expression: str) -> None:
    check(expression)


@pytest.mark.parametrize(
    "expression", ["(" * 900 + "true" + ")" * 900, "!" * 1_900 + "true", "[" * 1_900, "-" * 1_900 + "1"]
)
def test_an_expression_nested_without_end_ends_no_process(expression: str) -> None:
    with contextlib.suppress(ValueError):
        check(expression)


@pytest.mark.parametrize(
    ("expression", "payload", "problem"),
    [
        ("payload.amount > 100", {}, "there is no key 'amount'"),
        ("payload.amount > 100", {"amount": "a lot"}, "not defined for the given operand types"),
        ("payload.amount", {"amount": 1}, "a value of type int, and not true or false"),
        ("payload.amount + 1 > 0", {"amount": 2**63 - 1}, "a number is out of range"),
        ("payload.amount / 0 > 1", {"amount": 5}, "division by zero"),
        ("payload.list[3] == 1", {"list": []}, "out of bounds"),
        ("payload.amount > 100", {"amount": 200, "list": [0] * conditions.ENTRIES_MAX}, "more than 1000 values"),
        (
            "payload.amount > 100",
            {"amount": 200, "text": "x" * (conditions.TEXT_MAX + 1)},
            "more than 65536 characters",
        ),
        ("payload.amount > 100", {"amount": 200, "text": "\ud800"}, "Conversion Error"),
    ],
)
def test_no_answer_is_no_match_and_is_counted(expression: str, payload: dict[str, Any], problem: str) -> None:
    check(expression)
    found = Conditions(["true", expression])
    for _ in range(3):
        found.tell(Notification(user_id="ada", payload=payload), "low", "ada", "", "UTC", 0)
        assert not found.hold(1)
    assert found.failures[1] == 3
    ((at, said),) = [told for told in found.untold if told[0] == 1]
    assert problem in said, at
    found.tell(Notification(user_id="ada", payload={"amount": 101, "list": [0] * 4}), "low", "ada", "", "UTC", 0)
    found.hold(1)  # what could not be told of before is forgotten
    assert found.hold(0)


def test_a_zone_that_is_not_known_is_no_match() -> None:
    assert not answers("local.hour >= 0", zone="Mars/Olympus")


def test_only_a_condition_loads_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "_cel", None)  # to call it would fail
    found = Conditions([None, None])
    found.tell(NOTIFICATION, "low", "ada", "", "UTC", 0)
    assert found.hold(0)
    assert found.hold(1)
