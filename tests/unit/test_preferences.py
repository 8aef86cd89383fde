"""The document per user."""

from __future__ import annotations

from typing import Any

import pytest

from shards.preferences import Choices, Preferences, parse_document
from shards.wire import RequestError


def test_unset_is_allowed() -> None:
    assert not Choices(Preferences()).block("system", "email")


@pytest.mark.parametrize(
    ("preferences", "blocked"),
    [
        (Preferences(channels={"email": False}), {("system", "email"), ("marketing", "email")}),
        (Preferences(categories={"marketing": False}), {("marketing", "email"), ("marketing", "sms")}),
        (Preferences(categories={"marketing": {"sms": False, "email": True}}), {("marketing", "sms")}),
        (Preferences(channels={"email": True}, categories={"system": True}), set()),
    ],
)
def test_what_is_switched_off(preferences: Preferences, blocked: set[tuple[str, str]]) -> None:
    choices = Choices(preferences)
    pairs = {(category, channel) for category in ("system", "marketing") for channel in ("email", "sms")}
    assert {pair for pair in pairs if choices.block(*pair)} == blocked


def test_users_who_chose_alike_have_equal_keys() -> None:
    explicit = Preferences(channels={"sms": True, "email": False})
    assert Choices(explicit).key == Choices(Preferences(channels={"email": False})).key


@pytest.mark.parametrize(
    ("document", "code", "field"),
    [
        ({"colour": "red"}, "unknown_key", "user.colour"),
        ({"preferences": {"channel": {}}}, "unknown_key", "user.preferences.channel"),
        ({"preferences": {"channels": {"email": "no"}}}, "bad_value", "user.preferences.channels[...]"),
        ({"preferences": {"quiet_hours": {}}}, "unsupported", "user.preferences.quiet_hours"),
        ({"preferences": {"topics": {}}}, "unsupported", "user.preferences.topics"),
        ({"locale": "x" * 70_000}, "too_large", "user"),
        ([], "bad_value", "user"),
    ],
)
def test_a_document_that_is_refused(document: Any, code: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_document(document)
    assert (caught.value.error.code, caught.value.error.field) == (code, field)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"contact": {}}, "did you mean contacts?"),
        ({"contacts": {"emial": "x"}}, "did you mean email?"),
        ({"contacts": {"webhook": {"url": "x", "secrt": "x"}}}, "did you mean secret?"),
        ({"contacts": {"push": [{"provider": "x", "token": "x", "tokn": "x"}]}}, "did you mean token?"),
        ({"preferences": {"colour": {}}}, "known: categories, channels"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(document: Any, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_document(document)
    assert says in caught.value.error.message
