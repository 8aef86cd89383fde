"""What surrounds a shard in the simulation: a lossy wire, a router with its producer, a channel, a collector."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import msgspec
import zmq

from dispatcher.link import Link
from shards.channels.base import ErrorClass, Failure, Results
from shards.core import Now
from shards.frames import Entry, Frame, Run
from shards.wire import (
    SUBMIT,
    Ask,
    DeadAdded,
    DeadRemoved,
    Error,
    Outbox,
    Ping,
    Report,
    ToCollector,
    Verdict,
    pack,
)

WINDOW_FRAMES, WINDOW_BYTES = 8, 20_000
ERRORS: tuple[ErrorClass, ...] = ("transient", "throttled", "permanent")

_to_collector = msgspec.msgpack.Decoder(ToCollector)


class Clock:
    """``mono`` only grows; wall time is set and jumps as it does on real machines."""

    def __init__(self) -> None:
        self.mono = 1_000.0
        self.wall_us = 1_700_000_000_000_000

    def now(self) -> Now:
        return Now(self.mono, self.wall_us)

    def advance(self, seconds: float) -> None:
        self.mono += seconds
        self.wall_us += int(seconds * 1e6)


@dataclass
class Faults:
    """Probabilities per message; all zero while the simulation drains."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    failure: float = 0.0
    slowest_s: float = 20.0

    def stop(self) -> None:
        self.loss = self.duplication = self.reordering = self.failure = self.slowest_s = 0.0


class Wire:
    """Messages on several pipes, read from any of them, each in order but for the faults."""

    def __init__(self, random: Random, faults: Faults) -> None:
        self._random = random
        self._faults = faults
        self._pipes: dict[object, deque[bytes]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._pipes.values()))

    def put(self, pipe: object, message: bytes) -> None:
        draw = self._random.random
        if draw() < self._faults.loss:
            return
        queue = self._pipes.setdefault(pipe, deque())
        queue.append(message)
        if draw() < self._faults.duplication:
            queue.append(message)
        if draw() < self._faults.reordering:
            self._random.shuffle(queue)

    def get(self) -> bytes | None:
        full = [pipe for pipe, queue in self._pipes.items() if queue]
        return self._pipes[self._random.choice(full)].popleft() if full else None

    def break_off(self) -> None:
        """A peer died: of each pipe, some of what was first is lost."""
        for queue in self._pipes.values():
            for _ in range(self._random.randint(0, len(queue))):
                queue.popleft()


class Inlet:
    """The receiving socket that a shard polls."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def recv(self, _flags: int) -> bytes:
        message = self.wire.get()
        if message is None:
            raise zmq.Again
        return message


class Outlet:
    """The sending socket of a shard."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def send(self, message: bytes, _flags: int) -> None:
        self._send(message)


class Poller:
    def __init__(self, *inlets: Inlet) -> None:
        self._inlets = inlets

    def poll(self, _timeout_ms: int) -> list[tuple[Inlet, int]]:
        return [(inlet, zmq.POLLIN) for inlet in self._inlets if len(inlet.wire)]


@dataclass(frozen=True)
class Sent:
    """One position of a frame, as its producer meant it."""

    user_id: str
    key: str | None
    valid: bool


@dataclass(frozen=True)
class Submission:
    source: int
    fanned: bool
    body: bytes
    positions: tuple[Sent, ...]
    error: Error | None = None


@dataclass(frozen=True)
class Acknowledged:
    """A frame whose producer was told that it is kept."""

    seq: int
    submission: Submission
    verdict: Verdict | None


class Router:
    """The real link, and as much of a router as submits, asks for lost verdicts, and answers its producer."""

    def __init__(self, epoch: int, wire: Wire, clock: Clock) -> None:
        self.link = Link[Submission](0, epoch, WINDOW_FRAMES, WINDOW_BYTES)
        self.backlog: deque[Submission] = deque()
        self.released: list[tuple[int, Submission]] = []
        self.acknowledged: list[Acknowledged] = []
        self._unanswered: dict[int, tuple[int, Submission]] = {}  # by n, of the current series
        self._verdicts: dict[int, Verdict | None] = {}
        self._wire = wire
        self._clock = clock

    def unfinished(self) -> list[Submission]:
        """What a producer without a receipt sends again."""
        waiting = [pending.owner for pending in self.link._window]
        return [submission for _, submission in self._unanswered.values()] + waiting + list(self.backlog)

    def time_out(self, pruned: set[int]) -> None:
        """A frame that went before its lost verdict was asked for: its producer hears `unavailable`."""
        for n in [n for n, (seq, _) in self._unanswered.items() if seq in pruned]:
            del self._unanswered[n]

    def pump(self) -> None:
        while self.backlog and self.link.has_room(len(self.backlog[0].body)):
            one = self.backlog.popleft()
            self.link.add(one.source, self._clock.wall_us, one.fanned, one.body, one, one.error)
        for data in self.link.unsent():
            self._wire.put((data.epoch, data.conn), pack(data))
            self.link.sent()

    def ping(self) -> None:
        ping: Ping = self.link.ping()
        self._wire.put((ping.epoch, ping.conn), pack(ping))
        if lost := [n for n in self._unanswered if n not in self._verdicts]:
            self._wire.put((ping.epoch, ping.conn), pack(Ask(ping.epoch, ping.gen, lost)))

    def hear(self, report: Report) -> None:
        link, gen = self.link, self.link.gen
        released, _ = link.report(report)
        if (report.epoch, report.gen) == (link.epoch, gen):
            self._verdicts.update(report.verdicts)
        for n, seq, owner in released:
            self.released.append((seq, owner))
            self._unanswered[n] = seq, owner
        for n in [n for n in self._unanswered if n in self._verdicts]:
            seq, owner = self._unanswered.pop(n)
            verdict = self._verdicts[n]
            self.acknowledged.append(Acknowledged(seq, owner, verdict))
        if link.gen != gen:  # numbers mean something else now; producers without an answer send again
            self.backlog.extend(owner for _, owner in self._unanswered.values())
            self._unanswered.clear()
            self._verdicts.clear()


