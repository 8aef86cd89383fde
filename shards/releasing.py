"""What waits on disk comes back: lanes that have room again, deliveries whose time has come, digests that close."""

from __future__ import annotations

from itertools import accumulate

from shards import ledger
from shards.book import is_expired
from shards.changes import Now
from shards.deferrals import Timer
from shards.digesting import Digesting
from shards.stored import StoredFrame

FRAMES_PER_REFILL = 64  # read from disk for a lane in one turn,
ITEMS_PER_REFILL = 1_000  # until so many deliveries are decided: they delay whatever comes in
RELEASED_MAX = 200  # deferred deliveries that one turn decides per lane: others wait for so many
ITEMS_MAX = 100  # of the digests that one turn closes, and one digest more; its lanes share them


class Releasing(Digesting):
    """``refill`` and ``release`` run between a commit and the next frames: the journal then has all there is."""

    def refill(self, now: Now) -> bool:
        """Bring deliveries from disk into lanes that have room; whether there may be more to bring.

        Only between ``committed`` and the next ``judge``: the journal then holds every frame up to ``last``.
        """
        more = False
        room = self.settings.bounds.lane_items // 2
        # what the others move to the inbox is not in the journal yet: its lanes come first, and find it the next time
        for lane, after in sorted(self.behind.items(), key=lambda item: item[0] >> 2 != self.inapp):
            if self.queued[lane] > room:
                continue
            decided = 0
            for row in self._journal.frames.open(lane, after, FRAMES_PER_REFILL):
                self.behind[lane] = row.seq
                decided += self._expand(row, lane, now)
                if decided >= ITEMS_PER_REFILL or self.queued[lane] >= self.settings.bounds.lane_items:
                    break
            if self.behind[lane] == after:
                del self.behind[lane]
            else:
                more = True
        return more

    def _expand(self, row: StoredFrame, lane: int, now: Now) -> int:
        """Decide the frame's deliveries that belong into the lane; how many these were."""
        frame = self._frame(row)
        value = ledger.word(lane >> 2, lane & 3)
        pending = [slot for slot, word in enumerate(frame.slots) if word & ledger.PLAN == value]
        for slot in pending:  # as they were found: one may hand a digest over to another, which is then decided there
            entry, notification = self._entry(frame, slot, frame.index_of(slot))
            self._decide_singly(entry, self.routing.asked(notification), now)
        return len(pending)

    def release(self, now: Now) -> bool:
        """Decide what is due of the deferred, and close the windows that are over; whether there may be more.

        Only between ``committed`` and the next ``judge``, like ``refill``. A lane without room leaves them on disk.
        """
        now_ms = now.wall_us // 1000
        more = False
        for lane in self.deferrals.dues.lanes(now_ms):
            if self._has_room(lane):
                timers = self._journal.waiting.timers(lane, now_ms, RELEASED_MAX + 1)
                more = more or len(timers) > RELEASED_MAX
                due = timers[:RELEASED_MAX]
                self.deferrals.take(lane, due, self._journal.waiting.due_after(lane, due))
                for timer in due:
                    self._release(timer, now)
        lanes = list(filter(self._has_room, self.windows.lanes(now_ms)))
        for lane in lanes:
            more = self._close_windows(lane, max(1, ITEMS_MAX // len(lanes)), now) or more
        return more

    def _close_windows(self, lane: int, items_max: int, now: Now) -> bool:
        """Close those of a lane that are over, until they have so many items; whether there may be more."""
        now_ms = now.wall_us // 1000
        digests = self._journal.waiting.due_windows(lane, now_ms, items_max + 1)
        sizes = accumulate(len(digest.places) for digest in digests)
        taken = min(items_max, 1 + sum(size < items_max for size in sizes))
        left_ms = digests[taken].due_ms if taken < len(digests) else None
        self.windows.replace(lane, left_ms or self._journal.waiting.window_due_after(lane, now_ms))
        for digest in self.digests.opened(lane):
            self.windows.add(lane, digest.due_ms or 0)
        for digest in filter(None, map(self.digests.newest, digests[:taken])):
            self._close_window(digest, now)
        return left_ms is not None

    def _release(self, timer: Timer, now: Now) -> None:
        _, due_ms, seq, slot = timer
        frame = self._known(seq)
        if frame is None:
            return
        value = frame.slots[slot]
        note = frame.notes.get(slot)
        if ledger.outcome_of(value) != ledger.DEFERRED or note is None or note[0] != due_ms:
            return  # it was cancelled, or deferred anew
        entry, notification = self._entry(frame, slot, frame.index_of(slot))
        if is_expired(frame, entry[2], slot, now):  # now, and not when its lane comes to it: the clock may go back
            self._end(entry, ledger.EXPIRED, "expires_at", now)
            return
        asked = self.routing.asked(notification)
        charged = ledger.reason_of(value) in ledger.CHARGED
        self._resume(frame, slot, "charged" if charged else "")
        self._decide_or_leave(entry, asked, now)
