"""What is under way is found by the next process; what has ended is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.marks import Mark, Marks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "marks"


def test_the_next_process_finds_what_was_under_way(path: Path) -> None:
    marks = Marks(path, 8)
    marks.start(5, [0, 1, 2], alone=False)
    marks.start(6, [7], alone=True)
    marks.end(5, [1])
    assert sorted(Marks(path, 8).found()) == [Mark(5, 0, False), Mark(5, 2, False), Mark(6, 7, True)]


def test_there_is_room_for_more(path: Path) -> None:
    marks = Marks(path, 2)
    marks.start(5, [0], alone=False)
    marks.grow(3_000)
    marks.start(6, range(2_999), alone=False)
    marks.end(6, range(2_998))
    assert sorted(Marks(path, 8).found()) == [Mark(5, 0, False), Mark(6, 2_998, False)]


def test_after_an_end_in_order_there_is_nothing(path: Path) -> None:
    marks = Marks(path, 8)
    marks.start(5, [0, 1], alone=False)
    marks.clear()
    assert not Marks(path, 8).found()


def test_a_place_is_used_again_and_again(path: Path) -> None:
    marks = Marks(path, 2)
    for seq in range(1, 2_000):
        marks.start(seq, [0, 1], alone=False)
        marks.end(seq, [0, 1])
    assert not marks.found()


def test_what_was_never_marked_may_end(path: Path) -> None:
    Marks(path, 2).end(1, [3])


def test_a_file_that_is_larger_than_needed_is_read_whole(path: Path) -> None:
    marks = Marks(path, 1_000)
    marks.start(9, range(900), alone=False)
    assert len(Marks(path, 2).found()) == 900


def test_the_file_is_nobody_else_s(path: Path) -> None:
    Marks(path, 2)
    assert path.stat().st_mode & 0o777 == 0o600
