"""How much is under way to each endpoint."""

from __future__ import annotations

from array import array

from shards.frames import Entry, Frame
from shards.gates import Gates
from shards.people import Decisions, User
from shards.preferences import ALLOW_ALL

AGING_S = 30.0
LOW, NORMAL, CRITICAL = 0, 1, 3
USER = User("u", 1, ALLOW_ALL, Decisions(lambda *_: None, ALLOW_ALL))  # type: ignore[arg-type]  # no decision is made


def entry(seq: int) -> Entry:
    return Frame(seq, 0, array("I", [0]), b"\1"), 0, 0, USER, None


def filled(limit: int, waiting: int = 0, key: str = "a") -> Gates:
    gates = Gates(limit, 100, 100, AGING_S)
    for seq in range(limit):
        assert gates.enter(key, (seq, 0), 0.0)
    for seq in range(limit, limit + waiting):
        assert not gates.enter(key, (seq, 0), 0.0)
        assert gates.wait(key, entry(seq), NORMAL, 0.0)
    return gates


def started(gates: Gates, now: float = 0.0, count: int = 100) -> list[int]:
    return [one[0].seq for one in gates.ready(now, count)]


def test_an_endpoint_has_so_many_places_and_others_have_their_own() -> None:
    gates = filled(2, waiting=3)
    assert gates.enter("b", (100, 0), 0.0)
    assert gates.waiting == 3
    assert started(gates) == []


def test_who_waited_first_is_first_and_nobody_overtakes() -> None:
    gates = filled(2, waiting=3)
    gates.leave((0, 0), 0.0)
    assert not gates.enter("a", (99, 0), 0.0), "others wait"
    assert started(gates) == [2]
    gates.leave((1, 0), 0.0)
    gates.leave((2, 0), 0.0)
    assert started(gates, count=1) == [3]
    assert started(gates) == [4]
    assert gates.waiting == 0


def test_failures_halve_the_places_down_to_one_and_successes_give_them_back() -> None:
    gates = filled(8, waiting=8)
    for seq in range(8):
        gates.leave((seq, 0), 0.0, failed=True)
    assert started(gates) == [8]
    gates.leave((8, 0), 0.0)
    assert started(gates) == [9, 10]
    gates.leave((9, 0), 0.0)
    assert started(gates) == [11, 12]


def test_an_endpoint_that_asks_for_patience_gets_it() -> None:
    gates = filled(1, waiting=1)
    gates.leave((0, 0), 10.0, failed=True, asked_s=5.0)
    assert started(gates, now=14.9) == []
    assert gates.next_due(14.9) == 15.0
    assert started(gates, now=15.0) == [1]
    assert gates.next_due(15.0) is None


def test_only_so_many_wait_in_memory() -> None:
    gates = Gates(1, 2, 4, AGING_S)
    for key in "ab":
        assert gates.enter(key, (ord(key), 0), 0.0)
    assert [gates.wait("a", entry(seq), NORMAL, 0.0) for seq in (1, 2, 3)] == [True, True, False]
    assert gates.wait("a", entry(4), CRITICAL, 0.0), "it does not wait for those that it goes before"
    assert [gates.wait("b", entry(seq), NORMAL, 0.0) for seq in (5, 6)] == [True, False], "of all endpoints together"
    assert gates.waiting == 4


def test_they_go_by_priority_and_by_age() -> None:
    gates = filled(1)
    for seq, priority, at in ((1, NORMAL, 0.0), (2, CRITICAL, 1.0), (3, LOW, 1.0), (4, CRITICAL, 3 * AGING_S)):
        assert gates.wait("a", entry(seq), priority, at)
    order: list[int] = []
    for now in (1.0, 3 * AGING_S, 3 * AGING_S, 4 * AGING_S):
        gates.leave((order[-1] if order else 0, 0), now)
        order += started(gates, now)
    assert order == [2, 1, 4, 3]


def test_what_never_entered_may_leave() -> None:
    gates = filled(1)
    gates.leave((77, 0), 0.0)
    assert not gates.enter("a", (1, 0), 0.0)
