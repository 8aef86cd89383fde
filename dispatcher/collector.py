"""The collector's process: metrics and dead letters of all shards, in one SQLite file for operators.

Shards number what they send. Rows and the number reached are stored in one transaction and only then confirmed, so
that nothing is lost or counted twice, whoever is killed when.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import msgspec
import zmq

from dispatcher.child_settings import CollectorSettings
from dispatcher.collector_store import Store
from shards import logs
from shards.process import Stop, begin_child, say_ready
from shards.wire.control import COLLECTOR, Query, Reply
from shards.wire.encoding import pack
from shards.wire.errors import Error, RequestError
from shards.wire.outbox import Outbox, OutboxAck
from shards.wire.sockets import RECONNECT_MS, ToCollector

log = logs.logger()

POLL_MS = 200
MESSAGES_PER_TURN = 200
HWM = 10_000
METRICS_KEPT_S = 7 * 86_400
PRUNE_EVERY_S = 60.0
OPEN_EVERY_S = 0.5

_to_collector = msgspec.msgpack.Decoder(ToCollector)


class Collector:
    """Stores what shards send, and answers operators, until it is told to stop."""

    def __init__(self, settings: CollectorSettings, stop: Stop) -> None:
        self.stop = stop
        self._path = Path(settings.path)
        self._failure = ""  # why nothing can be stored now
        self.store: Store | None = None
        self._open()
        self.context = zmq.Context(1)
        self.incoming = self.context.socket(zmq.PULL)
        self.incoming.set(zmq.RCVHWM, HWM)
        self.incoming.bind("ipc://run/collector")
        self.shards = [self._connect(f"ipc://run/control-{shard}") for shard in range(settings.shards)]
        self.router = self._connect("ipc://run/router")
        self.poller = zmq.Poller()
        self.poller.register(self.incoming, zmq.POLLIN)
        self.poller.register(stop.bell, zmq.POLLIN)
        self._next_step = 0.0

    def _open(self) -> None:
        """A full disk, or one that fails, is no reason to end: shards keep what was not confirmed."""
        try:
            self.store = Store(self._path)
        except (sqlite3.Error, OSError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if str(error) != self._failure:
            log.error("cannot be written: nothing is confirmed to the shards", file=str(self._path), error=str(error))
        self._failure = str(error)

    def _connect(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.PUSH)
        socket.set(zmq.SNDHWM, HWM)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.connect(endpoint)
        return socket

    def run(self) -> None:
        while not self.stop.requested:
            self.stop.other_settings()  # no more than the log's level can change
            if self.poller.poll(POLL_MS):
                self.stop.bell.hear()
                self._turn()
            if time.monotonic() >= self._next_step:
                self._next_step = time.monotonic() + self._step()
        if self.store:
            self.store.connection.close()
        self.context.destroy(linger=0)

    def _step(self) -> float:
        """What is to be done now and then; seconds until the next time."""
        if self.store is None:
            self._open()
            return OPEN_EVERY_S
        try:
            self.store.prune(int(time.time()) - METRICS_KEPT_S)
        except sqlite3.Error as error:
            self._fail(error)
        return PRUNE_EVERY_S

    def _turn(self) -> None:
        try:
            for _ in range(MESSAGES_PER_TURN):
                message = _to_collector.decode(self.incoming.recv(zmq.DONTWAIT))
                if isinstance(message, Outbox):
                    reached = self._stored(message)
                    if reached is not None:
                        self._send(self.shards[message.shard], OutboxAck(message.generation, reached))
                else:
                    self._send(self.router, self._reply(message))
        except zmq.Again:
            pass

    def _stored(self, outbox: Outbox) -> int | None:
        """The number that is now reached; None where it cannot be stored: the shard sends it again."""
        if self.store is None:
            return None
        try:
            reached = self.store.store(outbox)
        except sqlite3.Error as error:
            self._fail(error)
            return None
        if self._failure:
            log.warning("can be written again", file=str(self._path))
            self._failure = ""
        return reached

    def _reply(self, query: Query) -> Reply:
        if self.store is None:
            return Reply(query.query, COLLECTOR, error=Error("unavailable", f"{self._path}: {self._failure}"))
        try:
            if query.request.op == "stats":
                return Reply(query.query, COLLECTOR, self.store.stats())
            return Reply(query.query, COLLECTOR, self.store.dead(query.request))
        except RequestError as error:
            return Reply(query.query, COLLECTOR, error=error.error)
        except sqlite3.Error as error:
            log.exception("collector.db failed", op=query.request.op)
            return Reply(query.query, COLLECTOR, error=Error("unavailable", f"collector.db: {error}"))

    def _send(self, socket: zmq.Socket[bytes], message: msgspec.Struct) -> None:
        try:
            socket.send(pack(message), zmq.DONTWAIT)
        except zmq.Again:
            log.warning("answer not taken, it will be asked for again", answer=type(message).__name__)


def main() -> None:
    stop, line = begin_child("the collector")
    collector = Collector(msgspec.json.decode(line, type=CollectorSettings), stop)
    say_ready()
    collector.run()


if __name__ == "__main__":
    main()
