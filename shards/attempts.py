"""From a lane to an attempt: what may be started, what is due again, suspects, and dead letters that are replayed."""

from __future__ import annotations

import functools
import sys
from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from shards import ledger
from shards.book import expires_ms_of, is_expired
from shards.changes import Now, Pause, Place, Wait
from shards.dead_letters import ERROR_TEXT_MAX
from shards.ending import Ending
from shards.frames import Entry, Frame, Run, one
from shards.gates import Gates
from shards.meter import Meter
from shards.parcel import Parcel, delivery_id
from shards.people import User
from shards.suspects import CRASHES_MAX, Suspects
from shards.template_parts import TemplateError

PASSED_MAX = 1_000  # of a channel with endpoints, looked at in one turn


class Attempts(Ending):
    """``take`` gives a channel what it may start."""

    def wake(self, now: Now) -> None:
        """Retries that are due go back into their lanes; those of a channel that is no more are given up."""
        for channel, heap in enumerate(self.retrying):
            due = heap.next_due()
            if due is None or due > now.mono:
                continue
            runs: dict[tuple[Frame, int], Run] = {}
            for item in heap.pop_due(now.mono):
                entry = item if len(item) == 5 else self._reload(*item)
                if entry is None:
                    continue
                if not self.people.is_configured(channel):
                    attempts = ledger.attempts_of(entry[0].slots[entry[1]])
                    text = self._unconfigured(channel)
                    self._give_up(entry, "channel_not_configured", "misconfigured", text, attempts, now)
                    self._acquit(channel, entry[0], entry[1])
                    continue
                frame, slot, *_ = entry
                if (frame.digests or ledger.is_withdrawn(frame.slots[slot])) and self._is_cancelled(entry, now):
                    self._leave(frame)
                    continue
                if self._sleeps(entry, now):
                    continue
                if (entry[0].seq, entry[1]) in self.suspects:
                    self.suspects.wait(channel, entry)
                    continue
                key = entry[0], ledger.priority_of(entry[0].slots[entry[1]])
                if key in runs:
                    runs[key].add(entry)
                else:
                    runs[key] = one(entry)
            for (_, priority), run in runs.items():
                self.queues[channel].push(run, priority, now.mono)
                self.queued[ledger.lane_of(channel, priority)] += len(run)

    def _sleeps(self, entry: Entry, now: Now) -> bool:
        """Whether a retry has come due in its user's quiet hours: then it waits on disk for their end."""
        frame, slot, index, user, _ = entry
        user = self.people.user(user.user_id)  # as they choose today
        if user.choices.quiet is None:
            return False
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        asked = self.routing.asked(self.contents.notification(frame.seq, index))
        until_ms = self.quiet_until_ms(user, asked, channel, priority, now)
        if until_ms is None:
            return False
        self._sleep(frame, slot, index, "quiet_hours", until_ms)
        return True

    def _reload(self, seq: int, slot: int) -> Entry | None:
        """A waiting delivery of which only the place was kept; None if it has ended in the meantime."""
        row = self._journal.frames.get(seq)
        if row is None:
            return None
        frame = self._frame(row)
        if ledger.outcome_of(frame.slots[slot]) not in ledger.OPEN:
            return None
        frame.active += 1
        return self._entry(frame, slot, frame.index_of(slot))[0]

    def take(self, channel: int, now: Now) -> list[Run]:
        """What the channel may start now, within its concurrency and the bound on what waits for a retry."""
        if not self._goes(channel, now):
            return []
        self._readmit(channel)
        bounds = self._bounds_of(channel)
        room = min([self._room(channel), *(bound.available(now.mono) for bound in bounds)])
        gates = self.gates.get(channel)
        runs = self._pop(channel, room, now) if gates is None else self._pass(channel, gates, room, now)
        for run in runs:
            self.in_flight[channel] += len(run)
            run.frame.flying.update(run.slots)
            for bound in bounds:
                bound.spend(len(run), now.mono)
        return runs

    def _readmit(self, channel: int) -> None:
        """What was not attempted after all goes to the heads of its lanes, in its old order whenever it came back."""
        for entry in sorted(self.returned.pop(channel, ()), key=_age, reverse=True):
            self.queues[channel].readmit(one(entry), ledger.priority_of(entry[0].slots[entry[1]]))

    def _has_queued(self, channel: int) -> bool:
        gates = self.gates.get(channel)
        return bool(len(self.queues[channel]) or self.returned.get(channel) or (gates and gates.waiting))

    def _goes(self, channel: int, now: Now) -> bool:
        """Whether the channel is neither paused nor waits for its providers."""
        return channel not in self.paused and self.holds.get(channel, 0.0) <= now.mono

    def _pass(self, channel: int, gates: Gates, room: int, now: Now) -> list[Run]:
        """What its endpoints have places for: of those that wait for one, and of new ones, none always first."""
        runs: list[Run] = []
        gates.waited_first = not gates.waited_first
        for take in (self._waited, self._new) if gates.waited_first else (self._new, self._waited):
            for run in take(channel, gates, room, now):
                runs.append(run)
                room -= len(run)
        return runs

    def _waited(self, channel: int, gates: Gates, room: int, now: Now) -> Iterator[Run]:
        passed = 0
        for entry in gates.ready(now.mono) if room > 0 else ():
            passed += 1
            run = self._drop_ended(one(entry), now)
            if len(run) and not self._rests(gates, entry, now):
                room -= 1
                yield run
            else:
                gates.leave((entry[0].seq, entry[1]), now.mono)
            if room <= 0 or passed >= PASSED_MAX:
                break
        self.crowded = self.crowded or passed >= PASSED_MAX

    def _new(self, channel: int, gates: Gates, room: int, now: Now) -> Iterator[Run]:
        """From the lane; what finds no place waits for one, or on disk."""
        popped = 0
        while room > 0 and popped < PASSED_MAX:
            found = self._pop(channel, room, now)
            if not found:
                break
            for run in found:
                popped += len(run)
                kept_out = {at for at in range(len(run)) if not self._enters(gates, run.entry(at), now)}
                run = run.without(kept_out) if kept_out else run
                if len(run):
                    room -= len(run)
                    yield run
        self.crowded = self.crowded or popped >= PASSED_MAX

    def _enters(self, gates: Gates, entry: Entry, now: Now) -> bool:
        """Whether a delivery has a place; if not, it waits for one."""
        url = self._url(entry)
        if url is None:
            return True
        if self._rests(gates, entry, now):
            return False
        frame, slot, *_ = entry
        origin = origin_of(url)
        if gates.enter(origin, (frame.seq, slot), now.mono):
            return True
        if not gates.wait(origin, entry, ledger.priority_of(frame.slots[slot]), now.mono):
            self._wait_on_disk(entry, gates.later_s(origin, now.mono), now)
        return False

    def _rests(self, gates: Gates, entry: Entry, now: Now) -> bool:
        """Whether the endpoint has asked to be left alone; then the delivery waits on disk for as long."""
        if not gates.rests or (url := self._url(entry)) is None:
            return False
        rest_s = gates.rests.get(url, 0.0) - now.mono
        if rest_s <= 0:
            return False
        self._wait_on_disk(entry, max(rest_s, gates.later_s(origin_of(url), now.mono)), now)
        return True

    def waits_for(self, channel: int, user: User, now: Now) -> Pause | Wait | None:
        """What keeps a delivery that is not under way from being attempted, beside its turn."""
        if (pause := self.pause_of(channel)) is not None:
            return pause
        if self.holds.get(channel, 0.0) > now.mono:
            return Wait("no_provider", "all providers fail or ask for patience; `channel list` says which, and how")
        gates, url = self.gates.get(channel), self._url_of(user)
        if gates is not None and url is not None and (waiting := gates.waiting_at(origin_of(url))):
            return Wait("endpoint", f"{waiting} wait for a place there: it is slow, fails, or has much to take")
        return None

    def _wait_on_disk(self, entry: Entry, wait_s: float, now: Now) -> None:
        self._sleep(*entry[:3], "endpoint", now.wall_us // 1000 + int(wait_s * 1000))

    def _room(self, channel: int) -> int:
        """How many attempts may be started: all of them may fail, and wait for a retry."""
        concurrency, in_flight = (
            self.settings.channels[self.channel_names[channel]].concurrency,
            self.in_flight[channel],
        )
        room = min(concurrency, self.settings.bounds.retrying - len(self.retrying[channel])) - in_flight
        credit = self.credits.get(channel)
        return max(0, room if credit is None else min(room, credit.left))  # there may have been more before a reload

    def try_suspect(self, channel: int, now: Now) -> Run | None:
        """A delivery that may have brought the shard down, and is to be tried alone."""
        bounds = self._bounds_of(channel)
        if (
            not self.suspects.has_waiting(channel)
            or not self._goes(channel, now)
            or self._room(channel) <= 0
            or not all(bound.available(now.mono) for bound in bounds)
        ):
            return None
        while (entry := self.suspects.next(channel)) is not None:
            run = self._drop_ended(one(entry), now)
            if len(run):
                self.in_flight[channel] += 1
                entry[0].flying.add(entry[1])
                for bound in bounds:
                    bound.spend(1, now.mono)
                return run
            self._acquit(channel, entry[0], entry[1])  # it has ended: the next one may be tried
        return None

    def suspect(self, crashes: Mapping[Place, int], now: Now) -> None:
        """At the start: what was under way when the shard died. Who was so too often is given up, and who may have
        arrived where twice is worse than not at all."""
        known = dict(crashes)
        holds = any(map(self.settings.is_held, self.channel_names))
        for (seq, slot), times in crashes.items():
            entry = self._reload(seq, slot) if holds or times >= CRASHES_MAX else None
            if entry is None:
                continue
            value = entry[0].slots[slot]
            attempts = ledger.attempts_of(value)
            if self.settings.is_held(self.channel_names[ledger.channel_of(value)]):
                text = "the shard died while this was attempted: nobody knows how it ended"
                self._give_up(entry, "ambiguous", "ambiguous", text, attempts, now)
            elif times >= CRASHES_MAX:
                text = f"the shard died {times} times while this was attempted"
                self._give_up(entry, "poison", "permanent", text, attempts, now)
            else:
                self._leave(entry[0])
                continue
            del known[seq, slot]
            self.changes.acquitted.append((seq, slot))
        self.suspects = Suspects(known)

    def _pop(self, channel: int, count: int, now: Now) -> list[Run]:
        """At most ``count`` deliveries from the channel's lanes, in the order in which they are due."""
        queue = self.queues[channel]
        runs: list[Run] = []
        while count > 0 and (run := queue.pop(now.mono)) is not None:
            priority = ledger.priority_of(run.frame.slots[run.slots[0]])
            if len(run) > count:
                rest, run = run, run.split(count)
                queue.put_back(rest, priority)
            self.queued[ledger.lane_of(channel, priority)] -= len(run)
            if run.frame.expiry or run.frame.gone or run.frame.digests:
                run = self._drop_ended(run, now)
            count -= len(run)
            if len(run):
                runs.append(run)
        return runs

    def _drop_ended(self, run: Run, now: Now) -> Run:
        """Without what was cancelled while it waited, and what expires now."""
        frame = run.frame
        ended = set()
        for at, (slot, index) in enumerate(zip(run.slots, run.indexes, strict=True)):
            if ledger.outcome_of(frame.slots[slot]) == ledger.CANCELLED:
                ended.add(at)
                self._leave(frame)
            elif is_expired(frame, index, slot, now):
                ended.add(at)
                frame.active -= 1
                self._end(run.entry(at), ledger.EXPIRED, "expires_at", now)
        return run.without(ended) if ended else run

    def deliver_inapp(self, now: Now) -> bool:
        """In-app deliveries end as rows of this turn's transaction. Whether some are left for the next turn."""
        if self.inapp in self.paused:
            return False
        waiting = deque(self._pop(self.inapp, sys.maxsize, now))
        runs = self._renderable(waiting, now) if self.templates.names else list(waiting)
        for run in runs:
            base = run.frame.seq << 16
            rows = array("q", bytes(16 * len(run)))
            rows[0::2] = array("q", [user.signed_hash for user in run.users])
            rows[1::2] = array("q", [base | index for index in run.indexes])
            self.changes.inbox.extend(rows)
        self.changes.inbox_runs += runs
        self._delivered(self.inapp, [(run.frame, run.slots) for run in runs], now)
        return bool(waiting)

    def _renderable(self, waiting: deque[Run], now: Now) -> list[Run]:
        """Without those whose template has not what it takes: dead letters. What stays is rendered when it is read.

        Together they take no more of a turn than one of them may: what is ``waiting`` then, goes back into its lane.
        """
        runs: list[Run] = []
        with Meter() as turn:
            while waiting and turn.left > 0:
                run = waiting.popleft()
                content = self.contents.get(run.frame.seq)
                if run.frame.digests or (content is not None and content.may_name_templates()):
                    refused = set()
                    for at in range(len(run)):
                        if turn.left <= 0:
                            waiting.appendleft(run)
                            run = run.split(at)
                            break
                        if not self._is_renderable(run.entry(at), now):
                            refused.add(at)
                    run = run.without(refused) if refused else run
                if len(run):
                    runs.append(run)
        for run in reversed(waiting):
            priority = ledger.priority_of(run.frame.slots[run.slots[0]])
            self.queues[self.inapp].put_back(run, priority)
            self.queued[ledger.lane_of(self.inapp, priority)] += len(run)
        return runs

    def _is_renderable(self, entry: Entry, now: Now) -> bool:
        """If not, it is a dead letter."""
        frame, slot, _, user, _ = entry
        value = frame.slots[slot]
        try:
            self.inapp_parts(user, self.said(entry), ledger.priority_of(value))
        except TemplateError as error:
            counters = self.counters.channels[self.inapp]
            counters.attempts += 1
            counters.failed_attempts += 1
            frame.slots[slot] = (value & ledger.KEEP) + ledger.ONE_ATTEMPT
            attempts, message = ledger.attempts_of(frame.slots[slot]), str(error)[:ERROR_TEXT_MAX]
            self._give_up(entry, "template", "permanent", message, attempts, now)
            return False
        return True

    def parcel(self, entry: Entry) -> Parcel:
        """What a real channel is given of a delivery."""
        frame, slot, index, user, _ = entry
        value = frame.slots[slot]
        digest = frame.digests.get(slot)
        said = self.said(entry)
        notification_id = self.ids.make(user.hash, frame.seq, index)
        name = self.channel_names[ledger.channel_of(value)]
        return Parcel(
            entry,
            said,
            self.people.recipient(user),
            notification_id,
            digest.id if digest else delivery_id(notification_id, name),
            ledger.attempts_of(value) + 1,
            ledger.priority_of(value),
            frame.at_us // 1000,
            expires_ms_of(frame, index, slot),
            digest.collapse if digest else None,
            self.routing.is_unsubscribable(said.category),
        )

    def revive(self, seq: int, slot: int, reason: str, now: Now) -> bool:
        """Try a dead letter again, from its first attempt; False if its frame is gone."""
        row = self._journal.frames.get(seq)
        if row is None or slot < 0:
            return False
        frame = self._frame(row)
        value = frame.slots[slot]
        channel, priority = ledger.channel_of(value), ledger.priority_of(value)
        if ledger.outcome_of(value) != ledger.DEAD or not self.people.is_configured(channel):
            return False
        entry = self._entry(frame, slot, frame.index_of(slot))[0]
        if self.health.forgive(entry[3].user_id, self.channel_names[channel]):
            self.people.forget(entry[3].user_id)
        frame.slots[slot] = ledger.word(channel, priority, reason=ledger.REASON["charged"])
        frame.notes.pop(slot, None)
        frame.open += 1
        frame.mask |= ledger.lane_bit(ledger.lane_of(channel, priority))
        self.counters.channels[channel].outcomes[ledger.DEAD] -= 1
        self.dead_letters.forget(seq, slot, reason)
        self._changed(frame)
        if slot in frame.digests:
            self._reopen_items(frame.digests[slot])
        if seq <= self.behind.get(ledger.lane_of(channel, priority), self.last):
            self.wait(seq, slot, channel, now.mono)
        return True

    def next_due(self, now: Now) -> float | None:
        """When the first retry or deferred delivery is due, of lanes that have room."""
        dues = [due for heap in self.retrying if (due := heap.next_due()) is not None]
        for channel in self.paces.keys() | self.slowings.keys():
            if self._has_queued(channel) and self._goes(channel, now) and self._room(channel) > 0:
                starts = [at for bound in self._bounds_of(channel) if (at := bound.next_at(now.mono)) is not None]
                dues += [max(starts)] if starts else []
        dues += [due for channel, due in self.holds.items() if due > now.mono and self._has_queued(channel)]
        for lane, due_ms in [*self.deferrals.dues.items(), *self.windows.items()]:
            if self._has_room(lane):
                dues.append(now.mono + due_ms / 1000 - now.wall_us / 1e6)
        return min(dues) if dues else None


def _age(entry: Entry) -> tuple[int, int]:
    return entry[0].seq, entry[1]


@functools.lru_cache(maxsize=10_000)
def origin_of(url: str) -> str:
    """Scheme, host and port: what answers slowly for one of its paths mostly does so for all."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()
