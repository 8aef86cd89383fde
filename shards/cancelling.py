"""Ending what is open because its producer has said so."""

from __future__ import annotations

from shards import ledger
from shards.attempts import Attempts
from shards.book import (
    PLACE_SHIFT,
    waits_in_digest,
)
from shards.changes import Now
from shards.deferrals import Timer
from shards.digests import Digest
from shards.frames import Entry, Frame


class Cancelling(Attempts):
    """Of one notification at once, of a broadcast frame by frame."""

    def cancel(self, seq: int, index: int, now: Now) -> tuple[int, bool]:
        """End what is open of a notification: how many deliveries, and whether any was open.

        One that is under way is not counted; it ends instead of a retry.
        """
        frame = self._known(seq)
        if frame is None or index >= len(frame.widths):
            return 0, False
        first = sum(frame.widths[:index])
        count, found = 0, False
        for slot in range(first, first + frame.widths[index]):
            value = frame.slots[slot]
            if ledger.outcome_of(value) not in ledger.OPEN:
                continue
            found = True
            count += self._cancel(frame, slot, index, now)
        return count, found

    def sweep(self, now: Now) -> bool:
        """End what is open of a cancelled broadcast, a frame at a time; whether there may be more. Like ``refill``."""
        seq = self.broadcasts.sweep(now)
        if seq is None:
            return False
        frame = self._known(seq)
        if frame is not None:
            for slot, value in enumerate(frame.slots):
                if ledger.outcome_of(value) in ledger.OPEN:
                    self._cancel(frame, slot, frame.index_of(slot), now)
        return True

    def _cancel(self, frame: Frame, slot: int, index: int, now: Now) -> bool:
        value = frame.slots[slot]
        outcome, lane = ledger.outcome_of(value), ledger.lane_of_word(value)
        entry = self._entry(frame, slot, index)[0]
        place = frame.seq << PLACE_SHIFT | index
        digest = frame.digests.get(slot) or (self._digest_with(entry, place) if waits_in_digest(value) else None)
        if digest is not None and digest.due_ms is None and len(digest.places) > 1:
            if self._is_under_way(digest):
                digest.withdrawn.append(place)
                self.digests.save(digest)
                return False
            is_carrier = digest.carrier == place
            self._lose(digest, {place}, now)
            if not is_carrier:
                return True
        if slot in frame.flying:
            self._note_reason(frame, slot, "cancelled")
            return False
        if digest is not None and digest.due_ms is not None:
            self.digests.leave(digest, place)
        elif outcome == ledger.DEFERRED and slot in frame.notes:
            self.deferrals.remove([Timer(lane, frame.notes[slot][0] or 0, frame.seq, slot)])
        # in memory it stays where it is, and is left out when its turn comes
        in_lane = outcome == ledger.PENDING and frame.seq <= self.behind.get(lane, self.last)
        frame.gone = frame.gone or in_lane or outcome == ledger.RETRYING
        self._end(entry, ledger.CANCELLED, "cancelled", now)
        return True

    def _is_under_way(self, digest: Digest) -> bool:
        assert digest.carrier is not None
        frame = self.frames.get(digest.carrier >> PLACE_SHIFT)
        return frame is not None and self._slot_of(frame, digest.carrier, digest.channel) in frame.flying

    def _digest_with(self, entry: Entry, place: int) -> Digest | None:
        """The digest that an item is in, as it is in memory if it is being sent."""
        frame, slot, _, user, _ = entry
        digest = self.digests.holding(user.user_id, self.channel_names[ledger.channel_of(frame.slots[slot])], place)
        if digest is None or digest.carrier is None:
            return digest
        carrier = self._known(digest.carrier >> PLACE_SHIFT)
        at = self._slot_of(carrier, digest.carrier, digest.channel) if carrier else None
        if carrier is None or at is None:
            return None
        return carrier.digests[at]
