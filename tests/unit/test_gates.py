"""How much is under way to each endpoint."""

from __future__ import annotations

from array import array
from itertools import count, islice

from shards.frames import Entry, Frame
from shards.gates import AHEAD_MAX_S, REMEMBERED_MAX, SLOW_S, Gates
from shards.people import Decisions, User
from shards.preferences import ALLOW_ALL

AGING_S = 30.0
LOW, NORMAL, CRITICAL = 0, 1, 3
PLACES = 16
USER = User("u", 1, ALLOW_ALL, Decisions(lambda *_: None, ALLOW_ALL))  # type: ignore[arg-type]  # no decision is made


def entry(seq: int) -> Entry:
    return Frame(seq, 0, array("I", [0]), b"\1"), 0, 0, USER, None


def gates_of(limit: int = 4, waiting_max: int = 1_000) -> Gates:
    return Gates(limit, PLACES, waiting_max, AGING_S)


def succeed(gates: Gates, key: str, times: int = 1, took_s: float = 0.0) -> None:
    """One after the other, at the instant 0."""
    for number in range(times):
        assert gates.enter(key, (-1 - number, 0), -took_s)
        gates.leave((-1 - number, 0), 0.0, succeeded=True)


def filled(limit: int = 4, waiting: int = 0, key: str = "a") -> Gates:
    """An endpoint that answers quickly has all its places taken, by the first numbers."""
    gates = gates_of(limit)
    succeed(gates, key, limit)
    for seq in range(limit):
        assert gates.enter(key, (seq, 0), 0.0)
    for seq in range(limit, limit + waiting):
        assert not gates.enter(key, (seq, 0), 0.0)
        assert gates.wait(key, entry(seq), NORMAL, 0.0)
    return gates


def started(gates: Gates, now: float = 0.0, most: int = 100) -> list[int]:
    return [one[0].seq for one in islice(gates.ready(now), most)]


def test_an_endpoint_has_so_many_places_and_others_have_their_own() -> None:
    gates = filled(2, waiting=3)
    assert gates.enter("b", (100, 0), 0.0)
    assert gates.waiting == 3
    assert started(gates) == []


def test_who_waited_first_is_first_and_nobody_overtakes() -> None:
    gates = filled(2, waiting=3)
    gates.leave((0, 0), 0.0, succeeded=True)
    assert not gates.enter("a", (99, 0), 0.0), "others wait"
    assert started(gates) == [2]
    gates.leave((1, 0), 0.0, succeeded=True)
    gates.leave((2, 0), 0.0, succeeded=True)
    assert started(gates, most=1) == [3]
    assert started(gates) == [4]
    assert gates.waiting == 0


def test_failures_halve_the_places_down_to_one_and_successes_give_them_back() -> None:
    gates = filled(8, waiting=8)
    for seq in range(8):
        gates.leave((seq, 0), 0.0, succeeded=False)
    assert started(gates) == [8]
    gates.leave((8, 0), 0.0, succeeded=True)
    assert started(gates) == [9, 10]
    gates.leave((9, 0), 0.0)
    assert started(gates) == [11], "what was not attempted says nothing"
    gates.leave((10, 0), 0.0, succeeded=True)
    assert started(gates) == [12, 13]


