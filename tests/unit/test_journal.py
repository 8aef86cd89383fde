"""The journal: what is recorded is read back, also after a crash."""

from __future__ import annotations

import shutil
import sqlite3
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shards import ledger, schema
from shards.changes import Changes, Dead
from shards.frames import Frame, NewFrame
from shards.journal import SqliteJournal
from shards.preferences import UserDocument
from shards.schema import DamagedError, JournalError
from shards.wire.outbox import DeadLetter, DeadRemoved

EMAIL = 0
PENDING = ledger.word(EMAIL, 1)
DELIVERED = ledger.word(EMAIL, 1, ledger.DELIVERED, attempts=1)
BODY = b"\x91\x81\xa5title\xa1t"


def open_journal(path: Path, shard: int = 0, shards: int = 1) -> SqliteJournal:
    return SqliteJournal(path, shard, shards, "process", ["email", "inapp"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[SqliteJournal]:
    journal = open_journal(path)
    yield journal
    journal.close()


def crash(journal: SqliteJournal) -> SqliteJournal:
    """The file as it is now, opened by a new process."""
    copy = journal.path.with_name(f"after-{journal.path.name}")
    for suffix in ("", "-wal"):
        source = journal.path.with_name(journal.path.name + suffix)
        if source.exists():
            shutil.copy(source, copy.with_name(copy.name + suffix))
    journal.close()
    return open_journal(copy)


def new_frame(seq: int, count: int = 2, at_us: int = 1_000) -> Frame:
    frame = Frame(seq, at_us, array("I", [PENDING] * count), bytes([1] * count))
    frame.open = frame.active = count
    frame.mask = ledger.lane_bit(ledger.lane_of(EMAIL, 1))
    frame.new = NewFrame(0, False, BODY, bytes(16), b"verdict")
    return frame


def record(journal: SqliteJournal, *frames: Frame, results: tuple[tuple[Frame, int], ...] = ()) -> None:
    changes = Changes()
    changes.frames = list(frames)
    changes.results = [(frame, slot, frame.slots[slot], frame.notes.get(slot)) for frame, slot in results]
    journal.begin()
    journal.record(changes, 5)
    journal.save_state()
    journal.commit()
    for frame in frames:
        frame.new, frame.dirty = None, False


def end(frame: Frame, slot: int) -> None:
    frame.slots[slot] = DELIVERED
    frame.open -= 1
    frame.active -= 1


def test_a_frame_is_read_back(journal: SqliteJournal) -> None:
    record(journal, new_frame(1))
    row = journal.frames.get(1)
    assert row is not None
    assert (row.body, row.widths, ledger.words(row.slots)) == (BODY, b"\1\1", array("I", [PENDING] * 2))
    assert journal.frames.content(1) == (BODY, False, bytes(16))
    assert list(journal.frames.verdicts([1, 2])) == [(1, b"verdict")]
    assert journal.frames.digests_from(0, 10) == [(1, 1_000, bytes(16))]
    assert journal.frames.get(2) is None


def test_state_and_channel_numbers_survive_a_restart(journal: SqliteJournal, path: Path) -> None:
    journal.state.last, journal.state.epoch = 7, 9
    record(journal, new_frame(7))
    generation = journal.generation
    journal.close()
    again = SqliteJournal(path, 0, 1, "process", ["sms", "inapp", "email"])
    assert (again.state.last, again.state.epoch, again.generation) == (7, 9, generation)
    assert again.channel_names == ["email", "inapp", "sms"]
    again.close()


def test_channels_are_added_up_to_the_numbers_that_there_are(journal: SqliteJournal) -> None:
    names = journal.channel_names
    journal.add_channels(["sms", "email"])
    journal.add_channels(["pager"])
    assert names == ["email", "inapp", "sms", "pager"]
    journal.commit()
    again = crash(journal)
    assert again.channel_names == names
    with pytest.raises(JournalError, match="has had 4 channels, and 253 are new; there are 256 numbers"):
        again.add_channels(f"c{number}" for number in range(253))
    again.close()


def test_what_was_not_committed_is_gone_after_a_crash(journal: SqliteJournal) -> None:
    record(journal, new_frame(1))
    changes = Changes()
    changes.frames = [new_frame(2)]
    journal.begin()
    journal.record(changes, 5)
    again = crash(journal)
    assert again.frames.get(1) is not None
    assert again.frames.get(2) is None
    again.close()


def test_logged_results_are_settled_after_a_crash(journal: SqliteJournal) -> None:
    frame = new_frame(1)
    record(journal, frame)
    end(frame, 1)
    record(journal, frame, results=((frame, 1),))
    assert journal.ledgers.pending() == 1
    again = crash(journal)
    row = again.frames.get(1)
    assert row is not None
    assert ledger.words(row.slots) == array("I", [PENDING, DELIVERED])
    assert again.ledgers.pending() == 1
    assert again.database.execute("SELECT count(*) FROM results").fetchone() == (0,)
    again.close()


def test_a_log_row_from_before_the_ledgers_last_writing_is_not_applied_again(journal: SqliteJournal) -> None:
    """A dead letter was logged; its replay then wrote the whole ledger."""
    frame = new_frame(1)
    record(journal, frame)
    frame.slots[0] = ledger.word(EMAIL, 1, ledger.DEAD, ledger.REASON["permanent"], 1)
    frame.notes[0] = (None, "permanent", "no")
    frame.open, frame.active = 1, 1
    record(journal, frame, results=((frame, 0),))
    frame.slots[0], frame.open, frame.dirty = PENDING, 2, True
    frame.notes.clear()
    record(journal, frame)
    again = crash(journal)
    row = again.frames.get(1)
    assert row is not None
    assert ledger.words(row.slots) == array("I", [PENDING, PENDING])
    assert again.ledgers.pending() == 2
    again.close()


def test_notes_of_a_logged_retry_are_settled(journal: SqliteJournal) -> None:
    frame = new_frame(1)
    record(journal, frame)
    frame.slots[0] = ledger.word(EMAIL, 1, ledger.RETRYING, attempts=1)
    frame.notes[0] = (123_000, "transient", "later")
    record(journal, frame, results=((frame, 0),))
    again = crash(journal)
    ((seq, slots, notes),) = again.ledgers.tried()
    assert (seq, ledger.words(slots)[0]) == (1, frame.slots[0])
    assert b"later" in notes
    again.close()


def test_open_frames_are_found_by_lane_in_order(journal: SqliteJournal) -> None:
    record(journal, new_frame(1), new_frame(2), new_frame(3))
    lane = ledger.lane_of(EMAIL, 1)
    assert [row.seq for row in journal.frames.open(lane, 1, 10)] == [2, 3]
    assert not list(journal.frames.open(ledger.lane_of(EMAIL, 2), 0, 10))
    assert journal.ledgers.open_mask() == (1, ledger.lane_bit(lane))


def test_a_damaged_body_is_named(journal: SqliteJournal) -> None:
    record(journal, new_frame(1))
    journal.database.execute("UPDATE frames SET body = ?", (BODY + b"!",))
    with pytest.raises(JournalError, match="1 in table frames is damaged"):
        journal.frames.get(1)
    with pytest.raises(JournalError, match="1 in table frames is damaged"):
        journal.frames.content(1)


def test_another_shards_file_is_refused(journal: SqliteJournal, path: Path) -> None:
    journal.close()
    with pytest.raises(JournalError, match="of shard 0 of 1, not 1 of 2"):
        open_journal(path, shard=1, shards=2)


def test_another_format_is_refused(journal: SqliteJournal, path: Path) -> None:
    schema.set_meta(journal.database, "format", 99)
    journal.close()
    with pytest.raises(JournalError, match="format 99"):
        open_journal(path)


def test_whoever_holds_the_file_holds_it_alone(journal: SqliteJournal) -> None:
    record(journal, new_frame(1))
    other = sqlite3.connect(journal.path, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT count(*) FROM frames").fetchone()
    other.close()


def test_open_frames_and_those_of_dead_letters_may_not_be_pruned(journal: SqliteJournal) -> None:
    still_open, final, dead = new_frame(1), new_frame(2, count=0), new_frame(3, count=0)
    record(journal, still_open, final, dead)
    letter = DeadLetter("id", "ann", "email", "system", "permanent", "permanent", "no", 1, 5, b"{}")
    changes = Changes()
    changes.dead = [Dead(3, 0, letter)]
    journal.begin()
    journal.record(changes, 5)
    journal.commit()
    assert journal.frames.prunable(0, 10_000, 10_000, 10) == [(1, 1_000, False), (2, 1_000, True), (3, 1_000, False)]
    assert journal.frames.prunable(0, 999, 10_000, 10)[1] == (2, 1_000, False)


def test_a_dead_letter_is_found_and_removed(journal: SqliteJournal) -> None:
    letter = DeadLetter("id", "ann", "email", "system", "permanent", "permanent", "no", 1, 5, b"{}")
    added, removed = Changes(), Changes()
    added.dead, removed.revived = [Dead(3, 0, letter)], [(3, 0)]
    record(journal, new_frame(3, count=0))
    added.dead.append(Dead(4, 0, msgspec.structs.replace(letter, id="of a frame that is no more")))
    journal.begin()
    journal.record(added, 5)
    assert list(journal.dead.find({"user_id": "ann", "since": 5}, 10, ["sms", "email"])) == [(3, 0, letter)]
    assert list(journal.dead.find({"user_id": "ann"}, 10, ["sms"])) == []
    assert list(journal.dead.find({"user_id": "bob"}, 10)) == []
    journal.record(removed, 5)
    journal.commit()
    assert [(seq, slot) for seq, slot, _ in journal.dead.find({}, 10)] == [(4, 0)]
    assert [number for number, _ in journal.outbox.items(0, 10)] == [1, 2, 3]


def test_documents_of_users(journal: SqliteJournal) -> None:
    document = UserDocument(locale="de")
    journal.begin()
    assert not journal.users.put("ann", document)
    assert journal.users.get("ann") == document
    assert journal.users.put("ann", None)
    assert journal.users.get("ann") is None
    journal.commit()


def test_another_generation_numbers_the_outbox_anew(journal: SqliteJournal, path: Path) -> None:
    """The collector takes a generation's items from the first on."""
    journal.begin()
    journal.outbox.post([DeadRemoved([(str(n), None)]) for n in range(3)])
    journal.state.last = 7
    before = journal.generation
    journal.begin_generation(told=1)
    journal.commit()
    assert [n for n, _ in journal.outbox.items(0, 10)] == [1, 2]
    assert journal.generation != before
    journal.close()
    again = open_journal(path)
    assert (again.state.outbox, again.origin(7), again.seq_of(before, 7)) == (2, (before, 7), 7)
    again.close()


@pytest.mark.parametrize(("table", "column"), [("ledger", "notes"), ("frames", "verdict")])
def test_damage_is_named_before_it_is_decoded(journal: SqliteJournal, table: str, column: str) -> None:
    frame = new_frame(1)
    frame.notes[0] = (5, "transient", "busy")
    record(journal, frame)
    journal.database.execute(f"UPDATE {table} SET {column} = x'c1'")
    with pytest.raises(DamagedError, match=table):
        list(journal.ledgers.tried()) + list(journal.frames.verdicts([1]))
