"""Notifications to topics: each is kept once, and expanded to the topic's users page by page, in spare time.

A page is a frame like any other, with its users as recipients, so that everything that holds for frames holds for it.
Its number must be the router's: the shard asks for its ``Turn``, and the frame that answers becomes the page. The
cursor moves in the transaction that stores the page, and a turn that comes twice is an empty frame: a kill at any
instant neither skips a user nor repeats one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec

from shards import ledger
from shards.broadcast import EVERYBODY, OPEN, Broadcast
from shards.changes import Changes, Now
from shards.dead_letters import DeadLetters
from shards.nearest import unknown
from shards.preferences import problem_of_topic
from shards.retry import DueHeap
from shards.rules import Routing
from shards.validation import instant_ms
from shards.wire.encoding import pack
from shards.wire.errors import Error, RequestError
from shards.wire.link import Data
from shards.wire.notification import EVERY_USER, Notification

PAGE_USERS = 100  # judged in one turn: whoever waits for a receipt feels it
PAUSE_S = 0.005  # between two pages while others send, so that these find the shard idle most of the time
ASK_AGAIN_S = 1.0
LOOKED_AT = 8  # broadcasts in one turn, for one whose lanes have room
NAMES_MAX = 200  # in which the nearest to an unknown topic are looked for
SHOWN_OPEN, SHOWN_FINISHED = 100, 10
RETRY_AFTER_MS = 1_000
EMPTY_LIST = b"\x90"

_turn = msgspec.msgpack.Decoder(tuple[str, int])


class UnknownTopicError(RequestError):
    """``near`` are names that are known in this shard."""

    def __init__(self, topic: str, near: list[str]) -> None:
        super().__init__("unknown_topic", unknown("topic", topic, near), "topic")
        self.near = near


class Stored(Protocol):
    """What is read back of topics and broadcasts."""

    def users(self, topic: str) -> int: ...

    def near(self, topic: str, count: int) -> list[str]: ...

    def page(self, topic: str, after: str, count: int) -> list[str]: ...

    def open_broadcasts(self) -> list[Broadcast]: ...

    def finished_broadcasts(self, count: int) -> list[Broadcast]: ...

    def broadcast(self, id_: str) -> Broadcast | None: ...

    def last_open_page(self, id_: str, before: int) -> int | None: ...


class Room(NamedTuple):
    """The lanes as they are: how many deliveries each holds, and which have more on disk."""

    queued: Sequence[int]
    behind: Mapping[int, int]


class Broadcasts:
    """``open_max`` bounds those that are not expanded; ``patience_s`` is how long others may hold them all up.

    ``configure`` comes first.
    """

    def __init__(
        self,
        stored: Stored,
        room: Room,
        dead_letters: DeadLetters,
        changes: Callable[[], Changes],
        open_max: int,
    ) -> None:
        self._stored = stored
        self._room = room
        self._dead_letters = dead_letters
        self._changes = changes
        self._open_max = open_max
        self._open: dict[str, Broadcast] = {}
        self._sweeping: dict[str, Broadcast] = {}  # cancelled, with deliveries that may be open
        self._due: dict[str, tuple[Notification, bytes]] = {}  # in turn: what it says, and that as an entry has it
        self._scheduled: DueHeap[str] = DueHeap()  # by wall time, in seconds
        self._asked: tuple[tuple[int, int], float] | None = None  # of which router, and when to ask again
        self._paged_at = 0.0
        self.others = False  # whether other frames came since the last page was asked for

    def configure(self, routing: Routing, patience_s: float) -> None:
        """Go by these from now on."""
        self._routing = routing
        self._patience_s = patience_s

    def recover(self) -> None:
        """Those that were open when the shard stopped."""
        for broadcast in self._stored.open_broadcasts():
            self._add(broadcast)

    def _add(self, broadcast: Broadcast) -> None:
        self._open[broadcast.id] = broadcast
        if broadcast.state == "cancelled":
            self._sweeping[broadcast.id] = broadcast
            return
        self._scheduled.push(broadcast.due_ms / 1000, broadcast.id)

    # --- accept ------------------------------------------------------------------------------------------------

    def find(self, id_: str) -> Broadcast | None:
        return self._open.get(id_) or self._stored.broadcast(id_)

    def check(self, topic: str) -> int:
        """How many users of this shard would get what is sent to a topic; ``RequestError`` if it cannot be sent."""
        if topic != EVERY_USER:
            if problem := problem_of_topic(topic):
                raise RequestError("bad_value", problem, "topic")
            if not self._stored.users(topic):
                raise UnknownTopicError(topic, self._stored.near(topic, NAMES_MAX))
        if len(self._open) >= self._open_max:
            raise RequestError(
                "overloaded",
                f"{len(self._open)} broadcasts are not expanded yet, which is bounds.broadcasts; send again with the "
                "same idempotency_key",
                "topic",
                RETRY_AFTER_MS,
            )
        return self._stored.users(topic)

    def accept(self, id_: str, notification: Notification, now_ms: int) -> None:
        """Keep a notification that is valid apart from its topic; ``RequestError`` if it cannot be kept."""
        topic = notification.topic or ""
        users = self.check(topic)
        due_ms = now_ms if notification.send_at is None else instant_ms("send_at", notification.send_at)
        expires_ms = None if notification.expires_at is None else instant_ms("expires_at", notification.expires_at)
        self._add(Broadcast(id_, topic, notification.category, pack(notification), now_ms, due_ms, expires_ms, users))
        self._changes().broadcasts[id_] = self._open[id_]

    # --- expand ------------------------------------------------------------------------------------------------

    def turn(self, now: Now, router: tuple[int, int], busy: bool) -> tuple[str, int] | None:
        """``(id, step)`` of the page to ask the router for, one at a time; ``busy`` if there is more urgent work."""
        for id_ in self._scheduled.pop_due(now.wall_us / 1e6):
            if id_ in self._open and self._open[id_].state in OPEN:
                notification = self._open[id_].notification()
                self._due[id_] = notification, _entry(notification)
        if not self._due:
            self._paged_at = now.mono
            return None
        if self._asked is not None and self._asked[0] == router and now.mono < self._asked[1]:
            return None
        if self.others and now.mono < self._paged_at + PAUSE_S:
            return None
        patient = now.mono < self._paged_at + self._patience_s
        if busy and patient:
            return None
        for id_ in list(islice(self._due, LOOKED_AT)):
            if not patient or self._has_room(self._due[id_][0]):
                self._asked = router, now.mono + ASK_AGAIN_S
                self.others = False
                return id_, self._open[id_].step
            self._due[id_] = self._due.pop(id_)
        return None

    def next_due(self, now: Now) -> float | None:
        """When the pause before the next page ends, if it is one that is waited for."""
        due = self._paged_at + PAUSE_S
        return due if self._due and self._asked is None and self.others and due > now.mono else None

    def _has_room(self, notification: Notification) -> bool:
        """Whether its lanes hold so little that a page more delays nobody."""
        try:
            rule = self._routing.resolve(notification)
        except RequestError:
            return True  # its page will say so
        lanes = [ledger.lane_of(channel, rule.priority) for channel in rule.channels]
        return all(self._room.queued[lane] < PAGE_USERS and lane not in self._room.behind for lane in lanes)

    def expand(self, data: Data, seq: int, now: Now) -> Data:
        """The frame that answers a turn, with the page as its body; an empty one where nothing is to be done."""
        id_, step = _turn.decode(data.body)
        self._asked = None
        self._paged_at = now.mono
        broadcast = self._open.get(id_)
        names: list[str] = []
        if broadcast is not None and broadcast.state in OPEN and id_ in self._due and step == broadcast.step:
            self._changes().broadcasts[id_] = broadcast
            broadcast.step += 1
            try:
                names = self._page(broadcast, now)
            except RequestError as refused:
                self.fail(id_, refused.error, seq, now)
        if not names:
            return msgspec.structs.replace(data, body=EMPTY_LIST)
        self._changes().pages.append((id_, seq))
        body = b"\x91\x92" + pack(names) + self._due[id_][1]
        self._due[id_] = self._due.pop(id_)  # the others come first now
        return msgspec.structs.replace(data, fanned=True, body=body)

    def _page(self, broadcast: Broadcast, now: Now) -> list[str]:
        """Who is next; raises ``RequestError`` where the configuration has changed so that nobody can be."""
        now_ms = now.wall_us // 1000
        if broadcast.expires_ms is not None and broadcast.expires_ms <= now_ms:
            broadcast.end("expired", now_ms)
            return []
        self._routing.resolve(self._due[broadcast.id][0])
        if broadcast.started_ms is None:
            broadcast.started_ms, broadcast.users = now_ms, self._stored.users(broadcast.topic)
        broadcast.state = "expanding"
        found = self._stored.page(broadcast.topic, broadcast.cursor(), PAGE_USERS)
        names = broadcast.still_to_reach(found)
        broadcast.done += len(names)
        if len(found) < PAGE_USERS:
            broadcast.advance(EVERYBODY)
            broadcast.end("done", now_ms)
        else:
            broadcast.advance(found[-1])
        return names

    def planned(self, deliveries: int) -> None:
        """What came of the page of this turn's last frame."""
        if self._changes().pages:
            self._changes().broadcasts[self._changes().pages[-1][0]].planned += deliveries

    def fail(self, id_: str, error: Error, seq: int, now: Now) -> None:
        """It cannot be expanded any further: a dead letter of frame ``seq`` says why."""
        broadcast = self._open.get(id_)
        if broadcast is not None and broadcast.state in OPEN:
            broadcast.end("failed", now.wall_us // 1000, error.message)
            self._changes().broadcasts[id_] = broadcast
            self._dead_letters.bury_rejected(seq, 0, error, "", broadcast.content, now)

    def refuse(self, data: Data, error: Error, seq: int, now: Now) -> None:
        """Its page brings judging down."""
        self.fail(_turn.decode(data.body)[0], error, seq, now)

    # --- cancel ------------------------------------------------------------------------------------------------

    def cancel(self, broadcast: Broadcast, last: int) -> None:
        """Nobody more gets it. The frames up to ``last`` that came of it are then swept, which a restart continues."""
        broadcast.cancel(last)
        self._open[broadcast.id] = broadcast
        self._due.pop(broadcast.id, None)
        self._sweeping[broadcast.id] = broadcast
        self._changes().broadcasts[broadcast.id] = broadcast

    def sweep(self, now: Now) -> int | None:
        """The next frame of a cancelled broadcast in which something is open."""
        for broadcast in self._sweeping.values():
            seq = self._stored.last_open_page(broadcast.id, broadcast.swept)
            if seq is None:
                broadcast.end("cancelled", now.wall_us // 1000)
            else:
                broadcast.swept = seq
            self._changes().broadcasts[broadcast.id] = broadcast
            return seq
        return None

    def committed(self, changed: Mapping[str, Broadcast]) -> None:
        for id_, broadcast in changed.items():
            if broadcast.finished_ms is not None:
                self._open.pop(id_, None)
                self._due.pop(id_, None)
                self._sweeping.pop(id_, None)

    def documents(self) -> list[dict[str, Any]]:
        """For ``stats``: those that are open, and the last few others."""
        some = [*islice(self._open.values(), SHOWN_OPEN), *self._stored.finished_broadcasts(SHOWN_FINISHED)]
        return [broadcast.document() for broadcast in some]

    def __len__(self) -> int:
        return len(self._open)


def _entry(notification: Notification) -> bytes:
    """As its users get it: it is due, and a key is of the topic, not of its users."""
    return pack(msgspec.structs.replace(notification, send_at=None, idempotency_key=None, id=None))
