"""Caps: at most so many deliveries in any window, exactly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.caps import Cap, CapSettings
from shards.units import Seconds

KEY, OTHER, THIRD = -5, 6, 7


def cap(limit: int = 3, window_s: float = 10.0, keys_max: int = 10, exempt: tuple[str, ...] = ()) -> Cap:
    return Cap(CapSettings(limit=limit, window=Seconds(window_s), exempt=exempt), keys_max)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 6_000), st.integers(0, 1), st.booleans()), max_size=80),
    st.integers(1, 5),
)
def test_any_window_has_at_most_the_limit(events: list[tuple[int, int, bool]], limit: int) -> None:
    """Compared with a count of all that went before, in milliseconds; the exempt pass, and count."""
    tested = cap(limit)
    ms = 0
    passed: dict[int, list[int]] = {0: [], 1: []}
    for wait_ms, key, exempt in events:
        ms += wait_ms
        now, mine = ms / 1000, passed[key]
        counted = sum(at > ms - 10_000 for at in mine)
        assert tested.has_room(key, now) == (counted < limit)
        assert tested.remaining(key, now) == max(0, limit - counted)
        if counted < limit:
            assert tested.next_at(key, now) == now
        else:
            due_ms = sorted(mine)[-limit] + 10_000
            assert tested.next_at(key, now) == pytest.approx(due_ms / 1000)
        if exempt or tested.has_room(key, now):
            tested.charge(key, now)
            mine.append(ms)


def test_a_time_leaves_the_window_when_its_length_has_passed() -> None:
    tested = cap(limit=1, window_s=86_400.0)
    tested.charge(KEY, 0.1)
    assert not tested.has_room(KEY, 86_400.0)
    assert tested.next_at(KEY, 5.0) == 86_400.1
    assert tested.has_room(KEY, tested.next_at(KEY, 5.0))


def test_looking_charges_nothing() -> None:
    tested = cap(limit=1)
    assert tested.has_room(KEY, 0.0)
    assert tested.remaining(KEY, 0.0) == 1
    assert tested.next_at(KEY, 0.0) == 0.0
    assert len(tested) == 0
    assert tested.charges == []


def test_every_charge_is_noted() -> None:
    tested = cap(limit=1)
    for key in (KEY, OTHER, KEY):
        tested.charge(key, 0.0)
    assert tested.charges == [KEY, OTHER, KEY]


def test_idle_keys_make_room_for_new_ones_and_live_ones_do_not() -> None:
    tested = cap(keys_max=2)
    tested.charge(KEY, 0.0)
    tested.charge(OTHER, 0.0)
    tested.charge(OTHER, 5.0)
    assert not tested.has_room(THIRD, 9.0)
    assert tested.remaining(THIRD, 9.0) == 0
    assert tested.next_at(THIRD, 9.0) == math.inf
    tested.charge(THIRD, 9.0)
    assert len(tested) == 2, "an exempt one passes all the same, and is not remembered"
    assert tested.charges == [KEY, OTHER, OTHER]
    assert tested.has_room(THIRD, 10.0)
    assert tested.remaining(OTHER, 10.0) == 2


@pytest.mark.parametrize(
    ("categories", "channels", "category", "channel", "covered"),
    [
        ((), (), "system", "inapp", True),
        (("marketing",), (), "marketing", "sms", True),
        (("marketing",), (), "system", "sms", False),
        ((), ("sms", "email"), "system", "email", True),
        ((), ("sms", "email"), "system", "push", False),
        (("marketing",), ("sms",), "marketing", "sms", True),
        (("marketing",), ("sms",), "marketing", "email", False),
        (("marketing",), ("sms",), "system", "sms", False),
    ],
)
def test_what_a_cap_covers(
    categories: tuple[str, ...], channels: tuple[str, ...], category: str, channel: str, covered: bool
) -> None:
    tested = Cap(CapSettings(limit=1, window=Seconds(1.0), categories=categories, channels=channels), 10)
    assert tested.covers(category, channel) is covered


def test_the_exempt_are_named_by_priority() -> None:
    assert cap(exempt=("critical", "high")).exempt == {"critical", "high"}
    with pytest.raises(ValueError, match="exempt: unknown priority 'urgent'; known: critical"):
        cap(exempt=("urgent",))


@pytest.mark.parametrize(("limit", "window_s"), [(0, 1.0), (1_001, 1.0), (1, 0.0), (1, 31 * 86_400.0 + 1)])
def test_what_is_no_cap(limit: int, window_s: float) -> None:
    with pytest.raises(ValueError, match=r"limit|window"):
        cap(limit, window_s)
