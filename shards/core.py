"""The shard without its sockets, files and clocks: what happens to a notification, in order.

    receive  judge each notification (``judging.py``), plan its deliveries, decide them, queue what is to be sent
    refill   deliveries from disk into lanes that have room again
    release  deferred deliveries that are due are decided, digests whose windows are over are sent
    wake     retries that are due, back into their lanes
    take     what a channel may start now, the highest effective priority first
    deliver, fail    what became of an attempt: an outcome, a retry, or a dead letter
    cancel, sweep    what is open ends, of one notification or of a broadcast

Everything that is to be stored gathers in ``changes``; the owner commits them in one transaction and then says
``committed``. An attempt is only started for what is committed. In-app deliveries need no attempt: they are rows of
that very transaction.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable

from shards import ledger, validation
from shards.book import is_expired
from shards.cancelling import Cancelling
from shards.changes import Changes, Now
from shards.counters import Counters
from shards.frames import Frame, NewFrame, Run
from shards.gates import Gates
from shards.judging import Judge, Judged
from shards.limits import Limits
from shards.people import Decision, People
from shards.rules import Routing
from shards.settings import ChannelSettings, ShardSettings
from shards.stored import Journal
from shards.templates import TemplateEngine
from shards.wire.encoding import pack
from shards.wire.errors import Error
from shards.wire.link import EXPANSION, INGEST, UNROUTABLE, Data, Rejection, Verdict


class Core(Cancelling):
    """One shard's state. ``random`` draws from [0, 1); ``channel_names`` are in the order of their numbers.

    Its layers, each in a file of its own: ``book``, ``deciding``, ``digesting``, ``releasing``, ``ending``,
    ``attempts``, ``cancelling``.
    """

    def __init__(
        self,
        settings: ShardSettings,
        channel_names: list[str],
        journal: Journal,
        counters: Counters,
        random: Callable[[], float],
    ) -> None:
        super().__init__(settings, channel_names, journal, counters, random)
        self.configure(settings)

    def configure(self, settings: ShardSettings) -> None:
        """Go by these settings from now on. Bounds, and the channels that there were, are as before; what is queued or
        under way stays so.

        What was spent of the limits is for the owner to carry over.
        """
        self._make_room(settings)
        if not self.templates.is_of(settings.templates, settings.output_bytes):  # else what is compiled is kept
            self.templates = TemplateEngine(settings.templates, settings.output_bytes)
        self.settings = settings
        numbers = {name: number for number, name in enumerate(self.channel_names)}
        self.policies = [settings.retry_of(name) for name in self.channel_names]
        real = {numbers[name]: one for name, one in settings.channels.items() if not one.is_simulated}
        for number, channel in real.items():
            if self.channel_names[number] == "webhook":
                self._open_gates(number, channel)
        self.routing = Routing(settings.categories, numbers, settings.rules)
        self.limits = Limits(settings.rate_limits, settings.caps, settings.bounds.limiter_keys)
        self.limiters = {numbers[name]: limiter for name, limiter in self.limits.rates.items()}
        self.digests.configure(settings.digests)
        for queue in self.queues:
            queue.set_aging(settings.priorities.aging)
        self.people = People(
            self.routing,
            self.channel_names,
            frozenset(numbers[name] for name in settings.channels) | {self.inapp},
            self.limiters,
            self._journal.users.get,
            settings.bounds.users,
            settings.preferences.timezone,
            strict=frozenset(real),
            health_of=self.health.of,
            needs_a_look=self._needs_a_look,
        )
        self.broadcasts.configure(self.routing, settings.priorities.aging)
        self.judge = Judge(
            self.ids,
            self.routing,
            self.people,
            self.idempotency,
            self.contents,
            self.broadcasts,
            settings.schedules.horizon,
            self.templates.names,
        )

    def _open_gates(self, number: int, channel: ChannelSettings) -> None:
        """For a channel whose users have endpoints of their own, or with its new number of places."""
        if number in self.gates:
            self.gates[number].set_places(channel.concurrency)
            return
        bounds, aging_s = self.settings.bounds, self.settings.priorities.aging
        self.gates[number] = Gates(channel.per_endpoint, channel.concurrency, bounds.retrying, aging_s)

    def receive(self, data: Data, seq: int, now: Now) -> Verdict | None:
        """Take a frame: its verdict is final (None accepts all), its deliveries are queued or left on disk."""
        if data.source == UNROUTABLE:
            self._keep_raw(data, seq, data.error or Error("bad_encoding", "not decodable"), None, now)
            return None
        self.last = seq
        if data.source == EXPANSION:
            data = self.broadcasts.expand(data, seq, now)
        else:
            self.broadcasts.others = True
        frame = Frame(seq, data.at_us, array("I"), b"")
        self._changed(frame)
        judged = self.judge.judge(data, seq, now.wall_us // 1000)
        verdict = judged.verdict()
        frame.widths = bytes([decision.width for decision in judged.decisions])
        frame.expiry = judged.expiry
        frame.new = NewFrame(
            data.source,
            data.fanned,
            data.body,
            judged.digests,
            pack(verdict) if verdict else None,
            self.settings.version,
            judged.rules.tobytes() if judged.rules else None,
        )
        self._admit(frame, judged, now)
        frame.new.has_inbox = frame.new.has_inbox or bool(frame.mask & self._inapp_mask)
        if data.source == EXPANSION:
            self.broadcasts.planned(len(frame.slots))
        counters = self.counters
        accepted, duplicates, rejected = judged.counts()
        counters.accepted += accepted
        counters.duplicates += duplicates
        counters.rejected += rejected
        if data.source == INGEST:  # nobody waits for the answer: the error is kept as a dead letter
            for rejection in judged.rejected:
                if rejection.index in judged.topics:
                    continue  # the router hears it of all shards, and says it once
                user_id, raw = judged.raw[rejection.index]
                self.dead_letters.bury_rejected(seq, rejection.index, rejection.error, user_id, raw, now)
        return verdict

    def refuse(self, data: Data, seq: int, now: Now) -> Verdict:
        """Take a frame that cannot be judged: all of it is rejected, and kept as a dead letter."""
        error = Error("internal", "the dispatcher cannot judge this; it is kept as a dead letter")
        if data.source == EXPANSION:
            self.broadcasts.refuse(data, error, seq, now)
            return self.receive(data, seq, now) or Verdict()
        verdict = Verdict([], [Rejection(at, error) for at in range(validation.positions(data.body, data.fanned))])
        self._keep_raw(data, seq, error, pack(verdict), now)
        self.counters.rejected += len(verdict.rejected)
        return verdict

    def _keep_raw(self, data: Data, seq: int, error: Error, verdict: bytes | None, now: Now) -> None:
        self.last = seq
        frame = Frame(seq, data.at_us, array("I"), b"")
        frame.new = NewFrame(data.source, False, data.body, None, verdict)
        self._changed(frame)
        self.dead_letters.bury_rejected(seq, 0, error, "", data.body, now)

    def _admit(self, frame: Frame, judged: Judged, now: Now) -> None:
        """Plan every delivery; decide those whose lane has room, and queue what is to be sent."""
        if frame.expiry or judged.schedule or self.behind:
            self._admit_singly(frame, judged, now)
        else:
            self._admit_columns(frame, judged, now)
        self.frames[frame.seq] = frame

    def _admit_columns(self, frame: Frame, judged: Judged, now: Now) -> None:
        """The hot path: no lane has deliveries on disk, and no notification needs more than its decision."""
        users, decisions, keys, *_ = judged
        mono = now.mono
        runs: dict[int, tuple[list[int], list[int]]] = {}  # lane -> slots, positions
        limited: list[int] = []
        doomed: list[tuple[int, int]] = []
        frame.slots.frombytes(b"".join([decision.template for decision in decisions]))
        frame.open = len(frame.slots)
        slot = 0
        for index, decision in enumerate(decisions):
            for offset, lane, limiter, exempt in decision.sends:
                if limiter is not None and not limiter.allow(users[index].signed_hash, mono, exempt):
                    limited.append(slot + offset)
                    continue
                try:
                    slots, indexes = runs[lane]
                except KeyError:
                    slots, indexes = runs[lane] = [], []
                slots.append(slot + offset)
                indexes.append(index)
            if decision.special or decision.doomed:
                doomed.extend((slot + offset, index) for offset in decision.doomed)
                for offset in decision.special:
                    place = slot + offset
                    if self._decides((frame, place, index, users[index], keys[index]), decision.rule, now):
                        slots, indexes = runs.setdefault(ledger.lane_of_word(frame.slots[place]), ([], []))
                        slots.append(place)
                        indexes.append(index)
            slot += decision.width
        for decision, count in Counter(decisions).items():
            frame.mask |= decision.mask
            frame.open -= decision.settled * count
            self._count_planned(decision, count)
        for lane, (slots, indexes) in runs.items():
            run = Run(
                frame,
                array("I", slots),
                array("I", indexes),
                [users[index] for index in indexes],
                [keys[index] for index in indexes],
            )
            frame.active += len(slots)
            self._enqueue(lane, run, mono)
        for place in limited:
            frame.open -= 1
            self._settle(frame, place, ledger.RATE_LIMITED, ledger.REASON["limit"])
        for place, index in doomed:
            self._bury_unconfigured((frame, place, index, users[index], keys[index]), now)

    def _count_planned(self, decision: Decision, count: int) -> None:
        for number, outcome in decision.effects:
            channel = self.counters.channels[number]
            channel.planned += count
            if outcome != ledger.PENDING:
                channel.outcomes[outcome] += count

    def _admit_singly(self, frame: Frame, judged: Judged, now: Now) -> None:
        """The same, delivery by delivery: those of a lane that has others on disk stay behind them."""
        slots = frame.slots
        slot = 0
        behind = frozenset(self.behind)  # a lane that fills up now leaves on disk what comes after this frame
        for index, decision in enumerate(judged.decisions):
            rule = decision.rule
            slots.extend(rule.pending)
            frame.open += rule.width
            send_at_ms = judged.schedule.get(index) if judged.schedule else None
            for offset, channel in enumerate(rule.channels):
                lane = ledger.lane_of(channel, rule.priority)
                self.counters.channels[channel].planned += 1
                if frame.new and channel == self.inapp:
                    frame.new.has_inbox = True
                if send_at_ms is not None and not is_expired(frame, index, slot + offset, now):
                    self._defer(frame, slot + offset, index, "send_at", send_at_ms)
                    continue
                frame.mask |= ledger.lane_bit(lane)
                if lane not in behind:
                    entry = (frame, slot + offset, index, judged.users[index], judged.keys[index])
                    self._decide_singly(entry, rule, now)
            slot += rule.width

    @property
    def has_deferred(self) -> bool:
        """Whether the turn has something to store besides its changes."""
        return bool(self.deferrals.added or self.deferrals.removed or self.digests.changed or self.health.changed)

    def committed(self) -> None:
        """Everything in ``changes`` is stored: forget what needs no memory."""
        for frame in self.changes.frames:
            frame.dirty = frame.touched = False
            frame.new = None
            if not frame.active:
                self.frames.pop(frame.seq, None)
        self.let_go()
        self.broadcasts.committed(self.changes.broadcasts)
        self.changes = Changes()
        self.health.committed()
        self.contents.committed()
        self.deferrals.committed()
        self.digests.committed()
