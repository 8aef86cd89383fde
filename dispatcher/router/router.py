"""The router's loop: what a turn does, and to whom it hands what clients ask and shards say."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import msgspec
import zmq

from dispatcher import __version__
from dispatcher.child_settings import RouterSettings
from dispatcher.reloads import Reloaded, Reloads
from dispatcher.router.answers import Answers
from dispatcher.router.descriptors import Reserve
from dispatcher.router.gathering import Gathering
from dispatcher.router.ingest import Ingest
from dispatcher.router.links import Links
from dispatcher.router.queries import Queries
from dispatcher.router.receipts import Receipt
from dispatcher.router.repair import repair
from dispatcher.router.requests import decode_request, seq_of
from dispatcher.router.settling import Settling
from dispatcher.router.sockets import Sockets
from dispatcher.router.splitter import Limits
from dispatcher.router.stream import Stream
from dispatcher.router.submits import Submits
from dispatcher.router.workers import Workers
from shards.process import Stop, say
from shards.wire.control import Publish, Reply
from shards.wire.encoding import is_json, pack
from shards.wire.errors import Error, RequestError
from shards.wire.link import EXPANSION, Report, Stalled, Turn
from shards.wire.requests import Request, Submit, WorkerCall
from shards.wire.sockets import FromShard
from shards.wire.workers import Offer

TICK_S = 0.1
POLL_MS = 100
REPORTS_PER_TURN = 200
REQUESTS_PER_TURN = 100
ENVELOPE_PARTS_MAX = 16  # before the request: who gets the answer, by way of which proxies
ENVELOPE_BYTES_MAX = 4_096


_from_shard = msgspec.msgpack.Decoder(FromShard)


class Router:
    """``run`` returns when told to stop and the links are empty."""

    def __init__(self, settings: RouterSettings, stop: Stop) -> None:
        self.settings = settings
        self.stop = stop
        self.started = time.monotonic()
        self.sockets = Sockets(settings)
        self.sockets.poller.register(stop.bell, zmq.POLLIN)
        self.links = Links(settings, self.sockets)
        self.reserve = Reserve(settings.shards)
        names = (f"b-{settings.epoch:x}-{number:x}" for number in itertools.count(1))
        limits = Limits(settings.shards, settings.batch, settings.fanout_bytes, names.__next__)
        self.answers = Answers(self.sockets.submit)
        self.gathering = Gathering(settings.shards, self.links.keep)
        self.submits = Submits(settings, limits, self.links, self.gathering, self.answers)
        self.ingest = Ingest(settings, limits, self.links, self.gathering, self.sockets)
        self.settling = Settling(settings.shards, self.links, self._on_settled)
        self.stream = Stream(self.sockets)
        self.queries = Queries(settings.shards, settings.requests, self.sockets.tell, self.answers.give)
        self.reloads = Reloads(settings.epoch, settings.requests, say, self.answers.give)
        self.workers = Workers(settings.epoch, settings.shards, self.sockets.tell, self.answers.give)
        self.workers.configure(settings.channels)
        self._incarnations = [0] * settings.shards
        self._next_tick = 0.0

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self.stop.requested:
            self._turn()
        self._drain_until(time.monotonic() + self.settings.drain_s)
        self.sockets.close()

    def _drain_until(self, deadline: float) -> None:
        """Nothing more is taken but results of workers; what was taken goes to its shard, and is answered."""
        self.workers.close()
        if not self.workers.has_work:
            self.sockets.poller.unregister(self.sockets.submit)
        self.ingest.stop()
        while time.monotonic() <= deadline and (
            not self.links.are_empty or self.submits.wait or self.workers.has_work or self.workers.touched
        ):
            self._turn()

    def _turn(self) -> None:
        sockets = self.sockets
        ready = dict(sockets.poller.poll(POLL_MS))
        self.stop.bell.hear()
        now = time.monotonic()
        if told := self.stop.other_settings():
            reloaded = msgspec.json.decode(told, type=Reloaded)
            self.workers.configure(reloaded.channels)
            self.reloads.done(reloaded)
        if sockets.gate and sockets.gate.socket in ready:
            sockets.gate.answer()
        if sockets.reports in ready:
            _drain(sockets.reports, self._on_message_of_shard)
        if sockets.stream in ready:
            _drain(sockets.stream, self.stream.subscribed)
            for shard in range(self.settings.shards):
                self.stream.tell(shard)
        if sockets.submit in ready:
            self._read_requests(now)
        if sockets.ingest in ready and not self.stop.requested:
            self.ingest.read()
        self.gathering.flush()
        if self.workers.touched:
            self.workers.step(now)
        self.links.send(ready)
        if now >= self._next_tick:
            self._next_tick = now + TICK_S
            self._tick(now)
        if not self.stop.requested:
            self.ingest.throttle()

    def _tick(self, now: float) -> None:
        """Ten times a second."""
        self.links.ping()
        self.submits.expire(now)
        self.settling.ask()
        self.queries.expire(now)
        self.workers.tick(now)
        self.reloads.expire(now)
        self.reserve.check()

    # --- what clients ask --------------------------------------------------------------------------------------

    def _read_requests(self, now: float) -> None:
        try:
            for _ in range(REQUESTS_PER_TURN):
                envelope = self.sockets.submit.recv_multipart(zmq.DONTWAIT)
                body = envelope.pop()
                as_json = is_json(body)
                size = sum(map(len, envelope))
                if len(envelope) < 2 or envelope[-1] or len(envelope) > ENVELOPE_PARTS_MAX or size > ENVELOPE_BYTES_MAX:
                    error = Error("bad_request", "send one empty part before the request, and nothing else")
                    self.answers.give([envelope[0], b""], as_json, seq_of(body), error)
                else:
                    self._on_message(envelope, body, as_json, now)
        except zmq.Again:
            pass

    def _on_message(self, envelope: list[bytes], body: bytes, as_json: bool, now: float) -> None:
        try:
            try:
                self._on_request(envelope, body, as_json, now)
            except RequestError as refused:
                repaired = repair(body) if refused.error.code == "bad_encoding" else body
                if repaired == body:
                    raise
                body = repaired
                self._on_request(envelope, body, as_json, now)
        except RequestError as refused:
            self.answers.give(envelope, as_json, seq_of(body), refused.error)

    def _on_request(self, envelope: list[bytes], body: bytes, as_json: bool, now: float) -> None:
        if len(body) > self.settings.message_bytes:
            raise RequestError("too_large", f"{len(body)} bytes; at most {self.settings.message_bytes} per message")
        request = decode_request(body, as_json)
        if isinstance(request, WorkerCall):
            self.workers.call(envelope, as_json, request, now)
        elif self.stop.requested:  # and read only because workers may have results
            raise RequestError("unavailable", "the dispatcher is being stopped; nothing was taken, send again later")
        elif isinstance(request, Submit):
            self.submits.take(envelope, request, as_json, now)
        elif request.op == "ping":
            self._on_ping(envelope, as_json, request, now)
        elif request.op in ("config.reload", "template.put"):
            self.reloads.add(envelope, as_json, request, now)
        else:
            self.queries.ask(envelope, as_json, request, now + self.settings.receipt_timeout_s)

    def _on_ping(self, envelope: list[bytes], as_json: bool, request: Request, now: float) -> None:
        uptime_s = round(now - self.started, 3)
        pong = {"version": __version__, "shards": self.settings.shards, "uptime_s": uptime_s}
        self.answers.give(envelope, as_json, request.seq, pong)

    # --- what shards say ---------------------------------------------------------------------------------------

    def _on_message_of_shard(self, message: bytes) -> None:
        found = _from_shard.decode(message)
        if isinstance(found, Report):
            self._on_report(found)
        elif isinstance(found, Reply):
            self.queries.reply(found)
        elif isinstance(found, Stalled):
            self.submits.stall(found, time.monotonic())
        elif isinstance(found, Turn):
            self._expand(found)
        elif isinstance(found, Offer):
            self.workers.offer(found)
        elif isinstance(found, Publish):
            self.stream.publish(found)

    def _on_report(self, report: Report) -> None:
        self.submits.reopen(report.shard)
        resend = self.settling.report(report)
        if resend:
            self.links.reconnect(report.shard)
            self.stream.tell(report.shard)
            known = self._incarnations[report.shard]
            if report.incarnation != known and (known or report.conn == 0):  # no gap in what this router has sent it
                self.workers.forget(report.shard)
        if resend or not self._incarnations[report.shard]:
            self._incarnations[report.shard] = report.incarnation

    def _on_settled(self, receipt: Receipt) -> None:
        if receipt.deadline:
            self.submits.answer(receipt)
        else:
            self.ingest.bury_refused(receipt)

    def _expand(self, turn: Turn) -> None:
        """A page of a broadcast becomes a frame like any other; where there is no room, the shard asks again."""
        link = self.links[turn.shard]
        body = pack((turn.id, turn.step))
        if not self.stop.requested and link.has_room(len(body)):
            link.add(EXPANSION, time.time_ns() // 1000, False, body, [])


def _drain(socket: zmq.Socket[bytes], handle: Callable[[bytes], None]) -> None:
    try:
        for _ in range(REPORTS_PER_TURN):
            handle(socket.recv(zmq.DONTWAIT))
    except zmq.Again:
        pass
