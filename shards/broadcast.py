"""One notification to a topic, as a shard stores it: what it says, and which of the shard's users have had it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from shards.wire.ids import hash_user
from shards.wire.notification import Notification

State = Literal["scheduled", "expanding", "done", "cancelled", "expired", "failed"]
OPEN: tuple[State, ...] = ("scheduled", "expanding")
MERGED: tuple[State, ...] = ("cancelled", "expanding", "scheduled", "failed", "expired", "done")
SEQ_MAX = 2**62  # no frame is behind it
EVERYBODY = chr(0x10FFFF) * 64  # no user id is behind it

_notification = msgspec.msgpack.Decoder(Notification)


class Reach(msgspec.Struct, array_like=True):
    """Who has it: the users up to ``cursor`` in the order of their ids, of those who were in shard k of n for each
    ``(n, k)`` of ``among``. Pages go by that order, so one id says it for all; users who come from other shards bring
    their own."""

    cursor: str = ""
    among: list[tuple[int, int]] = []

    def covers(self, user_hash: int) -> bool:
        return all(user_hash % shards == shard for shards, shard in self.among)


class Broadcast(msgspec.Struct, array_like=True):
    """``step`` numbers its pages: each is asked for, and taken, once. ``users`` and ``done`` count this shard's users;
    where the number of shards has changed, the first shard has the counts of before.

    ``planned`` are deliveries. Times are in milliseconds since the epoch.
    """

    id: str
    topic: str
    category: str
    content: bytes  # the notification as MessagePack, with its key
    created_ms: int
    due_ms: int
    expires_ms: int | None
    users: int
    state: State = "scheduled"
    step: int = 0
    reached: list[Reach] = msgspec.field(default_factory=lambda: [Reach()])
    done: int = 0
    planned: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    error: str | None = None
    swept: int = 0  # of a cancelled one: in its frames from here on nothing is open

    def notification(self) -> Notification:
        return _notification.decode(self.content)

    def cursor(self) -> str:
        """Nobody up to here is still to be reached."""
        return min(reach.cursor for reach in self.reached)

    def still_to_reach(self, user_ids: Iterable[str]) -> list[str]:
        if len(self.reached) == 1 and not self.reached[0].among:
            cursor = self.reached[0].cursor
            return [user_id for user_id in user_ids if user_id > cursor]
        return [user_id for user_id in user_ids if not self._has(user_id)]

    def _has(self, user_id: str) -> bool:
        """Who is in none of the groups came later than the notification."""
        hashed = hash_user(user_id)
        return all(user_id <= reach.cursor for reach in self.reached if reach.covers(hashed))

    def advance(self, cursor: str) -> None:
        """Everybody up to ``cursor`` has it."""
        for reach in self.reached:
            reach.cursor = max(reach.cursor, cursor)
        if len({reach.cursor for reach in self.reached}) == 1:
            self.reached = [Reach(self.reached[0].cursor)]

    def cancel(self, last: int) -> None:
        """It has ended once the frames that came of it, up to ``last``, are swept."""
        self.state, self.finished_ms, self.swept = "cancelled", None, last + 1

    def end(self, state: State, now_ms: int, error: str | None = None) -> None:
        self.state, self.finished_ms, self.error = state, now_ms, error

    def document(self) -> dict[str, Any]:
        """This shard's part of what ``status`` and ``stats`` say."""
        return {
            "id": self.id,
            "topic": self.topic,
            "category": self.category,
            "state": self.state,
            "users_done": self.done,
            "users": self.users,
            "planned": self.planned,
            "created_at": self.created_ms,
            "send_at": self.due_ms,
            "started_at": self.started_ms,
            "finished_at": self.finished_ms,
            "error": self.error,
        }


def merged(parts: Sequence[tuple[int, Broadcast]], shards: int) -> Broadcast:
    """What ``shards`` shards had of one broadcast, as ``(shard, broadcast)``, for each shard of another layout.

    It goes on as long as one of them would.
    """
    going_on = [part for _, part in parts if part.finished_ms is None]
    first = min(going_on or [part for _, part in parts], key=lambda part: MERGED.index(part.state))
    reached = [
        Reach(
            reach.cursor if part.finished_ms is None else EVERYBODY,
            [*reach.among, (shards, shard)] if shards > 1 else reach.among,
        )
        for shard, part in parts
        for reach in part.reached
    ]
    started = [part.started_ms for _, part in parts if part.started_ms is not None]
    return msgspec.structs.replace(
        first,
        reached=reached,
        step=max(part.step for _, part in parts),
        users=sum(part.users for _, part in parts),
        done=sum(part.done for _, part in parts),
        planned=sum(part.planned for _, part in parts),
        started_ms=min(started, default=None),
        finished_ms=None if going_on else max(part.finished_ms or 0 for _, part in parts),
        swept=SEQ_MAX,
    )
