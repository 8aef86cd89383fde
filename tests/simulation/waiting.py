"""What is deferred, as the files say it: until when, why, and that it is let go then and not before."""

from __future__ import annotations

import sqlite3
from collections import Counter
from functools import cache
from typing import Any

from shards import ledger
from shards.frames import Entry
from shards.quiet import QuietHours
from shards.wire.notification import PRIORITIES, Notification
from tests.simulation.policies import Policies
from tests.simulation.stored import Place, Stored, is_digest_item, plainly
from tests.simulation.wire import Clock

Documents = dict[str, dict[str, Any]]
NEVER_QUIET = ("inapp", "webhook")


@cache
def _quiet_hours(start: str, end: str, zone: str) -> QuietHours:
    return QuietHours(start, end, None, zone)


class Waiting:
    def __init__(self, stored: Stored, policies: Policies, clock: Clock) -> None:
        self.due_ms: dict[Place, int] = {}
        self.reached: Counter[str] = Counter()  # rare states
        self.latest_ms = 0  # the latest that the wall clock ever was
        self.lives = 0
        self._life_of: dict[Place, int] = {}  # in which a delivery was deferred
        self._stored = stored
        self._policies = policies
        self._clock = clock

    def look_at_clock(self) -> None:
        self.latest_ms = max(self.latest_ms, self._clock.wall_us // 1000)

    def read(self, database: sqlite3.Connection) -> None:
        """After ``stored`` has."""
        self.look_at_clock()
        stored, before = self._stored, self.due_ms
        self.due_ms = {}
        for lane, due_ms, seq, slot in plainly(database)("SELECT lane, due_ms, seq, slot FROM timers"):
            assert (seq, slot) not in self.due_ms, f"timers: {(seq, slot)} has two"
            self.due_ms[seq, slot] = due_ms
            word = stored.open.get((seq, slot))
            assert word is None or ledger.lane_of_word(word) == lane, f"timers: {(seq, slot)} is in another lane"
        waiting = {
            place
            for place, word in stored.open.items()
            if ledger.outcome_of(word) == ledger.DEFERRED and not is_digest_item(word)
        }
        assert self.due_ms.keys() == waiting, f"timers: {self.due_ms.keys() ^ waiting} are deferred, or have one"
        for place, old, new in stored.changed:
            if ledger.outcome_of(new) == ledger.CANCELLED:
                sent = stored.sent(place)
                asked = {(place[0], stored.index[place[0]][place[1]]), (sent.user_id, sent.key)}
                assert asked & stored.unwanted, f"{place} is cancelled, and nobody asked for it"
            if old is not None and old & 0xFF != new & 0xFF:
                self.reached["moved to the inbox"] += 1
            if place in waiting:
                self._life_of[place] = self.lives
                self._began(place, new)
            elif old is not None and place in before and ledger.outcome_of(new) != ledger.CANCELLED:
                reason = ledger.REASONS[ledger.reason_of(old)]
                self.reached[f"released after {reason}"] += 1
                self.reached["deferred across a crash"] += self._life_of[place] != self.lives
                assert before[place] <= self.latest_ms, f"{place} is let go before it is due ({reason})"

    def _began(self, place: Place, word: int) -> None:
        sent, due_ms = self._stored.sent(place), self.due_ms[place]
        said = sent.said or {}
        expires_ms = said.get("expires_at")
        if due_ms == expires_ms:
            return  # it ends then
        reason = ledger.REASONS[ledger.reason_of(word)]
        channel = self._stored.channel_names[ledger.channel_of(word)]
        _, priority, category = sent.planned()
        if not any(self._policies.digest_of(category, channel, priority, when) for when in ("always", "overflow")):
            assert expires_ms is None or due_ms < expires_ms, f"{place} waits until {due_ms}, and expires before"
        match reason:
            case "send_at":
                assert due_ms == min(said["send_at"], expires_ms or due_ms), (
                    f"{place} waits until {due_ms}, and is to be sent at {said}"
                )
            case "quiet_hours":
                # a retry is looked at after the requests of its turn, all else before them
                until_ms = {
                    self._quiet_until(sent.user_id, category, channel, word, documents)
                    for documents in (self._stored.documents_before, self._stored.documents)
                }
                assert due_ms in until_ms, f"{place} waits until {due_ms}, and it is quiet until {until_ms}"
            case "limit":
                pass  # checked beside what is spent
            case "endpoint":
                self.reached["waited for an endpoint on disk"] += 1
            case "retry":
                assert ledger.attempts_of(word), f"{place} waits for a retry, and was not attempted"
            case _:
                raise AssertionError(f"{place} is deferred for {reason!r}")

    def _quiet_until(self, user_id: str, category: str, channel: str, word: int, documents: Documents) -> int | None:
        """Until when the user does not want to be disturbed."""
        if PRIORITIES[ledger.priority_of(word)] == "critical" or category == "security" or channel in NEVER_QUIET:
            return None
        document = documents.get(user_id, {})
        window = document.get("preferences", {}).get("quiet_hours")
        if window is None:
            return None
        hours = _quiet_hours(window["start"], window["end"], document.get("timezone") or "UTC")
        return hours.release_ms(self._clock.wall_us // 1000)

    def check_queued(self, entry: Entry, said: Notification) -> None:
        """A delivery goes into its lane: is it to be sent now, as the journal stands?"""
        self.look_at_clock()
        frame, slot, _, user, _ = entry
        stored, word = self._stored, frame.slots[slot]
        channel = stored.channel_names[ledger.channel_of(word)]
        what = f"{frame.seq}/{slot} on {channel}"
        assert ledger.outcome_of(word) == ledger.PENDING, f"{what} is queued as {word:#x}"
        assert int(said.send_at or 0) <= self.latest_ms, f"{what} goes before its time"
        assert not stored.forbids(user.user_id, said.category, channel), f"{what}: its user forbade it"
        assert not stored.has_no_contact(user.user_id, channel), f"{what}: there is no contact"
        until_ms = self._quiet_until(user.user_id, said.category, channel, word, stored.documents)
        assert until_ms is None, f"{what}: it is quiet until {until_ms}"
        priority = PRIORITIES[ledger.priority_of(word)]
        is_charged = ledger.REASONS[ledger.reason_of(word)] == "charged"
        assert is_charged or not self._policies.limits_of(said.category, channel), f"{what} is not charged"
        assert is_charged or slot in frame.digests or not self._policies.digest_of(said.category, channel, priority), (
            f"{what} does not wait for a digest"
        )
