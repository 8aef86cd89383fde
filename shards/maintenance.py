"""What a shard does in passing: forget old keys, delete frames nobody needs, look for damage."""

from __future__ import annotations

from shards.changes import Now
from shards.core import Core
from shards.journal import SqliteJournal
from shards.scrub import Scrub
from shards.settings import ShardSettings

EVERY_S = 1.0  # also the grain of the metrics
FRAMES = 256
BROADCASTS = 16
EXPIRY_FRAMES = 64
SCRUB_EVERY_S = 0.1
SCRUB_BYTES = 2**20  # read and checked each time: more would be felt by whoever waits for a receipt


class Maintenance:
    """Bounded steps, due at ``next_at`` and ``scrub_at``. Raises ``DamagedError`` for what the scrub finds."""

    def __init__(self, settings: ShardSettings, journal: SqliteJournal, core: Core) -> None:
        self.settings = settings
        self._journal = journal
        self._core = core
        self._scrub = Scrub(journal.path, journal.database)
        self._prune_after = 0
        self.window_start = 0  # the first frame whose digests are in the idempotency set
        self.window_start_us = 0
        self.next_at = 0.0
        self.scrub_at = 0.0

    def remember_keys(self, moment: Now) -> None:
        """At the start: the idempotency digests of the window, from the journal into memory."""
        after = 0
        oldest_us = moment.wall_us - int(self.settings.idempotency.window * 1e6)
        while found := self._journal.frames.digests_from(after, 1_000):
            for seq, at_us, digests in found:
                if at_us < oldest_us:
                    continue
                if not self.window_start:
                    self.window_start, self.window_start_us = seq, at_us
                self._core.idempotency.add_frame(seq, digests)
            after = found[-1][0] + 1
            self._expire_keys(moment)

    def step(self, moment: Now) -> None:
        self.next_at = moment.mono + EVERY_S
        self._expire_keys(moment)
        self._prune(moment)
        self._forget_broadcasts(moment)

    def scrub(self, moment: Now) -> None:
        self.scrub_at = moment.mono + SCRUB_EVERY_S
        self._scrub.step(SCRUB_BYTES)

    def window_s(self, wall_us: int) -> float:
        """How far back keys are known, which the bound on entries may shorten."""
        idempotency = self.settings.idempotency
        if self.window_start_us and len(self._core.idempotency) >= idempotency.max_entries:
            return min(float(idempotency.window), (wall_us - self.window_start_us) / 1e6)
        return float(idempotency.window)

    def _expire_keys(self, moment: Now) -> None:
        """Forget keys that are older than the window, or over the bound on entries."""
        idempotency = self._core.idempotency
        oldest_us = moment.wall_us - int(self.settings.idempotency.window * 1e6)
        excess = len(idempotency) - self.settings.idempotency.max_entries
        while True:
            rows = self._journal.frames.digests_from(self.window_start, EXPIRY_FRAMES)
            for seq, at_us, digests in rows:
                if at_us >= oldest_us and excess <= 0:
                    self.window_start, self.window_start_us = seq, at_us
                    return
                excess -= idempotency.forget_frame(seq, digests)
            if not rows:
                return
            self.window_start = rows[-1][0] + 1

    def _forget_broadcasts(self, moment: Now) -> None:
        """Those that ended longer ago than what is final is kept: a key is not known any more then."""
        before_ms = moment.wall_us // 1000 - int(self.settings.retention.finished * 1000)
        if old := self._journal.topics.old_broadcasts(before_ms, BROADCASTS):
            self._journal.begin()
            self._journal.topics.forget(old)

    def _prune(self, moment: Now) -> None:
        """Delete final frames that are older than their retention, or the oldest final ones of a full journal."""
        retention = self.settings.retention
        full = self._journal.size_bytes() > retention.max_bytes
        finished_us, inbox_us = (
            (moment.wall_us, moment.wall_us)
            if full
            else (moment.wall_us - int(retention.finished * 1e6), moment.wall_us - int(retention.inbox * 1e6))
        )
        rows = self._journal.frames.prunable(self._prune_after, finished_us, inbox_us, FRAMES)
        gone = [seq for seq, _, may_go in rows if may_go and seq not in self._core.frames]
        if gone:
            self._journal.begin()
            for seq in gone:
                if seq >= self.window_start:
                    content = self._journal.frames.content(seq)
                    if content and content[2]:
                        self._core.idempotency.forget_frame(seq, content[2])
            self._journal.prune(gone)
        young = rows and rows[-1][1] >= finished_us
        self._prune_after = rows[-1][0] if rows and not young else 0
