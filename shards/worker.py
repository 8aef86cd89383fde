"""The shard's process: sockets, clocks and signals around the core, one transaction per poll turn.

A turn: frames in, judged; what channels finished; retries that are due; commit; and only then reports upstream,
answers, and the next attempts.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import orjson
import zmq

from shards import ledger
from shards.channels.base import Channel
from shards.channels.simulated import SimulatedChannel
from shards.core import Core, Now
from shards.counters import ChannelCounters
from shards.frames import Run
from shards.inbox import PLACE_SHIFT, UNSEEN, Inbox
from shards.intake import Intake
from shards.journal import SqliteJournal, State
from shards.operations import Operations
from shards.people import User
from shards.process import Stop, begin_child, say_ready, usage
from shards.settings import ShardSettings
from shards.units import decode_hook
from shards.wire import (
    CHANNELS,
    Ask,
    Data,
    Error,
    Metrics,
    Outbox,
    OutboxAck,
    OutboxItem,
    Ping,
    Publish,
    Query,
    Reply,
    Report,
    RequestError,
    Subscriptions,
    ToShard,
    ToShardControl,
    Verdict,
    pack,
)

log = logging.getLogger("shard")

IDLE_MS = 1_000
DATA_HWM = 64  # frames queued between router and shard; the rest waits in the router's window
CONTROL_HWM = 10_000
CONTROL_PER_TURN = 500
OUTBOX_BATCH = 500
OUTBOX_RESEND_S = 1.0
MAINTENANCE_EVERY_S = 1.0  # also the grain of the metrics
MAINTENANCE_FRAMES = 256
EXPIRY_FRAMES = 64
DRAIN_S = 10.0

_to_shard = msgspec.msgpack.Decoder(ToShard)
_to_control = msgspec.msgpack.Decoder(ToShardControl)
_outbox_item = msgspec.msgpack.Decoder(OutboxItem)
_verdict = msgspec.msgpack.Decoder(Verdict)


def now() -> Now:
    return Now(time.monotonic(), time.time_ns() // 1000)


class Worker:
    """Owns everything of one shard. ``run`` returns when ``stop`` was requested and what is under way has ended."""

    def __init__(self, settings: ShardSettings, stop: Stop) -> None:
        self.settings = settings
        self.stop = stop
        names = [*CHANNELS, *(name for name in settings.channels if name not in CHANNELS)]
        self.journal = SqliteJournal(Path(settings.path), settings.shard, settings.shards, settings.durability, names)
        self.state: State = self.journal.state
        counters = self.state.counters
        while len(counters.channels) < len(self.journal.channel_names):
            counters.channels.append(ChannelCounters())
        self.inbox = Inbox(self.journal.database)
        self.core = Core(
            settings, self.journal.generation, self.journal.channel_names, self.journal, counters, random.random
        )
        self.operations = Operations(self.core, self.journal, self.inbox)
        self.intake = Intake(self.state.last, (self.state.epoch, self.state.gen), self.state.base)
        self.channels: dict[int, Channel] = {
            self.journal.channel_names.index(name): SimulatedChannel(
                name, channel.seed, channel.failure_rate, channel.latency
            )
            for name, channel in settings.channels.items()
        }
        self.subscriptions: tuple[bytes, ...] = ()
        self._topics: dict[User, bytes | None] = {}  # of the users seen since the subscriptions changed
        self._numbers: dict[User, int] = {}  # of those that are followed: the number of their last inbox entry
        self._conn = 0  # of the newest data or ping
        self._metrics_sent = {(name, what): count for name, what, count in counters.finals(self.core.channel_names)}
        self._next_maintenance = 0.0
        self._outbox_sent = (0, 0.0)  # the last number sent, and when
        self._window_start = 0  # the first frame whose digests are in the idempotency set
        self._window_start_us = 0
        self._prune_after = 0
        self._stats_asked: list[int] = []
        self._lagging = False  # something was left for the next turn: do not wait in poll
        self._started = time.monotonic()
        self._changed_at_us = 0  # when a delivery last changed
        self._recover()
        self._open_sockets()

    # --- start -------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """From the journal back to where the shard was: positions, digests, what waits for a retry."""
        core, moment = self.core, now()
        core.last = self.state.last
        after = 0
        while found := self.journal.digests_from(after, 1_000):
            for seq, at_us, digests in found:
                if at_us < moment.wall_us - int(self.settings.idempotency.window * 1e6):
                    continue
                if not self._window_start:
                    self._window_start, self._window_start_us = seq, at_us
                core.idempotency.add_frame(seq, digests)
            after = found[-1][0] + 1
            self._expire_digests(moment)
        first, mask = self.journal.open_mask()
        if mask:
            for channel in range(len(core.channel_names)):
                for priority in range(4):
                    lane = ledger.lane_of(channel, priority)
                    if mask & ledger.lane_bit(lane):
                        core.behind[lane] = first - 1
        for seq, slots, notes in self.journal.waiting():
            stored = msgspec.msgpack.decode(notes, type=dict[int, tuple[int | None, str, str]])
            values = ledger.words(slots)
            for slot, (due_ms, _, _) in stored.items():
                if due_ms is not None and ledger.outcome_of(values[slot]) == ledger.RETRYING:
                    wait_s = min(max(0.0, due_ms / 1000 - moment.wall_us / 1e6), self.settings.retry.max)
                    core.wait(seq, slot, ledger.channel_of(values[slot]), moment.mono + wait_s)

    def _open_sockets(self) -> None:
        shard = self.settings.shard
        self.context = zmq.Context(1)
        self.data = self._socket(zmq.PULL, DATA_HWM)
        self.data.bind(f"ipc://run/shard-{shard}")
        self.control = self._socket(zmq.PULL, CONTROL_HWM)
        self.control.bind(f"ipc://run/control-{shard}")
        self.upstream = self._socket(zmq.PUSH, CONTROL_HWM)
        self.upstream.connect("ipc://run/router")
        self.collector = self._socket(zmq.PUSH, CONTROL_HWM)
        self.collector.connect("ipc://run/collector")
        self.poller = zmq.Poller()
        self.poller.register(self.data, zmq.POLLIN)
        self.poller.register(self.control, zmq.POLLIN)
        self._report(0, resend=True)

    def _socket(self, kind: int, hwm: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.RCVHWM, hwm)
        socket.set(zmq.LINGER, 0)
        return socket

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        deadline = None
        while True:
            self._turn()
            if self.stop.requested:
                deadline = deadline or time.monotonic() + DRAIN_S
                if time.monotonic() > deadline or not (any(self.core.in_flight) or self._outbox_waits()):
                    break
        self.journal.close()
        self.context.destroy(linger=0)

    def _turn(self) -> None:
        moment = now()
        ready = {socket for socket, _ in self.poller.poll(self._wait_ms(moment))}
        moment = now()
        core = self.core
        self._lagging = core.refill(moment)
        messages = self._receive() if self.data in ready else []
        verdicts, resend = self._take(messages, moment)
        replies = self._answer(moment) if self.control in ready else []
        self._collect(moment)
        core.wake(moment)
        core.deliver_inapp(moment)
        self._maintain(moment)
        published = self._commit(moment)
        if messages:
            self._report(self._conn, resend, verdicts)
        replies += [Reply(query, self.settings.shard, self.stats()) for query in self._stats_asked]
        self._stats_asked.clear()
        for reply in replies:
            self._send(self.upstream, reply)
        if published:
            self._send(self.upstream, Publish(published))
        if not self.stop.requested:
            self._start(moment)
        self._post(moment)

    def _wait_ms(self, moment: Now) -> int:
        if self._lagging:
            return 0
        dues = [channel.next_due() for channel in self.channels.values()] + [self.core.next_due()]
        dues.append(moment.mono + IDLE_MS / 1000)
        wait_s = min(due for due in dues if due is not None) - moment.mono
        return max(0, min(IDLE_MS, int(wait_s * 1000 + 0.999)))

    def _receive(self) -> list[Data | Ping | Ask]:
        """Messages up to the bound of a turn, in order."""
        messages: list[Data | Ping | Ask] = []
        weight = 0
        recv, decode = self.data.recv, _to_shard.decode
        try:
            while weight < self.settings.bounds.turn_notifications:
                message = decode(recv(zmq.DONTWAIT))
                messages.append(message)
                # an encoded notification has some 150 bytes; what counts is the order of magnitude
                weight += 1 + len(message.body) // 150 if type(message) is Data else 1
        except zmq.Again:
            return messages
        self._lagging = True
        return messages

    def _take(self, messages: list[Data | Ping | Ask], moment: Now) -> tuple[list[tuple[int, Verdict | None]], bool]:
        """Frames that are next in sequence are judged; what is asked for is looked up."""
        verdicts: list[tuple[int, Verdict | None]] = []
        resend = False
        intake = self.intake
        for message in messages:
            if isinstance(message, Data):
                self._conn = message.conn
                match intake.offer(message):
                    case "take":
                        if message.n == 1:
                            verdicts.clear()  # of another series: their numbers would be mistaken for this one's
                        verdict = self.core.receive(message, intake.last, moment)
                        verdicts.append((message.n, verdict))
                        self.journal.begin()
                    case "gap":
                        resend = resend or intake.wants_resend(message)
            elif isinstance(message, Ping):
                self._conn = message.conn
                if intake.missing(message):
                    resend = resend or intake.wants_resend(message)
            elif (message.epoch, message.gen) == intake.epoch:
                base = intake.base
                verdicts += [
                    (seq - base, _verdict.decode(blob) if blob else None)
                    for seq, blob in self.journal.verdicts(base + n for n in message.numbers if n <= intake.have)
                ]
        return verdicts, resend

    def _answer(self, moment: Now) -> list[Reply]:
        replies = []
        for _ in range(CONTROL_PER_TURN):
            try:
                message = _to_control.decode(self.control.recv(zmq.DONTWAIT))
            except zmq.Again:
                break
            if isinstance(message, Query) and message.request.op == "stats":
                self._stats_asked.append(message.query)  # answered after the commit: counts and journal then agree
            elif isinstance(message, Query):
                replies.append(self._reply(message, moment))
            elif isinstance(message, Subscriptions):
                self.subscriptions = tuple(message.prefixes)
                self._topics.clear()
                self._numbers.clear()
            elif isinstance(message, OutboxAck) and message.generation == self.journal.generation:
                self.journal.begin()
                self.journal.trim_outbox(message.n)
        else:
            self._lagging = True
        return replies

    def _reply(self, query: Query, moment: Now) -> Reply:
        shard = self.settings.shard
        try:
            return Reply(query.query, shard, self.operations.answer(query.request, moment))
        except RequestError as error:
            return Reply(query.query, shard, error=error.error)
        except msgspec.ValidationError as error:
            return Reply(query.query, shard, error=Error("bad_value", str(error)))

    def _collect(self, moment: Now) -> None:
        for number, channel in self.channels.items():
            due = channel.next_due()
            if due is not None and due <= moment.mono:
                delivered, failed = channel.collect(moment.mono)
                if delivered:
                    self.core.deliver(number, delivered, moment)
                if failed:
                    self.core.fail(number, failed, moment)

    def _start(self, moment: Now) -> None:
        for number, channel in self.channels.items():
            runs = self.core.take(number, moment)
            if runs:
                channel.start(runs, moment.mono)
        if self.core.changes:
            self._lagging = True  # something expired: store it

    # --- the transaction ---------------------------------------------------------------------------------------

    def _commit(self, moment: Now) -> list[tuple[bytes, bytes]]:
        """Store the turn; what was delivered in-app, as documents for the stream."""
        journal, core = self.journal, self.core
        changes = core.changes
        if not changes and not journal.database.in_transaction:
            return []
        if changes:
            self._changed_at_us = moment.wall_us
        journal.begin()
        journal.record(changes, moment.wall_us // 1000)
        if changes.inbox:
            self.inbox.append(changes.inbox)
        self.state.last = self.intake.last
        (self.state.epoch, self.state.gen), self.state.base = self.intake.epoch, self.intake.base
        journal.save_state()
        journal.commit()
        published = self._documents(changes.inbox_runs) if self.subscriptions else []
        core.committed()
        return published

    def _count(self, moment: Now) -> None:
        counts = []
        for name, what, count in self.core.counters.finals(self.core.channel_names):
            before = self._metrics_sent.get((name, what), 0)
            if count != before:
                counts.append((name, what, count - before))
                self._metrics_sent[name, what] = count
        if counts:
            self.journal.begin()
            self.journal.post([Metrics(moment.wall_us // 1_000_000, counts)])

    def _documents(self, runs: list[Run]) -> list[tuple[bytes, bytes]]:
        """What was delivered in-app to users that somebody follows."""
        wanted = [
            (topic, user, run.frame, run.indexes[at])
            for run in runs
            for at, user in enumerate(run.users)
            if (topic := self._topic(user)) is not None
        ]
        for user, count in Counter(user for _, user, _, _ in wanted).items():
            if user not in self._numbers:
                self._numbers[user] = self.inbox.last_number(user.signed_hash) - count
        documents = []
        for topic, user, frame, index in wanted:
            number = self._numbers[user] = self._numbers[user] + 1
            notification = self.core.contents.notification(frame.seq, index)
            place = frame.seq << PLACE_SHIFT | index
            item = self.operations.item_document(user, number, place, notification, frame.at_us, UNSEEN)
            documents.append((topic, orjson.dumps(item)))
        return documents

    def _topic(self, user: User) -> bytes | None:
        """The user's topic, if somebody is subscribed to it."""
        topic = self._topics.get(user, b"")
        if topic == b"":
            topic = b"inapp." + user.user_id.encode() + b"\0"
            if len(self._topics) >= self.settings.bounds.users:
                self._topics.clear()
                self._numbers.clear()
            topic = self._topics[user] = topic if topic.startswith(self.subscriptions) else None
        return topic

    # --- upstream and the collector ----------------------------------------------------------------------------

    def _report(
        self, conn: int, resend: bool = False, verdicts: list[tuple[int, Verdict | None]] | None = None
    ) -> None:
        epoch, gen = self.intake.epoch
        self._send(
            self.upstream,
            Report(
                self.settings.shard,
                self.settings.incarnation,
                epoch,
                gen,
                conn,
                self.intake.have,
                self.intake.base,
                self.journal.generation,
                resend,
                verdicts or [],
            ),
        )

    def _send(self, socket: zmq.Socket[bytes], message: msgspec.Struct) -> bool:
        """Whether it was queued. What is dropped here is asked for again by whoever needs it."""
        try:
            socket.send(pack(message), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _outbox_waits(self) -> bool:
        return bool(self.journal.outbox(0, 1))

    def _post(self, moment: Now) -> None:
        """Send what the collector has not confirmed: at once what is new, and all of it again after a while."""
        sent, sent_at = self._outbox_sent
        stale = moment.mono - sent_at >= OUTBOX_RESEND_S
        if sent == self.state.outbox and not stale:
            return
        rows = self.journal.outbox(0 if stale else sent, OUTBOX_BATCH)
        if rows:
            items = [_outbox_item.decode(item) for _, item in rows]
            if self._send(self.collector, Outbox(self.settings.shard, self.journal.generation, rows[0][0], items)):
                self._outbox_sent = (rows[-1][0], moment.mono)
        else:
            self._outbox_sent = (self.state.outbox, moment.mono)

    # --- maintenance -------------------------------------------------------------------------------------------

    def _maintain(self, moment: Now) -> None:
        if moment.mono < self._next_maintenance:
            return
        self._next_maintenance = moment.mono + MAINTENANCE_EVERY_S
        self._count(moment)
        self._expire_digests(moment)
        self._prune(moment)

    def _expire_digests(self, moment: Now) -> None:
        """Forget keys that are older than the window, or over the bound on entries."""
        idempotency = self.core.idempotency
        oldest_us = moment.wall_us - int(self.settings.idempotency.window * 1e6)
        excess = len(idempotency) - self.settings.idempotency.max_entries
        while True:
            rows = self.journal.digests_from(self._window_start, EXPIRY_FRAMES)
            for seq, at_us, digests in rows:
                if at_us >= oldest_us and excess <= 0:
                    self._window_start, self._window_start_us = seq, at_us
                    return
                excess -= idempotency.forget_frame(seq, digests)
            if not rows:
                return
            self._window_start = rows[-1][0] + 1

    def _prune(self, moment: Now) -> None:
        """Delete final frames that are older than their retention, or the oldest final ones of a full journal."""
        retention = self.settings.retention
        full = self.journal.size_bytes() > retention.max_bytes
        finished_us, inbox_us = (
            (moment.wall_us, moment.wall_us)
            if full
            else (moment.wall_us - int(retention.finished * 1e6), moment.wall_us - int(retention.inbox * 1e6))
        )
        rows = self.journal.prunable(self._prune_after, finished_us, inbox_us, MAINTENANCE_FRAMES)
        gone = [seq for seq, _, may_go in rows if may_go and seq not in self.core.frames]
        if gone:
            self.journal.begin()
            for seq in gone:
                if seq >= self._window_start:
                    content = self.journal.content(seq)
                    if content and content[2]:
                        self.core.idempotency.forget_frame(seq, content[2])
            self.journal.prune(gone)
        young = rows and rows[-1][1] >= finished_us
        self._prune_after = rows[-1][0] if rows and not young else 0

    # --- stats -------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
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
                "latency": {
                    "buckets": core.latencies[number].buckets(),
                    "max_us": core.latencies[number].max_us,
                },
            }
        window_s = float(self.settings.idempotency.window)
        if self._window_start_us and len(core.idempotency) >= self.settings.idempotency.max_entries:
            window_s = min(window_s, time.time() - self._window_start_us / 1e6)
        return {
            "shard": self.settings.shard,
            "generation": self.journal.generation,
            "accepted": core.counters.accepted,
            "duplicates": core.counters.duplicates,
            "rejected": core.counters.rejected,
            "pending": self.journal.pending(),
            "dead_letters": {reason: count for reason, count in core.counters.dead_letters.items() if count},
            "channels": channels,
            "frames": self.intake.last,
            "lanes_on_disk": len(core.behind),
            "idempotency_entries": len(core.idempotency),
            "idempotency_window_s": window_s,
            "outbox": self.state.outbox,
            "journal_bytes": self.journal.size_bytes(),
            "changed_at_us": self._changed_at_us,
            "uptime_s": round(time.monotonic() - self._started, 3),
            **usage(),
        }


def main() -> None:
    stop, line = begin_child("a shard")
    settings = msgspec.json.decode(line, type=ShardSettings, dec_hook=decode_hook)
    worker = Worker(settings, stop)
    say_ready()
    worker.run()


if __name__ == "__main__":
    main()
