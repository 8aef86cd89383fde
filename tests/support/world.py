"""A shard and its journal with a clock that the test turns: what is sent, when, and what became of it.

The clock goes from one instant at which something is due to the next, so that what was sent has the exact time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableSequence, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shards.answers import ErrorClass
from shards.changes import Now
from shards.core import Core
from shards.frames import Entry, Frame, Run
from shards.health import contacts_on
from shards.retry import RetryPolicy
from shards.sending import Advice, Failure, Results
from shards.settings import Bounds, Idempotency, Priorities, Retention, ShardSettings
from shards.shard import Shard
from shards.units import Seconds
from shards.wire.encoding import pack
from shards.wire.errors import RequestError
from shards.wire.link import SUBMIT, Data, Verdict
from shards.wire.notification import Notification
from shards.wire.requests import Request
from tests.support.simulated import simulated

TURNS_MAX = 1_000  # at one instant: more would be a loop
MONOTONIC_US = 1_700_000_000_000_000  # the monotonic clock's beginning

SIMULATED = simulated()
SETTINGS = ShardSettings(
    shard=0,
    shards=1,
    path="shard-0.db",
    durability="process",
    incarnation=1,
    secret=1,
    categories={},
    rate_limits={},
    retry=RetryPolicy(max_retries=5, base=Seconds(60.0), factor=1.0, jitter="none"),
    priorities=Priorities(),
    idempotency=Idempotency(),
    retention=Retention(),
    bounds=Bounds(),
    channels=dict.fromkeys(("email", "sms", "push", "webhook", "system"), SIMULATED),
)


def instant_us(text: str) -> int:
    """Microseconds since 1970 of RFC 3339 text with an offset."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None
    return round(moment.timestamp()) * 1_000_000


class Sent(NamedTuple):
    """One attempt."""

    at_us: int
    channel: str
    said: Notification


class Provider:
    """A channel that notes what it is given; attempts end at once, or when ``hold`` is over."""

    harmless = True

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self._world = world
        self._runs: list[Run] = []

    def start(self, runs: Sequence[Run], now: float) -> None:
        world = self._world
        for run in runs:
            for at in range(len(run)):
                world.sent.append(Sent(world.now_us, self.name, world.core.said(run.entry(at))))
        self._runs += runs

    def collect(self, now: float) -> Results:
        delivered: list[tuple[Frame, MutableSequence[int]]] = []
        failed: list[Failure] = []
        if not self._world.hold:
            for run in self._runs:
                if self.name in self._world.failing:
                    failed += [self._failure(run.entry(at)) for at in range(len(run))]
                else:
                    delivered.append((run.frame, run.slots))
            self._runs = []
        return Results(delivered, failed)

    def _failure(self, entry: Entry) -> Failure:
        world = self._world
        contacts = contacts_on(self.name, world.core.people.recipient(entry[3]).contacts)
        advice = Advice(bad=contacts) if world.error == "bad_address" else None
        return entry, world.error, "no", world.advice or advice

    def next_due(self) -> float | None:
        return None if self._world.hold or not self._runs else 0.0