def test_those_that_are_slow_or_not_known_leave_half_of_the_places_to_those_that_answer() -> None:
    gates = gates_of(limit=100)
    succeed(gates, "quick", 9)
    succeed(gates, "slow", 50, took_s=SLOW_S + 0.1)
    entered = [gates.enter(f"new {seq}", (seq, 0), 0.0) for seq in range(PLACES)]
    assert entered == [True] * (PLACES // 2) + [False] * (PLACES // 2)
    assert not gates.enter("slow", (50, 0), 0.0)
    assert all(gates.enter("quick", (seq, 0), 0.0) for seq in range(60, 70))
    for seq in (50, 51):
        assert gates.wait("slow", entry(seq), NORMAL, 0.0)
    assert started(gates) == []
    gates.leave((0, 0), 0.1, succeeded=True)
    gates.leave((1, 0), 9.0, succeeded=False)
    assert started(gates) == [50, 51], "one has shown that it is quick, and one place is free"
    gates.leave((60, 0), 9.0, succeeded=False)
    assert not gates.enter("slow", (52, 0), 9.0)
    for seq in (2, 3):
        gates.leave((seq, 0), 9.0, succeeded=False)
    assert not gates.enter("slow", (52, 0), 9.0), "those under way to what turned out to be slow count as well"


def test_endpoints_take_turns() -> None:
    gates = filled(2, waiting=4, key="a")
    succeed(gates, "b", 2)
    for seq in (10, 11):
        assert gates.enter("b", (seq, 0), 0.0)
    for seq in range(12, 16):
        assert gates.wait("b", entry(seq), NORMAL, 0.0)
    order: list[int] = []
    for places in ((0, 1, 10, 11), (2, 12, 3, 13)):
        for place in places:
            gates.leave((place, 0), 0.0, succeeded=True)
        order += started(gates, most=3) + started(gates, most=1)
    assert order == [2, 12, 3, 13, 4, 14, 5, 15]


def test_those_that_are_quick_and_those_that_are_slow_take_turns_where_there_is_room_for_one() -> None:
    gates = gates_of(limit=100)
    for first, key, took_s in ((0, "quick", 0.0), (1_000, "slow", SLOW_S + 0.1)):
        succeed(gates, key, PLACES // 2, took_s)
        end = next(seq for seq in count(first) if not gates.enter(key, (seq, 0), 0.0))
        assert all(gates.wait(key, entry(end + number), NORMAL, 0.0) for number in range(8))
        for seq in range(first, end):
            gates.leave((seq, 0), took_s, succeeded=True)
    assert sum(started(gates, most=1)[0] >= 1_000 for _ in range(8)) == 4


def test_nobody_has_more_waiting_than_there_is_room_left() -> None:
    gates = gates_of(waiting_max=8)
    for key in "ab":
        assert gates.enter(key, (ord(key), 0), 0.0)
    assert [gates.wait("a", entry(seq), NORMAL, 0.0) for seq in range(6)] == [True] * 4 + [False] * 2
    assert gates.wait("a", entry(6), CRITICAL, 0.0), "it does not wait for those that it goes before"
    assert [gates.wait("b", entry(seq), NORMAL, 0.0) for seq in range(3)] == [True, True, False]
    assert gates.waiting == 7


def test_what_may_not_even_wait_comes_back_when_its_endpoint_will_be_through_with_those_before() -> None:
    gates = filled(2, waiting=100)
    assert 0 < gates.later_s("a", 0.0) <= 1, "nothing is known yet"
    gates.leave((0, 0), 4.0, succeeded=True)
    gates.leave((1, 0), 4.0, succeeded=True)
    waits = [gates.later_s("a", 4.0) for _ in range(1_000)]
    assert 100 * 1.0 / 2 < waits[0] < AHEAD_MAX_S
    assert waits == sorted(waits)
    assert 4 <= waits[-1] - waits[0] <= 6, "each look is a write, so they are not all looked at at once"
    assert len(set(waits)) < 10, "but in batches"
    assert gates.later_s("unknown", 4.0) == 1.0


def test_who_waits_for_a_place_of_those_that_are_slow_is_not_looked_at_more_often_than_they_end() -> None:
    gates = gates_of(waiting_max=1)
    for seq in range(PLACES // 2):
        assert gates.enter(f"hangs {seq}", (seq, 0), 0.0)
    assert gates.wait("hangs 0", entry(100), NORMAL, 0.0)
    for seq in range(200, 210):
        assert not gates.enter(f"new {seq}", (seq, 0), 8.0)
        assert not gates.wait(f"new {seq}", entry(seq), NORMAL, 8.0)
    waits = [gates.later_s(f"new {seq}", 8.0) for seq in range(2_000)]
    assert waits[0] <= 2
    assert 9 <= waits[-1] - waits[0] <= 11, "each look is a write, however many endpoints there are"


def test_a_channel_with_fewer_places_than_before_leaves_half_of_them_to_quick_endpoints() -> None:
    gates = gates_of()
    gates.set_places(4)
    assert [gates.enter(f"new {seq}", (seq, 0), 0.0) for seq in range(4)] == [True, True, False, False]
    gates.set_places(6)
    assert gates.enter("new", (9, 0), 0.0)


def test_an_endpoint_that_has_not_answered_is_known_to_be_slow() -> None:
    gates = filled(2, waiting=10)
    assert gates.later_s("a", 4.0) >= 10 * 4 / 2
    assert gates.later_s("a", 4e6) <= AHEAD_MAX_S + 1


def test_who_asks_to_be_left_alone() -> None:
    gates = gates_of()
    gates.rest("https://example.org/a", 60.0, 0.0)
    gates.rest("https://example.org/a", 30.0, 0.0)
    assert gates.rests["https://example.org/a"] == 60.0
    assert "https://example.org/b" not in gates.rests
    for number in range(2 * REMEMBERED_MAX):
        gates.rest(str(number), 61.0 + number % 2, 61.0)
    assert len(gates.rests) <= REMEMBERED_MAX


def test_of_endpoints_that_are_idle_the_last_ones_are_remembered() -> None:
    gates = gates_of(limit=8)
    for number in range(REMEMBERED_MAX + 10):
        succeed(gates, str(number))
    assert (len(gates._idle), len(gates._active)) == (REMEMBERED_MAX, 0)
    assert [gates.enter("0", (seq, 0), 0.0) for seq in (1, 2)] == [True, False], "it begins anew"
    assert [gates.enter("99", (seq, 0), 0.0) for seq in (3, 4)] == [True, True]


def test_they_go_by_priority_and_by_age() -> None:
    gates = filled(1)
    for seq, priority, at in ((1, NORMAL, 0.0), (2, CRITICAL, 1.0), (3, LOW, 1.0), (4, CRITICAL, 3 * AGING_S)):
        assert gates.wait("a", entry(seq), priority, at)
    order: list[int] = []
    for now in (1.0, 3 * AGING_S, 3 * AGING_S, 4 * AGING_S):
        gates.leave((order[-1] if order else 0, 0), now, succeeded=True)
        order += started(gates, now)
    assert order == [2, 1, 4, 3]


def test_what_never_entered_may_leave() -> None:
    gates = filled(1)
    gates.leave((77, 0), 0.0, succeeded=True)
    assert not gates.enter("a", (1, 0), 0.0)
