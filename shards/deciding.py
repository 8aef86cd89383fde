"""Whether a delivery is sent now: preferences, contacts, digests, caps, limits and quiet hours, in that order."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Literal

from shards import ledger
from shards.book import (
    INAPP,
    PLACE_SHIFT,
    Book,
    is_expired,
)
from shards.caps import Cap
from shards.changes import Now
from shards.deferrals import Timer, waits_until_ms
from shards.frames import Entry, Frame, one
from shards.limiter import Limiter
from shards.people import User
from shards.preferences import Choices
from shards.rules import Asked, Rule
from shards.wire.notification import PRIORITIES

NEVER_QUIET = frozenset({INAPP, "webhook"})
CRITICAL = len(PRIORITIES) - 1


class Deciding(Book):
    """Decides one delivery at a time. What it looks at without changing it is public: ``explain`` asks the same."""

    def _decide_singly(self, entry: Entry, asked: Asked, now: Now) -> None:
        """Decide one pending delivery, and queue it if it is to be sent."""
        if not self._decides(entry, asked, now):
            return
        frame, slot, *_ = entry
        lane = ledger.lane_of_word(frame.slots[slot])
        frame.active += 1
        if (frame.seq, slot) in self.suspects:
            self.suspects.wait(lane >> 2, entry)
        else:
            self._enqueue(lane, one(entry), now.mono)

    def _decides(self, entry: Entry, asked: Asked, now: Now) -> bool:
        """Whether a pending delivery is to be sent now; if not, it has ended, or waits.

        It is decided from its stored word: it may have been planned by an older configuration.

        The order: cancelled, expired, allowed, reachable, digest, cap, limit, quiet hours. What was charged is not
        charged again, and what has left a digest does not join one.
        """
        frame, slot, index, user, _ = entry
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        digest = frame.digests.get(slot)
        if self._is_cancelled(entry, now):
            return False
        if is_expired(frame, index, slot, now):
            self._end(entry, ledger.EXPIRED, "expires_at", now)
            return False
        outcome, reason = self.people.verdict(user.choices, asked.category, channel, asked.override, asked.explicit)
        if outcome != ledger.PENDING:
            self._end(entry, outcome, ledger.REASONS[reason], now)
            return False
        if ledger.reason_of(value) not in ledger.CHARGED:
            if digest is None and self._joins_digest(entry, asked.category, "always", now):
                return False
            if not self._charge(entry, asked, now):
                return False
        channel = ledger.channel_of(frame.slots[slot])  # it may have been moved
        if quiet_until_ms := self.quiet_until_ms(user, asked, channel, priority, now):
            self._defer(frame, slot, index, "quiet_hours", quiet_until_ms)
            return False
        return True

    def _charge(self, entry: Entry, asked: Asked, now: Now) -> bool:
        """Charge the delivery to what limits it; False if that has ended, deferred or moved it."""
        frame, slot, _, user, _ = entry
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), PRIORITIES[ledger.priority_of(value)]
        key, mono = user.signed_hash, now.mono
        caps = self.caps_of(asked.category, channel)
        if any(priority not in cap.exempt and not cap.has_room(key, mono) for cap in caps):
            self._end(entry, ledger.RATE_LIMITED, "cap", now)
            return False
        limiter = self.limiters.get(channel)
        if limiter is not None and not limiter.allow(key, mono, priority in limiter.exempt):
            return self._overflow(entry, asked, limiter, now)
        for cap in caps:
            cap.charge(key, mono)
        if caps or limiter is not None:
            self._note_reason(frame, slot, "charged")
        return True

    def caps_of(self, category: str, channel: int) -> list[Cap]:
        if not self.limits.caps:
            return []
        name = self.channel_names[channel]
        return [cap for cap in self.limits.caps.values() if cap.covers(category, name)]

    def _overflow(self, entry: Entry, asked: Asked, limiter: Limiter, now: Now) -> bool:
        """Carry out what ``overflow`` says; whether the delivery is to be sent now."""
        frame, slot, index, user, _ = entry
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        planned = self._planned(frame, index)
        way, due_ms = self.overflow(user, asked.category, channel, priority, planned, slot in frame.digests, now)
        match way:
            case "delay":
                limiter.reserve(user.signed_hash, now.mono)
                for cap in self.caps_of(asked.category, channel):
                    cap.charge(user.signed_hash, now.mono)
                self._defer(frame, slot, index, "limit", due_ms)
            case "digest":
                self._joins_digest(entry, asked.category, "overflow", now)
            case "inapp":
                self._move_to_inbox(frame, slot)
                return not self._is_left(frame, slot) and self._decides(entry, asked, now)
            case "drop":
                self._end(entry, ledger.RATE_LIMITED, "limit", now)
        return False

    def overflow(
        self, user: User, category: str, channel: int, priority: int, planned: Container[int], is_digest: bool, now: Now
    ) -> tuple[Literal["drop", "delay", "digest", "inapp"], int]:
        """What becomes of a delivery that exceeds its limit, and until when it is delayed.

        ``planned`` are the channels of its notification.
        """
        limiter = self.limiters[channel]
        match "delay" if is_digest and limiter.overflow == "digest" else limiter.overflow:
            case "delay":
                wait_s = limiter.next_at(user.signed_hash, now.mono) - now.mono
                if wait_s <= self.settings.schedules.horizon:
                    return "delay", math.ceil(now.wall_us / 1000 + wait_s * 1000)
            case "digest":
                if self.digest_of(category, channel, priority, "overflow") is not None:
                    return "digest", 0
            case "inapp":
                if not is_digest and self.inapp not in planned:
                    return "inapp", 0
        return "drop", 0

    def _planned(self, frame: Frame, index: int) -> list[int]:
        """The channels of a notification."""
        first = sum(frame.widths[:index])
        return [ledger.channel_of(word) for word in frame.slots[first : first + frame.widths[index]]]

    def _move_to_inbox(self, frame: Frame, slot: int) -> None:
        """Plan the delivery in-app instead."""
        value = frame.slots[slot]
        channels = self.counters.channels
        channels[ledger.channel_of(value)].planned -= 1
        channels[self.inapp].planned += 1
        frame.slots[slot] = value & ~0xFF | self.inapp
        frame.mask |= ledger.lane_bit(ledger.lane_of_word(frame.slots[slot]))
        frame.notes[slot] = (None, "overflow", "")
        self._note_reason(frame, slot, "overflow")
        if frame.new:
            frame.new.has_inbox = True
        else:
            self.changes.moved.append(frame.seq)

    def _joins_digest(self, entry: Entry, category: str, when: Literal["always", "overflow"], now: Now) -> bool:
        """Whether the delivery waits for others now; the leading one of a window goes on."""
        frame, slot, index, user, _ = entry
        value = frame.slots[slot]
        name = self.digest_of(category, ledger.channel_of(value), ledger.priority_of(value), when)
        if name is None:
            return False
        channel = self.channel_names[ledger.channel_of(value)]
        key = self.digests.key(name, self.contents.notification(frame.seq, index))
        known = self.digests.open(user.user_id, channel, category, name, key)
        identifier = f"{self.ids.make(user.hash, frame.seq, index)}-{channel}"
        expires_ms = frame.expiry.get(index) if frame.expiry else None
        lane = ledger.lane_of_word(value)
        digest, leads = self.digests.join(
            known,
            (identifier, user.user_id, channel, category, name, key),
            (frame.seq << PLACE_SHIFT | index, lane, expires_ms),
            now.wall_us // 1000,
        )
        assert digest.due_ms is not None
        self.windows.add(digest.lane, digest.due_ms)
        if leads:
            self._note_reason(frame, slot, "charged")
            return False
        self._set_deferred(frame, slot, "digest", digest.due_ms)
        return True

    def digest_of(self, category: str, channel: int, priority: int, when: Literal["always", "overflow"]) -> str | None:
        if priority == CRITICAL:
            return None
        return self.digests.covering(category, self.channel_names[channel], when)

    def quiet_until_ms(self, user: User, asked: Asked, channel: int, priority: int, now: Now) -> int | None:
        """When the user's quiet hours end, if they are to be respected and it is quiet."""
        quiet = user.choices.quiet
        if quiet is None or not self.is_quieted(asked.override, channel, priority):
            return None
        return quiet.release_ms(now.wall_us // 1000)

    def is_quieted(self, override: bool, channel: int, priority: int) -> bool:
        return not override and priority != CRITICAL and self.channel_names[channel] not in NEVER_QUIET

    def _needs_a_look(self, rule: Rule, channel: int, choices: Choices) -> bool:
        """Whether such a delivery is decided by more than what its decision knows."""
        limiter = self.limiters.get(channel)
        return (
            (choices.quiet is not None and self.is_quieted(rule.override, channel, rule.priority))
            or self.digest_of(rule.category, channel, rule.priority, "always") is not None
            or (limiter is not None and limiter.overflow != "drop")
            or bool(self.caps_of(rule.category, channel))
        )

    def _defer(self, frame: Frame, slot: int, index: int, reason: str, due_ms: int) -> None:
        """Until then it is on disk only; it does not outlive its expiry there."""
        if slot not in frame.digests:
            due_ms = waits_until_ms(due_ms, frame.expiry.get(index) if frame.expiry else None)
        self._set_deferred(frame, slot, reason, due_ms)
        self.deferrals.add(Timer(ledger.lane_of_word(frame.slots[slot]), due_ms, frame.seq, slot))

    def _is_cancelled(self, entry: Entry, now: Now) -> bool:
        """Whether it is; one that was under way when it was cancelled, and when the shard died, ends here."""
        frame, slot, *_ = entry
        value = frame.slots[slot]
        if not ledger.is_withdrawn(value):
            return False
        if ledger.outcome_of(value) in ledger.OPEN:
            self._end(entry, ledger.CANCELLED, "cancelled", now)
        return True
