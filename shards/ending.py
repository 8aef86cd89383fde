"""From an attempt to an outcome: delivered, tried again, a dead letter, a channel that is paused."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence

from shards import ledger
from shards.book import expires_ms_of
from shards.changes import Note, Now, Pause
from shards.dead_letters import ERROR_TEXT_MAX
from shards.frames import Entry, Frame
from shards.health import contacts_on
from shards.people import User
from shards.releasing import Releasing
from shards.sending import RETRIED, SLOWED, Failure, Results, reason_of_end
from shards.slowing import Slowing

NO_NOTE: Note = (None, "", "")
SHORT_S = 30.0  # a retry that is due sooner waits in memory
LOGGED_MAX = 16  # a run of more deliveries has its frame's ledger written, which is then cheaper


class Ending(Releasing):
    """What became of attempts: ``deliver``, ``fail``, ``hold`` and ``miss`` are told it."""

    def deliver(self, channel: int, delivered: list[tuple[Frame, MutableSequence[int]]], now: Now) -> None:
        """Attempts that succeeded, as slots of frames."""
        for frame, slots in delivered:
            self.in_flight[channel] -= len(slots)
            frame.flying.difference_update(slots)
        if (gates := self.gates.get(channel)) is not None:
            for frame, slots in delivered:
                for slot in slots:
                    gates.leave((frame.seq, slot), now.mono, succeeded=True)
                    if self.health.has_failing:
                        self._succeeded(channel, self._entry(frame, slot, frame.index_of(slot))[0])
        if self.suspects:
            for frame, slots in delivered:
                for slot in slots:
                    self._acquit(channel, frame, slot)
        self._delivered(channel, delivered, now)

    def _delivered(self, channel: int, delivered: list[tuple[Frame, MutableSequence[int]]], now: Now) -> None:
        latencies = self.latencies[channel]
        keep, done = ledger.KEEP, ledger.DELIVERED_AT_ATTEMPT
        total = 0
        for frame, slots in delivered:
            words = frame.slots
            for slot in slots:
                words[slot] = (words[slot] & keep) + done
            count = len(slots)
            total += count
            frame.open -= count
            frame.active -= count
            if not frame.late:
                latencies.add(now.wall_us - frame.at_us, count)
            if count > LOGGED_MAX:
                self._changed(frame)
            else:
                for slot in slots:
                    self._log(frame, slot)
            if frame.digests:
                for slot in slots:
                    self._end_digest(frame, slot)
        counters = self.counters.channels[channel]
        counters.attempts += total
        counters.outcomes[ledger.DELIVERED] += total

    def fail(self, channel: int, failures: list[Failure], now: Now) -> None:
        """Attempts that failed: each waits for its retry, or becomes a dead letter."""
        self.in_flight[channel] -= len(failures)
        counters = self.counters.channels[channel]
        policy, heap, gates = self.policies[channel], self.retrying[channel], self.gates.get(channel)
        for entry, error_class, text, advice in failures:
            frame, slot, *_ = entry
            message = text[:ERROR_TEXT_MAX]
            if error_class == "misconfigured":  # which is not the delivery's fault, and burns no attempt
                self._refuse(channel, entry, message, now)
                continue
            counters.attempts += 1
            counters.failed_attempts += 1
            value = (frame.slots[slot] & ledger.KEEP) + ledger.ONE_ATTEMPT
            attempts = value >> ledger.ATTEMPTS_SHIFT
            withdrawn = ledger.is_withdrawn(frame.slots[slot])
            frame.flying.discard(slot)
            asked_s = advice.retry_after_s if advice else 0.0
            if advice and advice.bad:
                self.disown(channel, entry, advice.bad, message, now)
            if gates is not None:
                gates.leave((frame.seq, slot), now.mono, succeeded=error_class not in RETRIED)
                if asked_s and error_class == "throttled" and (url := self._url(entry)):
                    gates.rest(url, now.mono + asked_s, now.mono)
            if self.suspects:
                self._acquit(channel, frame, slot)
            held = error_class == "ambiguous" and self.settings.is_held(self.channel_names[channel])
            if error_class in RETRIED and not held and not policy.exhausted(attempts):
                if withdrawn:
                    frame.slots[slot] = value
                    frame.notes[slot] = (None, error_class, message)
                    frame.active -= 1
                    self._end(entry, ledger.CANCELLED, "cancelled", now)
                    continue
                delay_s = policy.delay_s(attempts, self._random, throttled=error_class in SLOWED, asked_s=asked_s)
                expires_ms = expires_ms_of(frame, entry[2], slot)
                if expires_ms is not None:  # it ends then, and not when it would have been tried again
                    delay_s = min(delay_s, max(0.0, expires_ms / 1000 - now.wall_us / 1e6))
                frame.slots[slot] = value | ledger.RETRYING << ledger.OUTCOME_SHIFT
                frame.notes[slot] = (now.wall_us // 1000 + int(delay_s * 1000), error_class, message)
                if self._withdraws(entry, now):
                    frame.active -= 1
                    continue
                if delay_s > SHORT_S and 2 * len(heap) >= self.settings.bounds.retrying:  # the rest is for short waits
                    self._sleep(frame, slot, entry[2], "retry", frame.notes[slot][0] or 0)
                    continue
                heap.push(now.mono + delay_s, entry)
                self._log(frame, slot)
            else:
                frame.slots[slot] = value
                if error_class in RETRIED and gates is not None:
                    self._exhausted(channel, entry, message, now)
                reason = (advice and advice.reason) or ("ambiguous" if held else reason_of_end(error_class))
                self._give_up(entry, reason, error_class, message, attempts, now)

    def _refuse(self, channel: int, entry: Entry, message: str, now: Now) -> None:
        frame, slot, *_ = entry
        self.pause(channel, Pause("misconfigured", now.wall_us // 1000, message))
        self._put_back(channel, entry, now)
        if ledger.outcome_of(frame.slots[slot]) in ledger.OPEN:
            frame.notes[slot] = (frame.notes.get(slot, NO_NOTE)[0], "misconfigured", message)
            self._log(frame, slot)

    def _sleep(self, frame: Frame, slot: int, index: int, reason: str, until_ms: int) -> None:
        """A delivery that was attempted leaves memory until then; what went wrong is kept."""
        _, _, message = frame.notes.get(slot, NO_NOTE)
        frame.active -= 1
        self._defer(frame, slot, index, reason, until_ms)
        due_ms, reason, _ = frame.notes[slot]
        frame.notes[slot] = (due_ms, reason, message)

    def disown(self, channel: int, entry: Entry, bad: Sequence[str], message: str, now: Now) -> None:
        """Contacts that will never work again. What the user has no more, or was known, is left alone."""
        user, name = entry[3], self.channel_names[channel]
        used = contacts_on(name, self.people.recipient(user).contacts)
        for contact in [contact for contact in used if contact in bad]:
            self.health.kill((user.user_id, name, contact), now.wall_us // 1000, message)
            self._alert("a contact is not used again", channel, entry)
        self.people.forget(user.user_id)

    def _url(self, entry: Entry) -> str | None:
        return self._url_of(entry[3])

    def _url_of(self, user: User) -> str | None:
        webhook = self.people.recipient(user).contacts.webhook
        return webhook.url if webhook else None

    def _succeeded(self, channel: int, entry: Entry) -> None:
        user, name = entry[3], self.channel_names[channel]
        for contact in contacts_on(name, self.people.recipient(user).contacts):
            self.health.succeed((user.user_id, name, contact))

    def _exhausted(self, channel: int, entry: Entry, message: str, now: Now) -> None:
        """A message has had its last attempt at a user's endpoint, which after some days disables that."""
        user, name = entry[3], self.channel_names[channel]
        for contact in contacts_on(name, self.people.recipient(user).contacts):
            if self.health.exhaust((user.user_id, name, contact), now.wall_us // 1000, message):
                self._alert("an endpoint is disabled", channel, entry)
                self.people.forget(user.user_id)

    def _alert(self, event: str, channel: int, entry: Entry) -> None:
        """With the notification's id, which leads to the user and to what was said, without a contact in the log."""
        frame, _, index, user, _ = entry
        id_ = self.ids.make(user.hash, frame.seq, index)
        self.alerts.append({"event": event, "channel": self.channel_names[channel], "id": id_})

    def hold(self, channel: int, held: Sequence[tuple[Entry, float]], now: Now) -> None:
        """What could not be attempted, as no provider may be asked before an instant: the channel waits for it."""
        self.in_flight[channel] -= len(held)
        self._refund(channel, len(held), now)
        for entry, until in held:
            self._put_back(channel, entry, now)
            self.holds[channel] = max(until, self.holds.get(channel, 0.0))

    def miss(self, channel: int, entries: Sequence[Entry], now: Now) -> None:
        """Whom no provider of the channel can reach."""
        self.in_flight[channel] -= len(entries)
        self._refund(channel, len(entries), now)
        for entry in entries:
            self._untried(channel, entry, now)
            self.people.forget(entry[3].user_id)
            dead = self.channel_names[channel] in self.people.user(entry[3].user_id).choices.dead
            entry[0].active -= 1
            self._end(entry, ledger.SUPPRESSED, "bad_address" if dead else "no_contact", now)

    def heed(self, channel: int, ended: Results, now: Now) -> None:
        """Slow the channel where its service says that it is too much."""
        slowing = self.slowings.setdefault(channel, Slowing())
        delivered = sum(len(slots) for _, slots in ended.delivered)
        taken = delivered + sum(error_class not in RETRIED for _, error_class, _, _ in ended.failed)
        asked = [advice.retry_after_s if advice else 0.0 for _, kind, _, advice in ended.failed if kind == "throttled"]
        count = delivered + len(ended.failed)
        was_slowed = slowing.is_slowed(now.mono)
        slowing.heed(count, taken, len(asked), max(asked, default=0.0), self.in_flight[channel], now.mono)
        if not was_slowed and slowing.is_slowed(now.mono):
            self.alerts.append({"event": "a channel is slowed", "channel": self.channel_names[channel]})

    def _refund(self, channel: int, count: int, now: Now) -> None:
        for bound in self._bounds_of(channel):
            bound.refund(count, now.mono)

    def _put_back(self, channel: int, entry: Entry, now: Now) -> None:
        """A delivery whose attempt does not count waits to be the first again, or goes to the other suspects."""
        frame, slot, *_ = entry
        priority = ledger.priority_of(frame.slots[slot])
        if ledger.is_withdrawn(frame.slots[slot]) or self._withdraws(entry, now):
            self._untried(channel, entry, now)
            if ledger.outcome_of(frame.slots[slot]) in ledger.OPEN:
                self._end(entry, ledger.CANCELLED, "cancelled", now)
            self._leave(frame)
        elif (frame.seq, slot) in self.suspects:
            self._land(channel, entry, now)
            self.suspects.again(channel, entry)
        else:
            self._land(channel, entry, now)
            self.returned.setdefault(channel, []).append(entry)
            self.queued[ledger.lane_of(channel, priority)] += 1

    def _land(self, channel: int, entry: Entry, now: Now) -> None:
        """It is not under way any more."""
        entry[0].flying.discard(entry[1])
        if (gates := self.gates.get(channel)) is not None:
            gates.leave((entry[0].seq, entry[1]), now.mono)

    def _untried(self, channel: int, entry: Entry, now: Now) -> None:
        self._land(channel, entry, now)
        if self.suspects:
            self._acquit(channel, entry[0], entry[1])

    def resume_refused(self) -> None:
        """What refused credentials have paused is tried with those that there are now."""
        for channel in [channel for channel, pause in self.paused.items() if pause.reason != "operator"]:
            self.resume(channel)
        self.holds.clear()

    def pause(self, channel: int, pause: Pause) -> None:
        """Start nothing on the channel until ``resume``; what an operator has paused stays so."""
        if channel in self.paused:
            return
        self.paused[channel] = pause
        self.alerts.append({"event": "a channel is paused", "channel": self.channel_names[channel], **pause._asdict()})

    def resume(self, channel: int) -> None:
        """End its pause, if it has one, and ask its providers at once."""
        self.holds.pop(channel, None)
        if self.paused.pop(channel, None) is not None:
            self.alerts.append({"event": "a channel goes on", "channel": self.channel_names[channel]})

    def _give_up(self, entry: Entry, reason: str, error_class: str, message: str, attempts: int, now: Now) -> None:
        """A delivery in memory ends as a dead letter."""
        frame, slot, *_ = entry
        value = frame.slots[slot] & ledger.KEEP
        frame.slots[slot] = value | ledger.DEAD << ledger.OUTCOME_SHIFT | ledger.REASON[reason] << ledger.REASON_SHIFT
        frame.notes[slot] = (None, error_class, message)
        frame.open -= 1
        frame.active -= 1
        self.counters.channels[ledger.channel_of(value)].outcomes[ledger.DEAD] += 1
        self.dead_letters.bury(entry, self.said(entry), reason, error_class, message, attempts, now)
        self._log(frame, slot)
        self._end_digest(frame, slot)
