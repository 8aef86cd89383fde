"""The shard's end of the link: which frames it takes."""

from __future__ import annotations

from shards.intake import Intake
from shards.wire.link import Data, Ping


def data(n: int, epoch: int = 5, gen: int = 0, conn: int = 1) -> Data:
    return Data(epoch, gen, conn, n, 0, 0, False, b"")


def fresh() -> Intake:
    return Intake(last=10, epoch=(5, 0), base=8)  # it has 1 and 2 of epoch 5


def test_the_next_number_is_taken_and_numbers_the_journal() -> None:
    intake = fresh()
    assert intake.offer(data(3)) == "take"
    assert (intake.have, intake.last, intake.base) == (3, 11, 8)


def test_what_it_has_is_old() -> None:
    intake = fresh()
    assert [intake.offer(data(n)) for n in (1, 2)] == ["old", "old"]
    assert intake.last == 10


def test_a_number_too_far_is_a_gap() -> None:
    intake = fresh()
    assert intake.offer(data(4)) == "gap"
    assert intake.have == 2


def test_an_older_epoch_is_dropped_whatever_its_number() -> None:
    intake = fresh()
    assert [intake.offer(data(n, epoch=4)) for n in (1, 3, 99)] == ["old"] * 3
    assert intake.last == 10


def test_a_greater_epoch_starts_at_one() -> None:
    intake = fresh()
    assert intake.offer(data(2, epoch=6)) == "gap"
    assert intake.epoch == (5, 0)
    assert intake.offer(data(1, epoch=6)) == "take"
    assert (intake.epoch, intake.base, intake.have, intake.last) == ((6, 0), 10, 1, 11)


def test_a_greater_gen_is_a_greater_epoch() -> None:
    intake = fresh()
    assert intake.offer(data(1, gen=1)) == "take"
    assert (intake.epoch, intake.base) == ((5, 1), 10)
    assert intake.offer(data(3, gen=0)) == "old"


def test_a_ping_above_what_came_asks_for_a_resend() -> None:
    intake = fresh()
    assert not intake.missing(Ping(5, 0, 1, 2))
    ping = Ping(5, 0, 1, 3)
    assert intake.missing(ping)
    assert intake.wants_resend(ping)


def test_a_ping_of_a_greater_epoch_with_frames_is_a_gap_and_of_an_older_one_is_not() -> None:
    intake = fresh()
    assert intake.missing(Ping(6, 0, 1, 1))
    assert not intake.missing(Ping(6, 0, 1, 0))
    assert not intake.missing(Ping(4, 0, 1, 99))


def test_only_the_newest_connection_is_asked() -> None:
    intake = fresh()
    intake.offer(data(3, conn=2))
    late = data(9, conn=1)
    assert intake.offer(late) == "gap"
    assert not intake.wants_resend(late)
    assert intake.wants_resend(data(9, conn=2))


def test_one_request_for_all_gaps_between_two_pings() -> None:
    intake = fresh()
    gap = data(5)
    intake.offer(gap)
    assert [intake.wants_resend(gap) for _ in range(3)] == [True, False, False]
    intake.missing(Ping(5, 0, 1, 5))
    assert intake.wants_resend(gap)
