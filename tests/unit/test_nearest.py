"""What is said of a name that is not known, however many and long the known ones are."""

from __future__ import annotations

from shards.nearest import unknown


def test_the_nearest_are_proposed() -> None:
    assert unknown("topic", "nwes", ["news", "sport"]) == "unknown topic 'nwes'; did you mean news?"


def test_what_it_is_called_elsewhere_is_proposed() -> None:
    assert unknown("key", "to", ["user_id"], {"to": "user_id"}) == "unknown key 'to'; did you mean user_id?"


def test_where_none_is_near_all_are_listed() -> None:
    assert unknown("topic", "x", ["news", "sport"]) == "unknown topic 'x'; known: news, sport"
    assert unknown("topic", "x", []) == "unknown topic 'x'; known: none"


def test_a_message_stays_short() -> None:
    many = [f"{number:0250}" for number in range(300)]
    assert unknown("topic", "x" * 300, many).endswith(", and 297 more")
    for name in ("x" * 300, "0" * 250):
        assert len(unknown("topic", name, many)) <= 400