class SlowChannel:
    """Attempts end later, in any order, and some of them fail."""

    def __init__(
        self, number: int, name: str, random: Random, faults: Faults, started: Callable[[int, Entry], None]
    ) -> None:
        self.name = name
        self._number = number
        self._random = random
        self._faults = faults
        self._started = started
        self._under_way: list[tuple[float, Entry]] = []

    def start(self, runs: Sequence[Run], now: float) -> None:
        for run in runs:
            for at in range(len(run)):
                entry = run.entry(at)
                self._started(self._number, entry)
                takes_s = min(self._faults.slowest_s, self._random.choice((0.0, 0.1, 2.0, 20.0)))
                self._under_way.append((now + takes_s, entry))

    def collect(self, now: float) -> Results:
        ended = [entry for due, entry in self._under_way if due <= now]
        self._under_way = [(due, entry) for due, entry in self._under_way if due > now]
        self._random.shuffle(ended)
        delivered: dict[Frame, list[int]] = {}
        failed: list[Failure] = []
        for entry in ended:
            if self._random.random() < self._faults.failure:
                failed.append((entry, self._random.choice(ERRORS), "as the simulation wants it"))
            else:
                delivered.setdefault(entry[0], []).append(entry[1])
        return Results(list(delivered.items()), failed)

    def next_due(self) -> float | None:
        return min((due for due, _ in self._under_way), default=None)


class Collector:
    """Holds the dead letters as the outbox tells of them; what it has, it never takes twice."""

    def __init__(self) -> None:
        self.upto = 0
        self.letters: set[tuple[str, str | None]] = set()

    def hear(self, message: bytes) -> None:
        outbox = _to_collector.decode(message)
        assert isinstance(outbox, Outbox)
        if outbox.first > self.upto + 1:
            return  # a gap: the shard sends all of it again
        for n, item in enumerate(outbox.items, outbox.first):
            if n <= self.upto:
                continue
            self.upto = n
            if isinstance(item, DeadAdded):
                self.letters.add((item.letter.id, item.letter.channel))
            elif isinstance(item, DeadRemoved):
                self.letters.difference_update(item.ids)


class Producer:
    """Makes frames of every kind that a router forwards: mixed encodings, fan-out, repetitions, bad entries."""

    def __init__(self, random: Random, clock: Clock, users: int) -> None:
        self._random = random
        self._clock = clock
        self._users = [f"user-{number}" for number in range(users)]
        self._made = 0
        self._keyed: list[tuple[str, str]] = []

    def frame(self) -> Submission:
        random = self._random
        if random.random() < 0.03:
            return Submission(2, False, b"\xc1 no document", (), Error("bad_encoding", "not decodable"))
        encode = msgspec.json.encode if random.random() < 0.3 else msgspec.msgpack.encode
        plain, fanned = random.random() < 0.4, random.random() < 0.2
        entries: list[object] = []
        positions: list[Sent] = []
        for _ in range(random.choice((1, 1, 2, 3, 8, 20))):
            if fanned and random.random() < 0.5:
                names = random.sample(self._users, random.randint(1, 3))
                content = {"recipients": names, "category": "system", "title": "to all"}
                entries.append((names, content))
                positions += [Sent(name, None, True) for name in names]
            else:
                entry, sent = self._plain() if plain else self._any()
                entries.append(entry)
                positions.append(sent)
        return Submission(SUBMIT if random.random() < 0.7 else 1, fanned, encode(entries), tuple(positions))

    def _plain(self) -> tuple[dict[str, object], Sent]:
        random = self._random
        self._made += 1
        user_id, key = random.choice(self._users), f"key-{self._made}"
        if self._keyed and random.random() < 0.1:
            user_id, key = random.choice(self._keyed)
        self._keyed.append((user_id, key))
        category = random.choice(("transaction", "marketing", "security", "system"))
        entry = {"user_id": user_id, "title": "t", "idempotency_key": key, "category": category}
        if random.random() < 0.3:
            entry["priority"] = random.choice(("low", "normal", "high", "critical"))
        return {**entry}, Sent(user_id, key, True)

    def _any(self) -> tuple[dict[str, object], Sent]:
        random = self._random
        entry, sent = self._plain()
        draw = random.random()
        if draw < 0.15:
            self._keyed.pop()
            name, value = random.choice((("category", "nonsense"), ("colour", "red"), ("priority", "9")))
            return {**entry, name: value}, Sent(sent.user_id, None, False)
        if draw < 0.35:
            entry["expires_at"] = self._clock.wall_us // 1000 + random.choice((-1_000, 500, 30_000, 10**7))
        if draw > 0.7:
            entry["channels"] = random.sample(["email", "sms", "push", "inapp", "webhook"], random.randint(1, 3))
        if 0.6 < draw < 0.75:
            self._keyed.pop()
            del entry["idempotency_key"]
            return entry, Sent(sent.user_id, None, True)
        return entry, sent
