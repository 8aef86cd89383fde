"""The router's process: from the public sockets to the shards and back, without a notification's content in sight.

A turn: what the shards report, then requests, then frames out. It holds every frame until its shard has it on disk,
and answers a submit when all of its frames are.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import zmq

from dispatcher import __version__
from dispatcher.child_settings import RouterSettings
from dispatcher.descriptors import Reserve
from dispatcher.endpoints import is_local
from dispatcher.gate import Gate
from dispatcher.link import Link, Released, SupersededError
from dispatcher.queries import Queries
from dispatcher.receipts import Receipt, frame_ids
from dispatcher.reloads import Reloaded, Reloads
from dispatcher.repair import repair
from dispatcher.requests import as_list, decode_request, seq_of
from dispatcher.splitter import Frame, Gatherer, Limits, Part, Split, split
from dispatcher.workers import Workers
from shards import logs
from shards.process import WRONG_CONFIGURATION, Stop, begin_child, fail, say, say_ready
from shards.wire import (
    EXPANSION,
    INGEST,
    MESSAGE_BYTES_HARD_MAX,
    RECONNECT_MS,
    SUBMIT,
    UNROUTABLE,
    Ask,
    Error,
    FromShard,
    Offer,
    Publish,
    Query,
    Reply,
    Report,
    Request,
    RequestError,
    Stalled,
    Submit,
    Subscriptions,
    Turn,
    Verdict,
    Work,
    WorkerCall,
    encode_answer,
    is_json,
    pack,
)

log = logs.logger()

PING_EVERY_S = 0.1
POLL_MS = 100
DATA_HWM = 64
CONTROL_HWM = 10_000
PUBLIC_HWM = 1_000
REPORTS_PER_TURN = 200
REQUESTS_PER_TURN = 100
INGEST_PER_TURN = 1_000
INGEST_BYTES_PER_TURN = 2**21
RETRY_AFTER_MS = 100
STALL_RETRY_MS = 1_000
STALL_HOLDS_S = 2.0  # a stalled shard says so ten times a second
LINKS_S = 1.0
CROWD = 8_192  # more clients than can connect before descriptors are first checked
SUBSCRIPTIONS_MAX = 4_096  # beyond, shards publish for everybody
PREFIX_BYTES_MAX = 300  # no topic is as long
ENVELOPE_PARTS_MAX = 16  # before the request: who gets the answer, by way of which proxies
ENVELOPE_BYTES_MAX = 4_096
RECURSION_MAX = 750  # below Python's own: what the router decodes, every process after it can
RAW_KEPT = 4_096  # bytes of a message over the limit that its dead letter keeps


_from_shard = msgspec.msgpack.Decoder(FromShard)


class Router:
    """Owns the public sockets and the links. ``run`` returns when told to stop and the links are empty."""

    def __init__(self, settings: RouterSettings, stop: Stop) -> None:
        self.settings = settings
        self.stop = stop
        self.started = time.monotonic()
        names = (f"b-{settings.epoch:x}-{number:x}" for number in itertools.count(1))
        self._limits = Limits(settings.shards, settings.batch, settings.fanout_bytes, names.__next__)
        shards = range(settings.shards)
        self.links: list[Link[list[Part]]] = [
            Link(shard, settings.epoch, settings.window_frames, settings.window_bytes) for shard in shards
        ]
        self.gatherers = {
            (shard, as_json, source): Gatherer(shard, as_json, source)
            for shard in shards
            for as_json in (False, True)
            for source in (SUBMIT, INGEST)
        }
        self._gathering: set[tuple[int, bool, int]] = set()
        self.receipts: deque[Receipt] = deque()  # in the order of their deadlines
        self._unanswered = 0
        self._without_verdict: list[dict[int, Released[list[Part]]]] = [{} for _ in shards]
        self._blocked: set[int] = set()  # shards whose socket takes nothing more for now
        self._stalled: dict[int, tuple[str, float]] = {}  # shard -> why it writes nothing, and until when that holds
        self._unlinked: set[int] = set()  # those of them that have no socket, for want of a file descriptor
        self._reading_ingest = True
        self._next_ping = 0.0
        self._prefixes: set[bytes] = set()
        self._incarnations = [0] * settings.shards
        self._open_sockets()
        self.queries = Queries(settings.shards, settings.requests, self._send_query, self._answer)
        self.reloads = Reloads(settings.epoch, settings.requests, say, self._answer)
        self.workers = Workers(settings.epoch, settings.shards, self._send_work, self._answer)
        self.workers.configure(settings.channels)

    def _open_sockets(self) -> None:
        settings = self.settings
        self.context = zmq.Context(2)
        self.gate = Gate(self.context, settings.curve_secret, settings.allow) if settings.curve_secret else None
        self.reports = self._bind("reports", zmq.PULL, "ipc://run/router", CONTROL_HWM)
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < CROWD:
            self._await_links()
        self.ingest = self._bind("ingest", zmq.PULL, settings.ingest, PUBLIC_HWM, self.gate)
        self.submit = self._bind("submit", zmq.ROUTER, settings.submit, PUBLIC_HWM, self.gate)
        self.submit.set(zmq.ROUTER_MANDATORY, 1)  # a worker that is gone is to be found gone, before it is given work
        self.stream = self._bind("stream", zmq.XPUB, settings.stream, PUBLIC_HWM, self.gate)
        self.controls = [self._connect(f"ipc://run/control-{shard}", CONTROL_HWM) for shard in range(settings.shards)]
        self.collector = self._connect("ipc://run/collector", CONTROL_HWM)
        self.data = [self._connect(f"ipc://run/shard-{shard}", DATA_HWM) for shard in range(settings.shards)]
        self.reserve = Reserve(settings.shards)
        self.poller = zmq.Poller()
        for socket in (self.reports, self.ingest, self.submit, self.stream):
            self.poller.register(socket, zmq.POLLIN)
        self.poller.register(self.stop.bell, zmq.POLLIN)
        if self.gate:
            self.poller.register(self.gate.socket, zmq.POLLIN)

    def _await_links(self) -> None:
        """The shards and the collector connect before clients do, who might leave no file descriptor for them."""
        monitor: zmq.Socket[bytes] = self.reports.get_monitor_socket(zmq.EVENT_ACCEPTED)
        linked, deadline = 0, time.monotonic() + LINKS_S
        while linked <= self.settings.shards and monitor.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            monitor.recv_multipart()
            linked += 1
        self.reports.disable_monitor()
        monitor.close()

    def _bind(self, name: str, kind: int, endpoint: str, hwm: int, gate: Gate | None = None) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.RCVHWM, hwm)
        socket.set(zmq.LINGER, 1_000 if kind == zmq.ROUTER else 0)
        socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_HARD_MAX)
        if gate:
            gate.guard(socket)
        elif not is_local(endpoint):
            log.warning("open to whoever reaches this machine, as insecure = true", socket=name, endpoint=endpoint)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            fail(
                f"cannot bind {name} to {endpoint}: {zmq.strerror(error.errno or 0)}; "
                f"stop what listens there, or set dispatcher.{name} to another address",
                WRONG_CONFIGURATION,
            )
        return socket

    def _connect(self, endpoint: str, hwm: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.PUSH)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.connect(endpoint)
        return socket

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        deadline = None
        while True:
            self._turn()
            if self.stop.requested:
                if deadline is None:
                    deadline = time.monotonic() + self.settings.drain_s
                    self.workers.close()
                    if not self.workers.has_work:
                        self.poller.unregister(self.submit)
                    if self._reading_ingest:
                        self.poller.unregister(self.ingest)
                if time.monotonic() > deadline or not (
                    any(map(len, self.links)) or self.receipts or self.workers.has_work or self.workers.touched
                ):
                    break
        for socket in (self.submit, *self.controls):  # answers, and results of workers
            socket.close(linger=1_000)
        self.context.destroy(linger=0)

    def _turn(self) -> None:
        ready = dict(self.poller.poll(POLL_MS))
        self.stop.bell.hear()
        now = time.monotonic()
        if told := self.stop.other_settings():
            reloaded = msgspec.json.decode(told, type=Reloaded)
            self.workers.configure(reloaded.channels)
            self.reloads.done(reloaded)
        if self.gate and self.gate.socket in ready:
            self.gate.answer()
        if self.reports in ready:
            self._drain(self.reports, REPORTS_PER_TURN, self._on_report)
        if self.stream in ready:
            self._drain(self.stream, REPORTS_PER_TURN, self._on_subscription)
            for shard in range(self.settings.shards):
                self._send_subscriptions(shard)
        if self.submit in ready:
            self._read_submits(now)
        if self.ingest in ready and not self.stop.requested:
            self._read_ingest()
        self._flush()
        if self.workers.touched:
            self.workers.step(now)
        for shard, socket in enumerate(self.data):
            if socket in ready:
                self._unblock(shard)
            self._send_frames(shard)
        if now >= self._next_ping:
            self._next_ping = now + PING_EVERY_S
            self._tick(now)
        self._throttle_ingest()

    def _drain(self, socket: zmq.Socket[bytes], count: int, handle: Callable[[bytes], None]) -> None:
        try:
            for _ in range(count):
                handle(socket.recv(zmq.DONTWAIT))
        except zmq.Again:
            pass

    # --- requests ----------------------------------------------------------------------------------------------

    def _read_submits(self, now: float) -> None:
        try:
            for _ in range(REQUESTS_PER_TURN):
                envelope = self.submit.recv_multipart(zmq.DONTWAIT)
                body = envelope.pop()
                as_json = is_json(body)
                size = sum(map(len, envelope))
                if len(envelope) < 2 or envelope[-1] or len(envelope) > ENVELOPE_PARTS_MAX or size > ENVELOPE_BYTES_MAX:
                    error = Error("bad_request", "send one empty part before the request, and nothing else")
                    self._answer([envelope[0], b""], as_json, seq_of(body), error)
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
            self._answer(envelope, as_json, seq_of(body), refused.error)

    def _on_request(self, envelope: list[bytes], body: bytes, as_json: bool, now: float) -> None:
        if len(body) > self.settings.message_bytes:
            raise RequestError("too_large", f"{len(body)} bytes; at most {self.settings.message_bytes} per message")
        request = decode_request(body, as_json)
        if isinstance(request, WorkerCall):
            self.workers.call(envelope, as_json, request, now)
        elif self.stop.requested:  # and read only because workers may have results
            raise RequestError("unavailable", "the dispatcher is being stopped; nothing was taken, send again later")
        elif isinstance(request, Submit):
            self._on_submit(envelope, request, as_json, now)
        else:
            self._on_operation(envelope, request, as_json, now)

    def _on_submit(self, envelope: list[bytes], request: Submit, as_json: bool, now: float) -> None:
        found = split(request.notifications, self._limits)
        if self._unanswered >= self.settings.requests:
            raise RequestError("overloaded", "too many submits wait; send again", retry_after_ms=RETRY_AFTER_MS)
        for piece in found.pieces:
            self._check_open(piece.shard, now)
            gathered = self.gatherers[piece.shard, as_json, SUBMIT].size
            if not self.links[piece.shard].has_room(piece.size + gathered):
                raise RequestError(
                    "overloaded",
                    f"shard {piece.shard} has a full window; nothing was taken, send again",
                    retry_after_ms=RETRY_AFTER_MS,
                )
        deadline = now + self.settings.receipt_timeout_s
        receipt = Receipt(
            envelope,
            as_json,
            request.seq,
            found.positions,
            deadline,
            found.shape,
            found.sizes,
            found.topics,
            self.settings.shards,
        )
        for at, (_, error, _) in enumerate(found.errors):
            receipt.rejected.append((found.positions - len(found.errors) + at, error))
        receipt.waiting = len(found.pieces)
        if not receipt.waiting:
            self._send_answer(envelope, as_json, receipt.document())
            return
        self.receipts.append(receipt)
        self._unanswered += 1
        self._gather(found, as_json, SUBMIT, receipt)

    def _check_open(self, shard: int, now: float) -> None:
        reason, until = self._stalled.get(shard, ("", 0.0))
        if now < until:
            raise RequestError(
                "unavailable",
                f"shard {shard} writes nothing now ({reason}); nothing was taken, send again",
                retry_after_ms=STALL_RETRY_MS,
            )

    def _gather(self, found: Split, as_json: bool, source: int, receipt: Receipt | None) -> None:
        for piece in found.pieces:
            key = (piece.shard, as_json, source)
            for frame in self.gatherers[key].add(piece, receipt):
                self._enqueue(frame)
            self._gathering.add(key)

    def _on_operation(self, envelope: list[bytes], request: Request, as_json: bool, now: float) -> None:
        if request.op == "ping":
            self._send_answer(
                envelope,
                as_json,
                {
                    "ok": True,
                    "version": __version__,
                    "shards": self.settings.shards,
                    "uptime_s": round(now - self.started, 3),
                    **({"seq": request.seq} if request.seq is not None else {}),
                },
            )
            return
        if request.op in ("config.reload", "template.put"):
            self.reloads.add(envelope, as_json, request, now)
            return
        self.queries.ask(envelope, as_json, request, now + self.settings.receipt_timeout_s)

    def _send_query(self, shard: int | Literal["collector"], query: Query) -> bool:
        socket = self.collector if shard == "collector" else self.controls[shard]
        try:
            socket.send(pack(query), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _send_work(self, shard: int, work: Work) -> bool:
        try:
            self.controls[shard].send(pack(work), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _answer(
        self, envelope: list[bytes], as_json: bool, seq: int | str | None, result: dict[str, Any] | Error
    ) -> bool:
        """Whether it was sent: else the client is gone, or reads nothing."""
        answer: dict[str, Any] = {"ok": False, "error": result} if isinstance(result, Error) else {"ok": True, **result}
        if seq is not None:
            answer["seq"] = seq
        return self._send_answer(envelope, as_json, answer)

    def _send_answer(self, envelope: list[bytes], as_json: bool, answer: dict[str, Any]) -> bool:
        try:
            body = encode_answer(answer, as_json)
        except TypeError as problem:  # orjson's; a bug, but not one that is to bring everybody's router down
            log.error("an answer cannot be encoded", error=str(problem))
            seq = {"seq": answer["seq"]} if "seq" in answer else {}
            refusal = Error("internal", "the answer cannot be encoded")
            body = encode_answer({"ok": False, "error": refusal, **seq}, as_json)
        try:
            self.submit.send_multipart([*envelope, body], zmq.DONTWAIT)
        except zmq.ZMQError:
            return False  # the work is done, and it may ask again
        return True

    # --- ingest ------------------------------------------------------------------------------------------------

    def _read_ingest(self) -> None:
        taken = 0
        try:
            for _ in range(INGEST_PER_TURN):
                body = self.ingest.recv(zmq.DONTWAIT)
                self._on_ingest(body)
                taken += len(body)
                if taken > INGEST_BYTES_PER_TURN:
                    return
        except zmq.Again:
            pass

    def _on_ingest(self, body: bytes) -> None:
        """A notification or a list of them; what cannot be routed becomes a dead letter, by way of shard 0."""
        as_json = is_json(body)
        try:
            if len(body) > self.settings.message_bytes:
                raise RequestError("too_large", f"{len(body)} bytes; at most {self.settings.message_bytes}")
            found = self._split_repaired(body, as_json)
        except RequestError as refused:
            self._bury(refused.error, body if refused.error.code != "too_large" else body[:RAW_KEPT])
            return
        receipt = None
        if found.topics:  # nobody gets it, but whether a topic is known, only all shards together can say
            receipt = Receipt([], as_json, None, found.positions, 0.0, None, None, found.topics, self.settings.shards)
            receipt.waiting = len(found.pieces)
        self._gather(found, as_json, INGEST, receipt)
        for _, error, raw in found.errors:
            self._bury(error, raw)

    def _split_repaired(self, body: bytes, as_json: bool) -> Split:
        try:
            return split(as_list(body, as_json), self._limits)
        except RequestError as refused:
            repaired = repair(body) if refused.error.code == "bad_encoding" else body
            if repaired == body:
                raise
            return split(as_list(repaired, as_json), self._limits)

    def _bury(self, error: Error, raw: bytes) -> None:
        self.links[0].add(UNROUTABLE, time.time_ns() // 1000, False, raw, [], error)

    def _bury_refused(self, receipt: Receipt) -> None:
        """From ``ingest``, and no shard knows its topic."""
        for to_topic in receipt.topics.values():
            if error := to_topic.error(receipt.shards):
                self._bury(error, to_topic.raw)

    def _throttle_ingest(self) -> None:
        """Reading pauses while a window is full; producers then block at their own high-water mark."""
        room = all(link.has_room(INGEST_BYTES_PER_TURN) for link in self.links)
        if room != self._reading_ingest and not self.stop.requested:
            self._reading_ingest = room
            if room:
                self.poller.register(self.ingest, zmq.POLLIN)
            else:
                self.poller.unregister(self.ingest)

    # --- frames out --------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        for key in self._gathering:
            for frame in self.gatherers[key].flush():
                self._enqueue(frame)
        self._gathering.clear()

    def _enqueue(self, frame: Frame) -> None:
        self.links[frame.shard].add(frame.source, time.time_ns() // 1000, frame.fanned, frame.body, frame.parts)

    def _send_frames(self, shard: int) -> None:
        if shard in self._blocked:
            return
        socket, link = self.data[shard], self.links[shard]
        try:
            for data in link.unsent():
                socket.send(pack(data), zmq.DONTWAIT)
                link.sent()
        except zmq.Again:
            self._blocked.add(shard)
            self.poller.register(socket, zmq.POLLOUT)

    def _unblock(self, shard: int) -> None:
        if shard in self._unlinked:
            self._unlinked.discard(shard)
            self._blocked.discard(shard)
        elif shard in self._blocked:
            self._blocked.discard(shard)
            self.poller.unregister(self.data[shard])

    def _reconnect(self, shard: int) -> None:
        self._unblock(shard)
        self.data[shard].close(linger=0)
        try:
            self.data[shard] = self._connect(f"ipc://run/shard-{shard}", DATA_HWM)
        except zmq.ZMQError as error:
            log.error("no link until a file descriptor is free", shard=shard, error=zmq.strerror(error.errno or 0))
            self._blocked.add(shard)
            self._unlinked.add(shard)

    # --- what shards say ---------------------------------------------------------------------------------------

    def _on_report(self, message: bytes) -> None:
        found = _from_shard.decode(message)
        if isinstance(found, Report):
            self._stalled.pop(found.shard, None)
            self._on_facts(found)
        elif isinstance(found, Reply):
            self.queries.reply(found)
        elif isinstance(found, Stalled):
            self._stalled[found.shard] = found.reason, time.monotonic() + STALL_HOLDS_S
        elif isinstance(found, Turn):
            self._expand(found)
        elif isinstance(found, Offer):
            self.workers.offer(found)
        elif isinstance(found, Publish):
            for topic, document in found.documents:
                self.stream.send_multipart([topic, document], zmq.DONTWAIT)

    def _expand(self, turn: Turn) -> None:
        """A page of a broadcast becomes a frame like any other; where there is no room, the shard asks again."""
        link = self.links[turn.shard]
        body = pack((turn.id, turn.step))
        if not self.stop.requested and link.has_room(len(body)):
            link.add(EXPANSION, time.time_ns() // 1000, False, body, [])

    def _on_facts(self, report: Report) -> None:
        link = self.links[report.shard]
        waiting = self._without_verdict[report.shard]
        series = (link.epoch, link.gen)
        released, resend = link.report(report)
        verdicts = dict(report.verdicts) if (report.epoch, report.gen) == series else {}
        for one in released:
            if one.n in verdicts or all(part.receipt is None for part in one.owner):
                self._release(link, one, verdicts.get(one.n))
            else:
                waiting[one.n] = one
        for n in [n for n in waiting if n in verdicts]:
            self._release(link, waiting.pop(n), verdicts[n])
        if link.gen != series[1]:
            waiting.clear()  # the journal that had their verdicts lost them; their receipts run out
        if resend:
            self._reconnect(report.shard)
            self._send_subscriptions(report.shard)
            known = self._incarnations[report.shard]
            if report.incarnation != known and (known or report.conn == 0):  # no gap in what this router has sent it
                self.workers.forget(report.shard)
        if resend or not self._incarnations[report.shard]:
            self._incarnations[report.shard] = report.incarnation

    def _release(self, link: Link[list[Part]], released: Released[list[Part]], verdict: Verdict | None) -> None:
        first = 0
        for receipt, positions, hashes in released.owner:
            if receipt is not None:
                ids = frame_ids(link.generation, hashes, released.seq, first)
                receipt.settle(positions, ids, first, verdict)
                if not receipt.waiting and not receipt.deadline:
                    self._bury_refused(receipt)
                elif not receipt.waiting and receipt.envelope:
                    self._send_answer(receipt.envelope, receipt.as_json, receipt.document())
                    receipt.envelope = []
                    self._unanswered -= 1
            first += len(hashes)

    # --- ten times a second ------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        for shard in list(self._unlinked):
            self._reconnect(shard)
        for shard, link in enumerate(self.links):
            if shard not in self._blocked:
                self._try_send(shard, link.ping())
                if waiting := self._without_verdict[shard]:
                    self._try_send(shard, Ask(link.epoch, link.gen, list(waiting)[:1_000]))
        while self.receipts and (not self.receipts[0].envelope or self.receipts[0].deadline <= now):
            receipt = self.receipts.popleft()
            if receipt.envelope:
                error = Error("unavailable", "no receipt from all shards in time; send again with the same keys")
                self._answer(receipt.envelope, receipt.as_json, receipt.seq, error)
                receipt.envelope = []
                self._unanswered -= 1
        for waiting in self._without_verdict:
            for n in [n for n, one in waiting.items() if not any(map(_waits, one.owner))]:
                del waiting[n]
        self.queries.expire(now)
        self.workers.tick(now)
        self.reloads.expire(now)
        self.reserve.check()

    def _try_send(self, shard: int, message: msgspec.Struct) -> None:
        try:
            self.data[shard].send(pack(message), zmq.DONTWAIT)
        except zmq.Again:
            pass

    # --- the stream --------------------------------------------------------------------------------------------

    def _on_subscription(self, message: bytes) -> None:
        kind, prefix = message[:1], message[1:]
        if kind == b"\x01" and len(prefix) <= PREFIX_BYTES_MAX:
            self._prefixes.add(prefix)
        elif kind == b"\x00":  # anything else is a message, which an XSUB may send
            self._prefixes.discard(prefix)

    def _send_subscriptions(self, shard: int) -> None:
        prefixes = sorted(self._prefixes) if len(self._prefixes) <= SUBSCRIPTIONS_MAX else [b""]
        try:
            self.controls[shard].send(pack(Subscriptions(prefixes)), zmq.DONTWAIT)
        except zmq.Again:
            log.warning("subscriptions not taken", shard=shard)


def _waits(part: Part) -> bool:
    """Whether somebody still waits for this part's receipt, or this router does."""
    return part.receipt is not None and bool(part.receipt.envelope or not part.receipt.deadline)


def main() -> None:
    stop, line = begin_child("the router")
    sys.setrecursionlimit(RECURSION_MAX)
    router = Router(msgspec.json.decode(line, type=RouterSettings), stop)
    say_ready()
    try:
        router.run()
    except SupersededError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
