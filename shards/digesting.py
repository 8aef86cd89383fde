"""Digests on their way: a window closes, and what it has gathered goes out as one delivery, by way of one of them."""

from __future__ import annotations

from collections.abc import Container

from shards import ledger
from shards.book import (
    PLACE_MASK,
    PLACE_SHIFT,
    is_expired,
    waits_in_digest,
)
from shards.changes import Now
from shards.deciding import Deciding
from shards.digests import Digest
from shards.frames import Entry, Frame
from shards.rules import Asked


class Digesting(Deciding):
    """Closes windows, and keeps the items in step with the delivery that carries them."""

    def _close_window(self, digest: Digest, now: Now) -> None:
        """Send what is left of a window by way of its first item."""
        live: list[tuple[Entry, Asked]] = []
        expiries: list[int | None] = []
        for frame, slot, place in self._items(digest):
            if not waits_in_digest(frame.slots[slot]):
                continue
            index = place & PLACE_MASK
            entry, notification = self._entry(frame, slot, index)
            if is_expired(frame, index, slot, now):
                self._end(entry, ledger.EXPIRED, "expires_at", now)
                continue
            live.append((entry, self.routing.asked(notification)))
            expiries.append(frame.expiry.get(index) if frame.expiry else None)
        known = [one for one in expiries if one is not None]
        expires_ms = max(known) if known and len(known) == len(expiries) else None
        self.digests.close(digest, [entry[0].seq << PLACE_SHIFT | entry[2] for entry, _ in live], expires_ms)
        if live:
            (frame, slot, index, user, _), asked = live[0]
            frame.digests[slot] = digest
            self._resume(frame, slot, "")
            self._decide_or_leave((frame, slot, index, user, digest.id), asked, now)

    def _is_cancelled(self, entry: Entry, now: Now) -> bool:
        return self._withdraws(entry, now) or super()._is_cancelled(entry, now)

    def _withdraws(self, entry: Entry, now: Now) -> bool:
        """What was cancelled while a digest was under way leaves it before the next attempt: its carrier?"""
        frame, slot, *_ = entry
        digest = frame.digests.get(slot)
        if digest is None or not digest.withdrawn:
            return False
        gone, digest.withdrawn = frozenset(digest.withdrawn), []
        self._lose(digest, gone, now)
        if slot in frame.digests:
            return False
        self._end(entry, ledger.CANCELLED, "cancelled", now)
        return True

    def _lose(self, digest: Digest, gone: Container[int], now: Now) -> None:
        """Items that were cancelled leave a digest that is closed. Where its carrier is among them, the next takes its
        part, and the carrier is for the caller to end."""
        items = self._items(digest)
        rest = [item for item in items if item[2] not in gone]
        digest.places = [place for _, _, place in rest]
        self.digests.save(digest)
        for frame, slot, place in items:
            if place in gone and place == digest.carrier:
                del frame.digests[slot]
                if rest:
                    self._hand_over(digest, (frame, slot), rest[0], now)
            elif place in gone and waits_in_digest(frame.slots[slot]):
                frame.open -= 1
                self._settle(frame, slot, ledger.CANCELLED, ledger.REASON["cancelled"])

    def _hand_over(self, digest: Digest, carrier: tuple[Frame, int], item: tuple[Frame, int, int], now: Now) -> None:
        """An item goes on from where the carrier was, with the attempts made so far."""
        before, at = carrier
        frame, slot, digest.carrier = item
        self.digests.save(digest)
        frame.digests[slot] = digest
        value, note = before.slots[at], before.notes.get(at)
        attempts = value & 0xFF << ledger.ATTEMPTS_SHIFT
        before.slots[at] = value & ~attempts
        plan = frame.slots[slot] & ledger.KEEP | attempts
        entry, notification = self._entry(frame, slot, digest.carrier & PLACE_MASK)
        due_ms = note[0] or 0 if note else 0
        match ledger.outcome_of(value):
            case ledger.DEFERRED:
                frame.slots[slot] = plan
                self._defer(frame, slot, entry[2], ledger.REASONS[ledger.reason_of(value)], due_ms)
            case ledger.RETRYING:
                frame.slots[slot] = plan | ledger.RETRYING << ledger.OUTCOME_SHIFT
                frame.notes[slot] = note or (due_ms, "", "")
                frame.active += 1
                self._changed(frame)
                due_s = now.mono + due_ms / 1000 - now.wall_us / 1e6
                self.retrying[ledger.channel_of(value)].push(due_s, entry)
            case _:
                self._resume(frame, slot, ledger.REASONS[ledger.reason_of(value)])
                frame.slots[slot] |= attempts
                self._decide_or_leave(entry, self.routing.asked(notification), now)

    def _reopen_items(self, digest: Digest) -> None:
        """The digest is tried again: what it took along is as open as it is."""
        for other, at, place in self._items(digest):
            value = other.slots[at]
            if place != digest.carrier and ledger.outcome_of(value) == ledger.DEAD:
                other.open += 1
                self.counters.channels[ledger.channel_of(value)].outcomes[ledger.DEAD] -= 1
                self._set_deferred(other, at, "digest", None)

    def _resume(self, frame: Frame, slot: int, reason: str) -> None:
        """A deferred delivery is pending again."""
        plan = frame.slots[slot] & ledger.KEEP
        frame.slots[slot] = plan | ledger.REASON[reason] << ledger.REASON_SHIFT
        frame.notes.pop(slot, None)
        frame.late = True
        frame.mask |= ledger.lane_bit(ledger.lane_of_word(plan))
        self._changed(frame)

    def _decide_or_leave(self, entry: Entry, asked: Asked, now: Now) -> None:
        """Decide it, unless its lane will come to it on disk."""
        if not self._is_left(*entry[:2]):
            self._decide_singly(entry, asked, now)
