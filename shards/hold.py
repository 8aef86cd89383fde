"""A backup's hold on a journal: its main file does not change, as new commits stay in the log."""

from __future__ import annotations

from typing import Any

from shards import schema
from shards.changes import Now
from shards.journal import SqliteJournal
from shards.wire.errors import RequestError

LEASE_S = 600.0  # a backup that takes longer, or is gone, has lost its hold: the log does not grow without end


class Hold:
    """Of one backup at a time: a later one takes it over, and the earlier one learns that at its end.

    Call it between transactions: a log is not written back within one.
    """

    def __init__(self, journal: SqliteJournal) -> None:
        self._journal = journal
        self._name: str | None = None
        self._until = 0.0

    def begin(self, name: str, now: Now) -> dict[str, Any]:
        """Write the log back into the main file, and leave that alone from now on."""
        run = self._journal.database.execute
        busy = run("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise RequestError("unavailable", "the log cannot be written back now; try again")
        run("PRAGMA wal_autocheckpoint = 0")
        self._name, self._until = name, now.mono + LEASE_S
        return {"generation": self._journal.generation, "last": self._journal.state.last}

    def end(self, name: str) -> dict[str, Any]:
        """Whether the main file was left alone since ``begin``."""
        held = self._name == name
        if held:
            self._release()
        return {"held": held}

    def expire(self, now: Now) -> None:
        if self._name is not None and now.mono >= self._until:
            self._release()

    def _release(self) -> None:
        self._name = None
        self._journal.database.execute(f"PRAGMA wal_autocheckpoint = {schema.CHECKPOINT_PAGES}")
