"""Who hears a shard, simulated: a router with the real link, and a collector."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from dispatcher.router.link import Link
from shards.wire.encoding import pack
from shards.wire.link import Ask, Ping, Report, Verdict
from shards.wire.outbox import DeadAdded, DeadRemoved, Outbox
from shards.wire.sockets import ToCollector
from tests.simulation.producer import Submission
from tests.simulation.wire import Clock, Wire

WINDOW_FRAMES, WINDOW_BYTES = 8, 20_000

_to_collector = msgspec.msgpack.Decoder(ToCollector)


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
            self.acknowledged.append(Acknowledged(seq, owner, self._verdicts[n]))
        if link.gen != gen:  # a late report looked like a loss: what has no answer is sent again
            self.backlog.extend(owner for _, owner in self._unanswered.values())
            self._unanswered.clear()
            self._verdicts.clear()


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
