"""A shard while its journal can be written: everything that is made from the journal, and the steps of a turn.

Nothing here survives an error of the disk: the owner drops the whole object and makes it again from what is committed.
"""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shards import ledger, logs, options, quarantine
from shards.changes import Now, Place, decode_notes
from shards.channels.attached import AttachedChannel
from shards.channels.base import Recipient, SendError
from shards.channels.simulated import SimulatedChannel
from shards.core import Core
from shards.counters import ChannelCounters
from shards.credit import Credit
from shards.frames import Run
from shards.hold import Hold
from shards.inbox import Inbox
from shards.intake import Intake
from shards.journal import SqliteJournal
from shards.limit_store import LimitStore
from shards.maintenance import Maintenance
from shards.marks import Marks
from shards.operations import Operations
from shards.pauses import Pauses
from shards.schema import DamagedError
from shards.sending import SLOWED, Results, Sender
from shards.settings import ChannelSettings, ShardSettings
from shards.stream import Stream
from shards.tables.state import State
from shards.templates import TemplateError
from shards.wire.link import Ask, Data, Ping, Turn, Verdict
from shards.wire.notification import Notification
from shards.wire.outbox import Metrics, Outbox, OutboxItem
from shards.wire.workers import Work

if TYPE_CHECKING:
    from shards.courier import Courier

log = logs.logger()

OUTBOX_BATCH = 500  # items, and
OUTBOX_BYTES = 4 * 2**20  # of one message, unless a single item has more
OUTBOX_RESEND_S = 1.0

_outbox_item = msgspec.msgpack.Decoder(OutboxItem)
_verdict = msgspec.msgpack.Decoder(Verdict)


FrameNumber = tuple[int, int, int]  # epoch, gen, n: a frame as the router names it


class UnjudgeableError(Exception):
    """A frame brings judging down: a bug, and no reason to stop serving others."""

    def __init__(self, number: FrameNumber) -> None:
        super().__init__(f"frame {number[2]} of epoch {number[0]}")
        self.number = number


