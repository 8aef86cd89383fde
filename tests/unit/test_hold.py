"""A backup's hold on a journal ends by itself."""

from __future__ import annotations

from pathlib import Path

from shards import schema
from shards.changes import Now
from shards.hold import LEASE_S, Hold
from shards.journal import SqliteJournal


def test_a_backup_that_is_gone_does_not_let_the_log_grow_for_ever(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "shard-0.db", 0, 1, "process", [])

    def pages() -> int:
        return int(journal.database.execute("PRAGMA wal_autocheckpoint").fetchone()[0])

    hold = Hold(journal)
    hold.begin("one", Now(100.0, 0))
    hold.expire(Now(100.0 + LEASE_S - 1, 0))
    assert pages() == 0
    hold.expire(Now(100.0 + LEASE_S, 0))
    assert pages() == schema.CHECKPOINT_PAGES
    assert hold.end("one") == {"held": False}
    hold.begin("two", Now(2_000.0, 0))
    assert hold.end("two") == {"held": True}
    assert pages() == schema.CHECKPOINT_PAGES
    journal.close()
