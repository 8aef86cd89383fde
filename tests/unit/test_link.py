"""The router's end of the link: numbers, the window, and what reports do to it."""

from __future__ import annotations

import pytest

from dispatcher.router.link import Link, SupersededError
from shards.wire.link import Report

EPOCH = 5


def filled(count: int, frames: int = 100, size: int = 10_000) -> Link[str]:
    link = Link[str](0, EPOCH, frames, size)
    for number in range(1, count + 1):
        link.add(0, 0, False, b"body", f"owner-{number}")
    return link


def send(link: Link[str]) -> list[tuple[int, int, int]]:
    """``(gen, conn, n)`` of what goes out now."""
    sent = []
    for data in link.unsent():
        sent.append((data.gen, data.conn, data.n))
        link.sent()
    return sent


def report(
    have: int, conn: int = 1, epoch: int = EPOCH, gen: int = 0, resend: bool = False, incarnation: int = 1
) -> Report:
    return Report(0, incarnation, epoch, gen, conn, have, 1000, "gen", resend)


def test_frames_are_numbered_from_one_and_sent_once() -> None:
    link = filled(3)
    assert send(link) == [(0, 1, 1), (0, 1, 2), (0, 1, 3)]
    assert send(link) == []


def test_a_ping_says_what_was_sent_not_what_waits() -> None:
    link = filled(2)
    assert link.ping().hi == 0
    send(link)
    assert link.ping().hi == 2


def test_a_report_releases_up_to_have_with_the_journals_numbers() -> None:
    link = filled(3)
    send(link)
    released, reconnect = link.report(report(2))
    assert [(one.n, one.seq, one.owner) for one in released] == [(1, 1001, "owner-1"), (2, 1002, "owner-2")]
    assert not reconnect
    assert len(link) == 1


def test_a_stale_report_releases_nothing() -> None:
    link = filled(3)
    link.report(report(2))
    assert link.report(report(1)) == ([], False)


@pytest.mark.parametrize(("epoch", "gen"), [(EPOCH - 1, 0), (EPOCH, 1)])
def test_another_series_releases_nothing(epoch: int, gen: int) -> None:
    assert filled(3).report(report(3, epoch=epoch, gen=gen)) == ([], False)


def test_a_greater_epoch_ends_this_router() -> None:
    with pytest.raises(SupersededError):
        filled(1).report(report(0, epoch=EPOCH + 1))


def test_a_greeting_of_a_new_incarnation_is_obeyed_once() -> None:
    link = filled(2)
    send(link)
    greeting = report(1, conn=0, resend=True, incarnation=7)
    released, reconnect = link.report(greeting)
    assert (len(released), reconnect) == (1, True)
    assert send(link) == [(0, 2, 2)]
    assert link.report(greeting) == ([], False)


def test_a_request_on_an_older_connection_is_not_obeyed() -> None:
    link = filled(2)
    link.report(report(0, conn=0, resend=True, incarnation=7))
    assert link.report(report(0, conn=1, resend=True, incarnation=7)) == ([], False)


def test_a_request_on_the_current_connection_resends_the_window() -> None:
    link = filled(3)
    send(link)
    assert link.report(report(1, resend=True))[1]
    assert send(link) == [(0, 2, 2), (0, 2, 3)]


def test_a_journal_that_lost_frames_gets_a_new_series() -> None:
    link = filled(4)
    send(link)
    link.report(report(2))
    released, reconnect = link.report(report(1, resend=True))
    assert (released, reconnect) == ([], True)
    assert send(link) == [(1, 2, 1), (1, 2, 2)]
    released, _ = link.report(report(2, conn=2, gen=1))
    assert [one.owner for one in released] == ["owner-3", "owner-4"]


def test_a_greeting_that_knows_less_is_no_proof_of_loss() -> None:
    """It may be from before what was released since: only the current connection's word counts."""
    link = filled(4)
    send(link)
    link.report(report(2))
    link.report(report(1, conn=0, resend=True, incarnation=7))
    assert send(link) == [(0, 2, 3), (0, 2, 4)]


def test_the_window_is_bounded_in_frames() -> None:
    link = filled(2, frames=2)
    assert not link.has_room(1)
    link.report(report(1))
    assert link.has_room(1)


def test_the_window_is_bounded_in_bytes_and_an_empty_one_takes_any() -> None:
    link = filled(0, size=10)
    assert link.has_room(1_000)
    link.add(0, 0, False, b"12345678", "a")
    assert link.has_room(2)
    assert not link.has_room(3)
    link.report(report(1))
    assert link.has_room(1_000)


def test_what_was_released_is_not_sent() -> None:
    """An old connection may have brought it."""
    link = filled(3)
    link.report(report(2))
    assert send(link) == [(0, 1, 3)]