class World:
    """``changes`` are fields of ``ShardSettings``. Close it at the end."""

    def __init__(self, directory: Path, at: str = "2026-01-05T12:00:00Z", **changes: Any) -> None:
        self.settings = msgspec.structs.replace(SETTINGS, path=str(directory / "shard-0.db"), **changes)
        self.now_us = instant_us(at)
        self.sent: list[Sent] = []
        self.failing: set[str] = set()  # channels
        self.error: ErrorClass = "transient"
        self.advice: Advice | None = None  # with it
        self.hold = False  # attempts do not end
        self._n = 0
        self._open()

    def _open(self) -> None:
        self.shard = Shard(self.settings, self.now, set())
        self._closed = False
        self.shard.channels = {number: Provider(one.name, self) for number, one in self.shard.channels.items()}

    @property
    def core(self) -> Core:
        return self.shard.core

    @property
    def now(self) -> Now:
        return Now((self.now_us - MONOTONIC_US) / 1e6, self.now_us)

    def restart(self, **changes: Any) -> None:
        """The process is killed between two turns, and starts again."""
        if not self._closed:
            if self.shard.courier:
                self.shard.courier.close()
            self.shard.marks.close()
            self.shard.journal.close()
        self.settings = msgspec.structs.replace(self.settings, **changes)
        self._open()
        self.run()

    def close(self) -> None:
        """Legal when it is closed."""
        if not self._closed:
            self._closed = True
            self.shard.close()

    # --- time --------------------------------------------------------------------------------------------------

    def turn(self, messages: list[Data] = [], requests: Iterable[Request] = ()) -> tuple[list[Any], list[Any]]:  # noqa: B006
        """As the worker's; the verdicts and answers."""
        shard, core, now = self.shard, self.core, self.now
        self.more = core.refill(now) | core.release(now)
        verdicts, _ = shard.take(list(messages), now)
        answers = [shard.operations.answer(request, now) for request in requests]
        shard.collect(now)
        core.wake(now)
        self.more = core.deliver_inapp(now) or self.more
        shard.maintain(now)
        shard.commit(now)
        shard.start(now)
        return verdicts, answers

    def run(self) -> None:
        """Turns, until nothing is left to be done at this instant."""
        for _ in range(TURNS_MAX):
            self.turn()
            if not self.more and not self.core.changes and self._first() > self.now.mono:
                return
        raise AssertionError(f"not at rest after {TURNS_MAX} turns")

    def _first(self) -> float:
        """When something is due, in monotonic seconds."""
        dues = [channel.next_due() for channel in self.shard.channels.values()]
        due = min([due for due in dues if due is not None], default=None)
        core = self.core.next_due(self.now)
        return min((one for one in (due, core) if one is not None), default=math.inf)

    def _next_us(self) -> int:
        """The millisecond for that; what is due a hair behind one is not due yet."""
        first = self._first()
        return 2**62 if first == math.inf else math.ceil(first * 1_000 - 1e-3) * 1_000 + MONOTONIC_US

    def until(self, text: str) -> None:
        self._go(instant_us(text))

    def advance(self, seconds: float) -> None:
        self._go(self.now_us + round(seconds * 1e6))

    def _go(self, end_us: int) -> None:
        while (due_us := self._next_us()) <= end_us:
            self.now_us = max(self.now_us + 1_000, due_us)
            self.run()
        self.now_us = end_us
        self.run()

    # --- use ---------------------------------------------------------------------------------------------------

    def frame(self, *notifications: dict[str, Any]) -> Data:
        """What is not said: the user is ann, the title hello."""
        self._n += 1
        body = pack([{"user_id": "ann", "title": "hello", **one} for one in notifications])
        return Data(1, 0, 1, self._n, SUBMIT, self.now_us, False, body)

    def submit(self, *notifications: dict[str, Any]) -> Verdict:
        ((_, verdict),), _ = self.turn([self.frame(*notifications)])
        self.run()
        return verdict or Verdict([], [])

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer of an operation; ``RequestError`` where it has one."""
        _, (answer,) = self.turn(requests=[Request(op, **fields)])
        self.run()
        return dict(answer)

    def refused(self, op: str, **fields: Any) -> str:
        """The code of its error."""
        try:
            self.ask(op, **fields)
        except RequestError as error:
            return error.error.code
        raise AssertionError(f"{op} {fields} is not refused")

    def user(self, user_id: str = "ann", **document: Any) -> None:
        self.ask("user.put", user_id=user_id, user=document)

    def status(self, key: str, user_id: str = "ann") -> dict[str, dict[str, Any]]:
        """By channel."""
        answer = self.ask("status", user_id=user_id, idempotency_key=key)
        return {one["channel"]: one for one in answer["deliveries"]}

    def outcomes(self, key: str, user_id: str = "ann") -> dict[str, str]:
        """By channel, the outcome, with its reason behind a colon if it has one."""
        return {
            channel: ":".join(filter(None, (one["outcome"], one["reason"])))
            for channel, one in self.status(key, user_id).items()
        }

    def outcome(self, key: str, user_id: str = "ann") -> str:
        """Of a notification with one delivery."""
        ((_, outcome),) = self.outcomes(key, user_id).items()
        return outcome

    def inbox(self, user_id: str = "ann") -> list[dict[str, Any]]:
        return list(self.ask("inbox.list", user_id=user_id)["items"])

    def times(self, channel: str = "email") -> list[int]:
        """Whole seconds since 1970 of the attempts on a channel."""
        return [one.at_us // 1_000_000 for one in self.sent if one.channel == channel]

    @property
    def conserved(self) -> bool:
        """Invariant C."""
        channels = self.core.counters.channels
        open_ = self.shard.journal.ledgers.pending()
        return sum(one.planned for one in channels) == sum(sum(one.outcomes) for one in channels) + open_
