"""The witness: the last thing that it was told, also when that was cut short; and what a journal makes of it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

import shards.journal
from shards.journal import SqliteJournal, witness_path
from shards.schema import DamagedError
from shards.witness import Statement, Witness
from tests.unit.test_journal import new_frame, open_journal, record


def said(commits: int) -> Statement:
    return Statement("12345678", commits, 7, 99, True)


def test_a_new_page_says_nothing(tmp_path: Path) -> None:
    assert Witness(tmp_path / "page").read() is None


def test_the_last_word_is_there_after_the_process_has_gone(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "page")
    for commits in range(1, 4):
        witness.write(said(commits))
    assert Witness(tmp_path / "page").read() == said(3)


def test_a_write_that_was_cut_short_leaves_the_one_before(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "page")
    witness.write(said(1))
    before = (tmp_path / "page").read_bytes()
    witness.write(said(2))
    after = (tmp_path / "page").read_bytes()
    changed = next(at for at, (old, new) in enumerate(zip(before, after, strict=True)) if old != new)
    (tmp_path / "page").write_bytes(after[: changed + 1] + before[changed + 1 :])
    assert Witness(tmp_path / "page").read() == said(1)


def grown(path: Path, frames: int) -> None:
    """A journal with so many frames, closed."""
    journal = open_journal(path)
    for seq in range(journal.state.last + 1, frames + 1):
        journal.state.last = seq
        record(journal, new_frame(seq))
    journal.close()


def test_a_journal_that_ends_before_its_witness_is_damaged(tmp_path: Path) -> None:
    path, old = tmp_path / "journal.db", tmp_path / "old.db"
    grown(path, 1)
    shutil.copy(path, old)
    grown(path, 3)
    shutil.copy(old, path)
    with pytest.raises(DamagedError, match=r"ends at frame 1.*witness says frame 3"):
        open_journal(path)


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_a_journal_that_is_gone_is_not_taken_for_a_new_one(tmp_path: Path, left: str) -> None:
    path = tmp_path / "journal.db"
    grown(path, 1)
    path.unlink()
    if left == "an empty file":
        path.touch()
    with pytest.raises(DamagedError, match=r"there was one|it was not"):
        open_journal(path)


def test_after_a_power_cut_unsynchronised_commits_may_be_gone_and_numbers_start_a_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, old = tmp_path / "journal.db", tmp_path / "old.db"
    grown(path, 2)
    shutil.copy(path, old)
    grown(path, 3)
    shutil.copy(old, path)
    monkeypatch.setattr(shards.journal, "boot_now", lambda: 1)
    with caplog.at_level(logging.WARNING):
        journal = open_journal(path)
    first = journal.origin(1)[0]
    assert journal.origin(3) == (journal.generation, 3)
    assert first != journal.generation
    assert (journal.origin(2), journal.seq_of(first, 2), journal.seq_of(first, 3)) == ((first, 2), 2, None)
    journal.close()


def test_what_was_synchronised_may_not_be_gone_after_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old = tmp_path / "journal.db", tmp_path / "old.db"
    for frames in (1, 2):
        journal = SqliteJournal(path, 0, 1, "power", ["email", "inapp"])
        journal.state.last = frames
        record(journal, new_frame(frames))
        journal.close()
        if frames == 1:
            shutil.copy(path, old)
    shutil.copy(old, path)
    monkeypatch.setattr(shards.journal, "boot_now", lambda: 1)
    with pytest.raises(DamagedError):
        open_journal(path)


def test_a_generation_that_the_witness_does_not_know_is_damage(tmp_path: Path) -> None:
    path, other = tmp_path / "journal.db", tmp_path / "other.db"
    grown(path, 1)
    grown(other, 5)
    shutil.copy(other, path)
    with pytest.raises(DamagedError):
        open_journal(path)
    assert witness_path(path).exists()
