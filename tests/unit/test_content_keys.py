"""Keys made of content: what makes two notifications one, and what a template may not be."""

from __future__ import annotations

import re
from typing import Any

import pytest

from shards.content_keys import content_key, names_of
from shards.wire.notification import Notification

TITLE = "{user_id}:{category}:{title}"


def key(template: str, **fields: Any) -> str | None:
    return content_key(template, "ada", Notification(user_id="ada", **fields))


@pytest.mark.parametrize(
    ("template", "one", "other"),
    [
        (TITLE, {"title": "a"}, {"title": "a", "body": "b"}),
        ("{payload.order}", {"payload": {"order": 17}}, {"payload": {"order": 17, "x": 1}}),
        ("{payload.o}", {"payload": {"o": {"a": 1, "b": 2}}}, {"payload": {"o": {"b": 2, "a": 1}}}),
        ("{title}{body}", {"title": "a"}, {"title": "a", "body": ""}),
        ("{user_id} {category}", {"title": "a"}, {"title": "b"}),
    ],
)
def test_equal_values_are_one_key(template: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(template, **one) == key(template, **other) is not None


@pytest.mark.parametrize(
    ("template", "one", "other"),
    [
        (TITLE, {"title": "a"}, {"title": "b"}),
        (TITLE, {"title": "a"}, {"title": "a", "category": "marketing"}),
        ("{type}{title}", {"title": "a"}, {"title": "a", "type": "error"}),
        ("{title}{body}", {"title": "ab", "body": "c"}, {"title": "a", "body": "bc"}),
        ("{title}:{body}", {"title": "a:b", "body": "c"}, {"title": "a", "body": "b:c"}),
        ("{title}{body}", {"title": "a\0001:b", "body": ""}, {"title": "a", "body": "1:b"}),
        ("{payload.n}", {"payload": {"n": 1}}, {"payload": {"n": 2}}),
    ],
)
def test_other_values_are_other_keys(template: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(template, **one) != key(template, **other)


def test_other_templates_are_other_keys() -> None:
    assert key("{title}", title="a") != key("{body}", body="a")


def test_nothing_to_tell_by_is_no_key() -> None:
    assert key(TITLE, body="b") is None
    assert key("{title}{payload.order}", payload={"message": "m"}) is None
    assert key("{title}{payload.order}", payload={"order": None}) is None
    assert key("{title}{payload.order}", title="", payload={}) is not None


def test_no_producers_key_is_like_one() -> None:
    assert "\0" in (key(TITLE, title="a") or "")  # which check_key refuses


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{titel}", "unknown name 'titel'; did you mean title?"),
        ("{metadata}", "unknown name 'metadata'; known: body, category, payload.NAME"),
        ("{title.upper}", "unknown name 'title.upper'"),
        ("{payload.a.b}", "unknown name 'payload.a.b'"),
        ("{payload}", "unknown name 'payload'"),
        ("{payload[a]}", "unknown name"),
        ("{title:>9}", "nothing behind it"),
        ("{title!r}", "nothing behind it"),
        ("{title:{body}}", "nothing behind it"),
        ("{title", "expected '}'"),
        ("title}", "Single '}'"),
        ("{}", "has no name in it"),
        ("{0}", "unknown name '0'"),
        ("title", "names nothing"),
        ("{{title}}", "names nothing"),
        ("{title}" * 200, "at most 1000"),
    ],
)
def test_what_is_wrong_with_a_template(template: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        names_of(template)
