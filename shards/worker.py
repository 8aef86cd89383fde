"""The shard's process: sockets, the poll loop and signals around ``Shard``, one transaction per poll turn.

A turn: frames in, judged; what channels finished; retries that are due; commit; and only then reports upstream,
answers, and the next attempts. Where the disk fails a turn, nothing of it leaves: the shard is made again from its
journal, as soon as that can be written, and until then says that it is unavailable.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import zmq

from shards import disk, logs
from shards.changes import Now
from shards.process import WRONG_CONFIGURATION, Stop, begin_child, fail, say, say_ready, usage
from shards.schema import DamagedError, JournalError
from shards.settings import ShardSettings
from shards.shard import FrameNumber, Shard, UnjudgeableError
from shards.units import decode_hook
from shards.wire.control import Publish, Query, Reply, Subscriptions
from shards.wire.encoding import pack
from shards.wire.errors import Error, RequestError
from shards.wire.link import Ask, Data, Ping, Report, Stalled, ToShard, Verdict
from shards.wire.outbox import OutboxAck
from shards.wire.sockets import RECONNECT_MS, ToShardControl
from shards.wire.workers import Offer

log = logs.logger()

IDLE_MS = 250  # a signal that comes just before a poll is seen after it
DATA_HWM = 64  # frames queued between router and shard; the rest waits in the router's window
CONTROL_HWM = 10_000
OUTBOX_HWM = 8  # batches for the collector, which gets them again until it confirms them
CONTROL_S = 0.02  # of a turn, for operations: an inbox's page may take milliseconds
STALL_POLL_S = 0.1
OPEN_EVERY_S = 0.5
AFTER_COMMIT = frozenset({"stats", "backup.begin", "backup.end"})

_to_shard = msgspec.msgpack.Decoder(ToShard)
_to_control = msgspec.msgpack.Decoder(ToShardControl)


def now() -> Now:
    return Now(time.monotonic(), time.time_ns() // 1000)


class Worker:
    """``run`` returns when ``stop`` was requested and what is under way has ended."""

    def __init__(self, settings: ShardSettings, stop: Stop) -> None:
        self.settings = settings
        self.stop = stop
        self.shard: Shard | None = None
        self._incarnation = settings.incarnation
        self._refused: set[FrameNumber] = set()  # frames that cannot be judged
        self._stalled = ""  # why there is no shard
        self._damaged = False  # the journal is to be rescued before it is opened
        self._open_at = 0.0  # when to try next
        self._prefixes: list[bytes] = []  # what somebody is subscribed to
        self._queries: list[Query] = []  # of this turn, not answered yet
        self._conn = 0  # of the newest data or ping
        self._lagging = False  # something was left for the next turn: do not wait in poll
        self._drained = False  # nothing is left to be done before the end
        self._started = time.monotonic()
        self.poller = zmq.Poller()
        self._open()
        self._open_sockets()

    @property
    def has_suspects(self) -> bool:
        """Whether the process before this one may have died of a delivery."""
        return self.shard is not None and self.shard.found_suspects

    @property
    def forgotten(self) -> list[str]:
        """Channels that the journal has numbers for, and the configuration does not have."""
        known = self.settings.channel_names()
        return [name for name in self.shard.journal.channel_names if name not in known] if self.shard else []

    # --- the journal -------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Make the shard from its journal, or note why that cannot be done now."""
        try:
            self.shard = Shard(self.settings, now(), self._refused)
        except (sqlite3.Error, OSError, DamagedError) as error:
            self._note(error)
            return
        self._hear_courier(self.shard)
        self.shard.stream.follow(self._prefixes)
        self._lagging = True  # its lanes are still on disk
        if self._stalled:
            log.warning("open again")
        self._stalled = ""

    def _hear_courier(self, shard: Shard) -> None:
        if shard.courier:
            self.poller.register(shard.courier.fileno(), zmq.POLLIN)

    def _note(self, error: Exception) -> None:
        self._damaged = disk.is_damage(error)
        if not self._damaged and not disk.is_passing(error):
            raise error
        if str(error) != self._stalled:
            log.error("unavailable", error=str(error))
        self._stalled = str(error)
        self._open_at = time.monotonic() + (0.0 if self._damaged else OPEN_EVERY_S)

    def _drop(self) -> None:
        """Forget everything that is not in the journal, which nobody has been told."""
        assert self.shard is not None
        if self.shard.courier and self.shard.courier.fileno() in self.poller:  # it may have been made just now
            self.poller.unregister(self.shard.courier.fileno())
        with contextlib.suppress(sqlite3.Error, OSError):
            self.shard.close()
        self.shard = None
        for query in self._queries:
            self._send(self.upstream, Reply(query.query, self.settings.shard, error=self._unavailable()))
        self._queries.clear()

    def _unavailable(self) -> Error:
        return Error("unavailable", f"shard {self.settings.shard}: {self._stalled or 'starts anew'}; send again later")

    def _wait_for_the_disk(self) -> None:
        """A turn without a shard: everybody is told so, and now and then opening it is tried."""
        self._send(self.upstream, Stalled(self.settings.shard, self._stalled or "starts anew"))
        wait_s = min(STALL_POLL_S, max(0.0, self._open_at - time.monotonic()))
        if self.control.poll(int(wait_s * 1000)):
            for message in self._controls():
                if isinstance(message, Query):
                    self._send(self.upstream, Reply(message.query, self.settings.shard, error=self._unavailable()))
        if time.monotonic() < self._open_at:
            return
        if self._damaged:
            try:
                from shards.rescue import rescue  # which takes file descriptors

                rescue(self.settings, self._stalled)
            except (sqlite3.Error, OSError) as error:
                self._note(error)
                return
        self._open()
        if self.shard:
            self._incarnation = max(self._incarnation + 1, time.time_ns() // 1000)
            self._report(self.shard, 0, resend=True)

    def _open_sockets(self) -> None:
        number = self.settings.shard
        self.context = zmq.Context(1)
        self.data = self._socket(zmq.PULL, DATA_HWM)
        self.data.bind(f"ipc://run/shard-{number}")
        self.control = self._socket(zmq.PULL, CONTROL_HWM)
        self.control.bind(f"ipc://run/control-{number}")
        self.upstream = self._socket(zmq.PUSH, CONTROL_HWM)
        self.upstream.connect("ipc://run/router")
        self.collector = self._socket(zmq.PUSH, OUTBOX_HWM)
        self.collector.connect("ipc://run/collector")
        self.poller.register(self.data, zmq.POLLIN)
        self.poller.register(self.control, zmq.POLLIN)
        self.poller.register(self.stop.bell, zmq.POLLIN)
        if self.shard:
            self._report(self.shard, 0, resend=True)

    def _socket(self, kind: int, hwm: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.RCVHWM, hwm)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        return socket

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        deadline = None
        while True:
            if other := self.stop.other_settings():
                self._reconfigure(msgspec.json.decode(other, type=ShardSettings, dec_hook=decode_hook))
            self._turn()
            if self.stop.requested:
                deadline = deadline or time.monotonic() + self.settings.drain
                if time.monotonic() > deadline or self.shard is None or self._drained:
                    break
        if self.shard:
            self.shard.close()
        self.context.destroy(linger=0)

    def _reconfigure(self, settings: ShardSettings) -> None:
        self.settings = settings
        if self.shard:  # else it will be opened with them
            try:
                self.shard.reconfigure(settings, now())
                self._hear_courier(self.shard)
            except (sqlite3.Error, OSError, DamagedError) as error:
                self._note(error)
                self._drop()
        say(f"reloaded {settings.version}")

    def _turn(self) -> None:
        if self.shard is None:
            self._wait_for_the_disk()
            return
        try:
            self._serve(self.shard)
        except (sqlite3.Error, OSError, DamagedError) as error:
            self._note(error)
            self._drop()
        except UnjudgeableError as error:
            log.exception("a frame cannot be judged, and will be refused", number=error.number)
            self._refused.add(error.number)
            self._drop()

    def _serve(self, shard: Shard) -> None:
        stopping = self.stop.requested
        ready = {socket for socket, _ in self.poller.poll(self._wait_ms(shard, now()))}
        self.stop.bell.hear()
        moment = now()
        core = shard.core
        self._lagging = core.refill(moment) | core.release(moment)
        self._lagging = core.sweep(moment) or self._lagging
        messages = self._receive() if self.data in ready else []
        verdicts, resend = shard.take(messages, moment)
        replies = self._answer(shard, moment) if self.control in ready else []
        shard.collect(moment)
        core.wake(moment)
        self._lagging = core.deliver_inapp(moment) or self._lagging
        shard.maintain(moment)
        published = shard.commit(moment)
        for query in self._queries:  # counts and journal agree now, and no transaction is open
            if query.request.op in AFTER_COMMIT:
                replies.append(self._perform(shard, query, moment))
        self._queries.clear()
        if messages:
            self._report(shard, self._conn, resend, verdicts)
        for reply in replies:
            self._send(self.upstream, reply)
        if published:
            self._send(self.upstream, Publish(published))
        if not self.stop.requested:
            shard.start(moment)
            self._lagging = self._lagging or core.crowded
            if core.changes:
                self._lagging = True  # something expired: store it
            if shard.attached:
                self._hand_over(shard)
            if turn := shard.turn(moment, busy=self._lagging):
                self._send(self.upstream, turn)
        elif stopping and self.control not in ready:  # the router has ended before, and has no more to say
            for attached in shard.attached.values():
                attached.give_up()
        outbox = shard.outbox(moment)
        if outbox and self._send(self.collector, outbox):
            shard.outbox_sent(outbox, moment)
        self._drained = self.stop.requested and shard.is_drained()

    def _hand_over(self, shard: Shard) -> None:
        """To the workers of attached channels; what the router does not take now waits for the next turn."""
        for name, channel in shard.attached.items():
            while (found := channel.offer()) and self._send(self.upstream, Offer(self.settings.shard, name, found)):
                channel.offered(len(found))

    def _wait_ms(self, shard: Shard, moment: Now) -> int:
        if self._lagging:
            return 0
        dues = [channel.next_due() for channel in shard.channels.values()] + [shard.core.next_due(moment)]
        dues.append(shard.core.broadcasts.next_due(moment))
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
                if type(message) is Data:
                    # an encoded notification has some 150 bytes; what counts is the order of magnitude
                    weight += 1 + len(message.body) // 150
                    self._conn = message.conn
                else:
                    weight += 1
                    if type(message) is Ping:
                        self._conn = message.conn
        except zmq.Again:
            return messages
        self._lagging = True
        return messages

    def _answer(self, shard: Shard, moment: Now) -> list[Reply]:
        """Operations, whose answers leave after the commit."""
        replies = []
        for message in self._controls():
            if isinstance(message, Query):
                self._queries.append(message)
                if message.request.op not in AFTER_COMMIT:
                    replies.append(self._perform(shard, message, moment))
            elif isinstance(message, Subscriptions):
                self._prefixes = message.prefixes
                shard.stream.follow(self._prefixes)
            elif isinstance(message, OutboxAck):
                shard.trim_outbox(message.generation, message.n)
            else:
                shard.hear(message, moment)
        return replies

    def _controls(self) -> Iterator[ToShardControl]:
        end = time.monotonic() + CONTROL_S
        while time.monotonic() < end:
            try:
                yield _to_control.decode(self.control.recv(zmq.DONTWAIT))
            except zmq.Again:
                return
        self._lagging = True

    def _perform(self, shard: Shard, query: Query, moment: Now) -> Reply:
        number = self.settings.shard
        request = query.request
        try:
            match request.op:
                case "stats":
                    return Reply(query.query, number, self._stats(shard, moment))
                case "backup.begin":
                    return Reply(query.query, number, {"shard": number, **shard.hold.begin(request.id or "", moment)})
                case "backup.end":
                    return Reply(query.query, number, {"shard": number, **shard.hold.end(request.id or "")})
                case "channel.pause":
                    return Reply(query.query, number, shard.pauses.pause(request.channel or "", moment))
                case "channel.resume":
                    return Reply(query.query, number, shard.pauses.resume(request.channel or ""))
            return Reply(query.query, number, shard.operations.answer(request, moment))
        except RequestError as error:
            return Reply(query.query, number, error=error.error)
        except msgspec.ValidationError as error:
            return Reply(query.query, number, error=Error("bad_value", str(error)))

    def _stats(self, shard: Shard, moment: Now) -> dict[str, Any]:
        return {**shard.stats(moment), "uptime_s": round(time.monotonic() - self._started, 3), **usage()}

    # --- upstream ----------------------------------------------------------------------------------------------

    def _report(
        self,
        shard: Shard,
        conn: int,
        resend: bool = False,
        verdicts: list[tuple[int, Verdict | None]] | None = None,
    ) -> None:
        intake = shard.intake
        epoch, gen = intake.epoch
        self._send(
            self.upstream,
            Report(
                self.settings.shard,
                self._incarnation,
                epoch,
                gen,
                conn,
                intake.have,
                intake.base,
                shard.journal.generation,
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


def main() -> None:
    stop, line = begin_child("a shard")
    settings = msgspec.json.decode(line, type=ShardSettings, dec_hook=decode_hook)
    try:
        worker = Worker(settings, stop)
        for name in worker.forgotten:
            say(f"knew {name}")
        say_ready(suspects=worker.has_suspects)
        worker.run()
        code = 0
    except JournalError as error:
        fail(str(error), WRONG_CONFIGURATION)
    except Exception as error:  # noqa: BLE001 - it is said as Python would say it, and ends the process
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    sys.stderr.flush()
    os._exit(code)  # Python would wait for threads in which a plug-in hangs


if __name__ == "__main__":
    main()