class Shard:
    """Opening it brings back what was: positions, keys, what waits for a retry, suspects. Raises as the journal does.

    ``refused`` are frames that brought a predecessor down.
    """

    def __init__(
        self,
        settings: ShardSettings,
        moment: Now,
        refused: Container[FrameNumber],
    ) -> None:
        self.settings = settings
        self._refused = refused
        path = Path(settings.path)
        names = settings.channel_names()
        self.courier: Courier | None = None
        self.journal = journal = SqliteJournal(path, settings.shard, settings.shards, settings.durability, names)
        try:
            self.quarantined = quarantine.cases(settings.shard, settings.shards)
            for case in self.quarantined:
                log.warning("a damaged journal and a report: delete it when it is dealt with", directory=case)
            self.marks = Marks(path.with_suffix(".marks"), _concurrency(settings))
            self.state: State = journal.state
            counters = self.state.counters
            self._make_counters()
            self.inbox = Inbox(journal.path, journal.database)
            self.core = Core(settings, journal.channel_names, journal, counters, random.random)
            self.limits = LimitStore(journal.path, journal.database, self.core.limits)
            self.limits.load(moment)
            journal.put_config(settings.version, self.core.routing.describe())
            self.operations = Operations(self.core, journal, self.inbox)
            self.stream = Stream(self.core, self.inbox, self.operations, settings.bounds.users)
            self.intake = Intake(self.state.last, (self.state.epoch, self.state.gen), self.state.base)
            self.channels: dict[int, Sender] = {}
            self.attached: dict[str, AttachedChannel] = {}
            self._numbers = itertools.count(moment.wall_us)  # above those of whoever had this journal before any reboot
            self.courier = self._engage(settings)
            self._open_channels(settings, moment)
            self.pauses = Pauses(self.core, journal, self.courier)
            self.hold = Hold(journal)
            self.maintenance = Maintenance(settings, journal, self.core)
            self.changed_at_us = 0  # when a delivery last changed
            if self.state.counted is None:
                self.state.counted = [count for _, _, count in counters.finals(journal.channel_names)]
            self._outbox_sent = (0, 0.0)  # the last number sent, and when
            self.maintenance.remember_keys(moment)
            self._find_suspects(moment)
            self._recover(moment)
        except BaseException:
            if self.courier:
                self.courier.close()
            journal.close()
            raise

    def _make_counters(self) -> None:
        counters = self.state.counters.channels
        counters += [ChannelCounters() for _ in self.journal.channel_names[len(counters) :]]

    def _engage(self, settings: ShardSettings) -> Courier | None:
        """The thread of the real channels, if there are any."""
        real = _real(settings)
        if not real:
            return None
        from shards.courier import Courier

        return Courier(real, settings.errors, self._render)

    def _open_channels(self, settings: ShardSettings, moment: Now) -> None:
        """Those that are not open yet."""
        for name, channel in settings.channels.items():
            number = self.journal.channel_names.index(name)
            if number not in self.channels:
                self.channels[number] = self._sender(name, channel, number, moment)

    def _sender(self, name: str, channel: ChannelSettings, number: int, moment: Now) -> Sender:
        if channel.is_simulated:
            return SimulatedChannel(name, options.read(SimulatedChannel, channel.providers[0].options))
        if channel.is_attached:
            credit = self.core.credits[number] = Credit(moment.wall_us // 1000)
            self.attached[name] = AttachedChannel(
                name, channel, credit, self._numbers.__next__, self.core.parcel, self._render
            )
            return self.attached[name]
        assert self.courier
        return self.courier.sender(name, self.core.parcel)

    def _render(
        self, said: Notification, channel: str, recipient: Recipient, priority: str, more: Mapping[str, Any]
    ) -> Mapping[str, str]:
        try:
            return self.core.templates.say(said, channel, recipient.user_id, priority, recipient.locale, more)
        except TemplateError as error:
            raise SendError("permanent", str(error), reason="template") from None

    # --- start -------------------------------------------------------------------------------------------------

    def _recover(self, moment: Now) -> None:
        """From the journal back to where the shard was: its position, its lanes, what waits for a retry."""
        core = self.core
        core.last = self.state.last
        core.broadcasts.recover()
        first, mask = self.journal.ledgers.open_mask()
        if mask:
            for channel in range(len(core.channel_names)):
                for priority in range(4):
                    lane = ledger.lane_of(channel, priority)
                    if mask & ledger.lane_bit(lane):
                        core.behind[lane] = first - 1
        for seq, slots, notes in self.journal.ledgers.tried():
            frame = core.frames.get(seq)  # if one of its deliveries was just given up, and waits for nothing
            values = frame.slots if frame else ledger.words(slots)
            if all(ledger.outcome_of(value) != ledger.RETRYING for value in set(values)):
                continue  # its notes are of what is deferred, which may be a million
            for slot, (due_ms, error_class, _) in decode_notes(notes).items():
                value = values[slot]
                if due_ms is not None and ledger.outcome_of(value) == ledger.RETRYING:
                    channel = ledger.channel_of(value)
                    # no longer than it can be: the clock may have gone back
                    longest_s = core.policies[channel].longest_s(ledger.attempts_of(value))
                    if error_class in SLOWED:
                        longest_s = max(longest_s, (due_ms - self.journal.ledgers.updated_ms(seq)) / 1000)
                    wait_s = min(max(0.0, due_ms / 1000 - moment.wall_us / 1e6), longest_s)
                    core.wait(seq, slot, channel, moment.mono + wait_s)

    def _find_suspects(self, moment: Now) -> None:
        """What was under way when the process before this one died is suspected of it."""
        crashes = self.journal.suspect(self.marks.found(), self._is_open)
        self.marks.clear()
        self.found_suspects = bool(crashes)
        self.core.suspect(crashes, moment)

    def _is_open(self, place: Place) -> bool:
        seq, slot = place
        if seq > self.journal.state.last:
            return False  # it was never committed, or the page of marks is damaged
        row = self.journal.frames.get(seq)
        words = ledger.words(row.slots) if row else ()
        return slot < len(words) and ledger.outcome_of(words[slot]) in ledger.OPEN

    def close(self) -> None:
        """Nothing that is under way now brought anything down; but where it may have arrived, that is not forgotten."""
        if self.courier:
            self.courier.close()
        held = {at for at, name in enumerate(self.core.channel_names) if self.settings.is_held(name)}
        if held:
            for frame in self.core.frames.values():
                self.marks.end(frame.seq, [at for at in frame.flying if ledger.channel_of(frame.slots[at]) not in held])
        else:
            self.marks.clear()
        self.marks.close()
        self.journal.close()

    def reconfigure(self, settings: ShardSettings, moment: Now) -> None:
        """Between two turns: go by other settings. What was spent of a limit stays spent."""
        was_read = settings.reads != self.settings.reads  # or else only templates were put
        is_larger = settings.channels.keys() != self.settings.channels.keys()
        self.settings = self.maintenance.settings = settings
        if is_larger:
            self.journal.add_channels(settings.channel_names())
            self._make_counters()
        self.marks.grow(_concurrency(settings))
        self.core.configure(settings)
        if was_read:
            self.core.resume_refused()
        if self.courier and was_read:
            self.courier.reopen(_real(settings), settings.errors)
        if is_larger:
            self.courier = self.pauses.courier = self.courier or self._engage(settings)
            self._open_channels(settings, moment)
        for name, attached in self.attached.items():
            attached.configure(settings.channels[name])
        self.journal.put_config(settings.version, self.core.routing.describe())
        self.limits.keep(self.core.limits, moment)

    # --- the steps of a turn -----------------------------------------------------------------------------------

    def take(self, messages: list[Data | Ping | Ask], moment: Now) -> tuple[list[tuple[int, Verdict | None]], bool]:
        """Frames that are next in sequence are judged; what is asked for is looked up. Whether to ask for a resend."""
        verdicts: list[tuple[int, Verdict | None]] = []
        resend = False
        intake = self.intake
        for message in messages:
            if isinstance(message, Data):
                match intake.offer(message):
                    case "take":
                        if message.n == 1:
                            verdicts.clear()  # of another series: their numbers would be mistaken for this one's
                        verdicts.append((message.n, self._judge(message, moment)))
                        self.journal.begin()
                    case "gap":
                        resend = resend or intake.wants_resend(message)
            elif isinstance(message, Ping):
                if intake.missing(message):
                    resend = resend or intake.wants_resend(message)
            elif (message.epoch, message.gen) == intake.epoch:
                base = intake.base
                verdicts += [
                    (seq - base, _verdict.decode(blob) if blob else None)
                    for seq, blob in self.journal.frames.verdicts(base + n for n in message.numbers if n <= intake.have)
                ]
        return verdicts, resend

    def _judge(self, data: Data, moment: Now) -> Verdict | None:
        number = data.epoch, data.gen, data.n
        if number in self._refused:
            return self.core.refuse(data, self.intake.last, moment)
        try:
            return self.core.receive(data, self.intake.last, moment)
        except (sqlite3.Error, OSError, DamagedError):
            raise
        except Exception as error:
            raise UnjudgeableError(number) from error

    def collect(self, moment: Now) -> None:
        """What the channels have finished."""
        if self.courier:
            self.courier.hear()
        for number, channel in self.channels.items():
            due = channel.next_due()
            if due is None or due > moment.mono:
                continue
            ended = channel.collect(moment.mono)
            if self.marks:  # also of a channel that is harmless since it was asked to be
                self._unmark(ended)
            if ended.delivered:
                self.core.deliver(number, ended.delivered, moment)
            if ended.failed:
                self.core.fail(number, ended.failed, moment)
            if ended.slows:
                self.core.heed(number, ended, moment)
            if ended.held:
                self.core.hold(number, ended.held, moment)
            if ended.unreachable:
                self.core.miss(number, ended.unreachable, moment)
            for entry, contacts in ended.bad:
                self.core.disown(number, entry, contacts, "the service does not know it any more", moment)

    def _unmark(self, ended: Results) -> None:
        for frame, slots in ended.delivered:
            self.marks.end(frame.seq, slots)
        others = [failure[0] for failure in ended.failed] + [entry for entry, _ in ended.held]
        for frame, slot, *_ in [*others, *ended.unreachable]:
            self.marks.end(frame.seq, (slot,))

    def start(self, moment: Now) -> None:
        """Attempts of what is committed, as far as the channels have room."""
        self.core.crowded = False
        for number, channel in self.channels.items():
            suspect = self.core.try_suspect(number, moment)
            if suspect:
                self._start(channel, [suspect], moment, alone=True)
            runs = self.core.take(number, moment)
            if runs:
                self._start(channel, runs, moment, alone=False)

    def _start(self, channel: Sender, runs: list[Run], moment: Now, alone: bool) -> None:
        if not channel.harmless:
            for run in runs:
                self.marks.start(run.frame.seq, run.slots, alone)
        channel.start(runs, moment.mono)

    def maintain(self, moment: Now) -> None:
        if moment.mono >= self.maintenance.next_at:
            self.hold.expire(moment)
            self._count(moment)
            self._tell_of_rules()
            self.maintenance.step(moment)
        if moment.mono >= self.maintenance.scrub_at:
            self.maintenance.scrub(moment)

    def _tell_of_rules(self) -> None:
        """Each rule once; ``stats`` has the counts."""
        routing = self.core.routing
        for at, problem in routing.conditions.untold:
            rule = routing.rules[at]
            log.warning("a rule has no answer, so no match", rule=rule.name, line=rule.line, problem=problem)
        routing.conditions.untold.clear()

    def _count(self, moment: Now) -> None:
        """What has happened since the last time, for the collector's metrics."""
        finals = list(self.core.counters.finals(self.core.channel_names))
        counted = self.state.counted or []
        counted += [0] * (len(finals) - len(counted))
        news = [
            (name, what, count - before)
            for (name, what, count), before in zip(finals, counted, strict=True)
            if count != before
        ]
        if news:
            self.journal.begin()
            self.journal.outbox.post([Metrics(moment.wall_us // 1_000_000, news)])
            self.state.counted = [count for _, _, count in finals]

    def commit(self, moment: Now) -> list[tuple[bytes, bytes]]:
        """Store the turn; what was delivered in-app, as documents for the stream."""
        journal, core = self.journal, self.core
        changes = core.changes
        if not changes and not core.has_deferred and not journal.database.in_transaction:
            core.let_go()
            self._tell()
            return []
        if changes:
            self.changed_at_us = moment.wall_us
        journal.begin()
        journal.record(changes, moment.wall_us // 1000)
        journal.waiting.record_deferrals(core.deferrals.added, core.deferrals.removed)
        journal.waiting.record_digests(core.digests.changed)
        journal.health.record(core.health.changed)
        self.limits.save(moment)
        if changes.inbox:
            self.inbox.append(changes.inbox)
        self.state.last = self.intake.last
        (self.state.epoch, self.state.gen), self.state.base = self.intake.epoch, self.intake.base
        journal.save_state()
        journal.commit()
        published = self.stream.documents(changes.inbox_runs)
        self._tell()
        core.committed()
        return published

    def _tell(self) -> None:
        for alert in self.core.alerts:
            log.warning(**alert)
        self.core.alerts.clear()

    def turn(self, moment: Now, busy: bool) -> Turn | None:
        """The page of a broadcast that the router is to be asked for."""
        wanted = self.core.broadcasts.turn(moment, self.intake.epoch, busy)
        return Turn(self.settings.shard, *wanted) if wanted else None

    # --- the collector -----------------------------------------------------------------------------------------

    def outbox(self, moment: Now) -> Outbox | None:
        """What the collector has not confirmed: at once what is new, and all of it again after a while."""
        sent, sent_at = self._outbox_sent
        stale = moment.mono - sent_at >= OUTBOX_RESEND_S
        if sent == self.state.outbox and not stale:
            return None
        rows = self.journal.outbox.items(0 if stale else sent, OUTBOX_BATCH, OUTBOX_BYTES)
        if not rows:
            self._outbox_sent = (self.state.outbox, moment.mono)
            return None
        items = [_outbox_item.decode(item) for _, item in rows]
        return Outbox(self.settings.shard, self.journal.generation, rows[0][0], items)

    def outbox_sent(self, outbox: Outbox, moment: Now) -> None:
        self._outbox_sent = (outbox.first + len(outbox.items) - 1, moment.mono)

    def trim_outbox(self, generation: str, n: int) -> None:
        if generation == self.journal.generation:
            self.journal.begin()
            self.journal.outbox.trim(n)

    def hear(self, message: Work, moment: Now) -> None:
        """What the router says of an attached channel's workers."""
        if message.channel in self.attached:
            self.attached[message.channel].hear(message, moment.mono, moment.wall_us // 1000)

    def is_drained(self) -> bool:
        """Whether nothing is under way, and the collector has everything."""
        return not any(self.core.in_flight) and not self.journal.outbox.items(0, 1)

    # --- stats -------------------------------------------------------------------------------------------------

    def stats(self, moment: Now) -> dict[str, Any]:
        """This shard's part of the ``stats`` operation; the counts are those of the last commit."""
        core = self.core
        channels: dict[str, Any] = {}
        for number, (name, counters) in enumerate(zip(core.channel_names, core.counters.channels, strict=True)):
            channels[name] = {
                "planned": counters.planned,
                "attempts": counters.attempts,
                "failed_attempts": counters.failed_attempts,
                "outcomes": {ledger.OUTCOMES[final]: counters.outcomes[final] for final in ledger.FINAL},
                "queued": sum(core.queued[4 * number : 4 * number + 4]),
                "in_flight": core.in_flight[number],
                "retrying": len(core.retrying[number]),
                "deferred": sum(core.deferrals.counts[4 * number + priority] for priority in range(4)),
                "state": self.pauses.describe(number),
                "latency": {
                    "buckets": core.latencies[number].buckets(),
                    "max_us": core.latencies[number].max_us,
                },
            }
        return {
            "shard": self.settings.shard,
            "generation": self.journal.generation,
            "accepted": core.counters.accepted,
            "duplicates": core.counters.duplicates,
            "rejected": core.counters.rejected,
            "pending": self.journal.ledgers.pending(),
            "dead_letters": {reason: count for reason, count in core.counters.dead_letters.items() if count},
            "channels": channels,
            "broadcasts": core.broadcasts.documents(),
            "frames": self.intake.last,
            "lanes_on_disk": len(core.behind),
            "suspects": len(core.suspects),
            "idempotency_entries": len(core.idempotency),
            "idempotency_window_s": self.maintenance.window_s(moment.wall_us),
            "outbox": self.state.outbox,
            "journal_bytes": self.journal.size_bytes(),
            "changed_at_us": self.changed_at_us,
            "quarantined": self.quarantined,
            "config_version": self.settings.version,
            "rule_failures": core.routing.failures(),
        }


def _concurrency(settings: ShardSettings) -> int:
    return sum(one.concurrency for one in settings.channels.values())


def _real(settings: ShardSettings) -> dict[str, ChannelSettings]:
    """Those whose class is at work in this process."""
    return {
        name: channel
        for name, channel in settings.channels.items()
        if not (channel.is_simulated or channel.is_attached)
    }
