"""One simulated shard: the real turn, core, journal and link, with a virtual clock, a faulty disk and no sockets."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec

import dispatcher.router.link
import shards.attempts
import shards.book
import shards.contents
import shards.core
import shards.ending
import shards.gates
import shards.inbox
import shards.journal
import shards.limit_store
import shards.maintenance
import shards.releasing
import shards.schema
import shards.shard
import shards.tables.ledgers
import shards.worker
from shards.process import Stop
from shards.retry import RetryPolicy
from shards.settings import Bounds, Idempotency, Priorities, Retention, ShardSettings
from shards.shard import Shard
from shards.units import Seconds
from shards.wire.control import Reply, Subscriptions
from shards.wire.encoding import pack
from shards.wire.link import Report, Stalled
from shards.wire.outbox import OutboxAck
from shards.wire.sockets import FromShard
from shards.worker import Worker
from tests.simulation.asking import Asking
from tests.simulation.channels import HEALTHY, TEMPERS, TemperedChannel
from tests.simulation.checks import CheckedCore, Checker
from tests.simulation.disk import Crash, Disk, Fuse
from tests.simulation.endpoints import Endpoints
from tests.simulation.order import CheckedQueue
from tests.simulation.policies import CATEGORIES, draw
from tests.simulation.producer import Producer, Submission
from tests.simulation.receipts import Receipts
from tests.simulation.router import Collector, Router
from tests.simulation.stored import Stored
from tests.simulation.trials import FaultyJudge, Trials
from tests.simulation.wire import Clock, Faults, Inlet, Outlet, Poller, Wire
from tests.support.simulated import simulated

STEPS = 250
RESUMED = 0.2  # of the turns in which a channel is paused
DRAIN_TURNS_MAX = 3_000
USERS = [f"user-{number}" for number in range(6)]
AGING_S = 5.0
CHANNELS = ("email", "sms", "push")

# Small enough that every list overflows within a few turns.
TINY: dict[Any, dict[str, float]] = {
    shards.attempts: {"PASSED_MAX": 4},
    shards.ending: {"LOGGED_MAX": 2, "SHORT_S": 0.1},
    shards.gates: {"AHEAD_MAX_S": 30.0, "REMEMBERED_MAX": 2},
    shards.releasing: {"FRAMES_PER_REFILL": 2, "RELEASED_MAX": 3, "ITEMS_MAX": 2},
    shards.limit_store: {"CHARGES_MAX": 40, "PART_TIMES": 3, "OLD_ROWS": 2},
    shards.journal: {"TAIL_FRAMES": 8},
    shards.tables.ledgers: {"LOG_ROWS_MAX": 6, "LOGGED_FRAMES_MAX": 4},
    shards.schema: {"CHECKPOINT_PAGES": 20},
    shards.inbox: {"TAIL_MAX": 6, "SORTED_USERS": 1},
    shards.contents: {"FRAMES_KEPT": 3},
    shards.maintenance: {"EXPIRY_FRAMES": 3, "FRAMES": 5, "SCRUB_BYTES": 60_000},
    shards.shard: {"OUTBOX_BATCH": 4},
}

_from_shard = msgspec.msgpack.Decoder(FromShard)


class SimulatedWorker(Worker):
    """The worker, with inlets and outlets in the place of sockets."""

    def __init__(
        self, settings: ShardSettings, data: Inlet, control: Inlet, upstream: Outlet, collector: Outlet, trials: Trials
    ) -> None:
        self._ends = data, control, upstream, collector
        self._trials = trials
        super().__init__(settings, Stop())

    def _drop(self) -> None:
        self._trials.dropped()
        super()._drop()

    def _open_sockets(self) -> None:
        self.data, self.control, self.upstream, self.collector = self._ends  # type: ignore[assignment]
        self.poller = Poller(self._ends[0], self._ends[1])  # type: ignore[assignment]
        if self.shard:
            self._report(self.shard, 0, resend=True)


class Simulation:
    """A run of one seed, in an empty directory."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.random = random = Random(seed)
        self.clock = Clock()
        self.fuse = Fuse()
        self.crashes = 0
        self.stalls = 0
        self._commits = 0  # when it was last looked whether there is anything to do
        self.lives = 0
        self.epoch = 1
        self._directory = directory
        self._path = directory / "journal-0.db"
        self.faults = Faults(*(random.choice((0.0, 0.01, 0.1)) for _ in range(3)))
        self.data = Wire(random, self.faults)
        self.control = Wire(random, Faults())
        self.reports = Wire(random, self.faults)
        self.items = Wire(random, self.faults)
        self.tempers = {name: random.choice(TEMPERS) for name in CHANNELS}
        self._are_healthy = False
        self.harmless = {name: random.random() < 0.5 for name in CHANNELS}
        self.retention_s = random.choice((60.0, 86_400.0))
        self.concurrency = random.choice((1, 3, 30))
        self.window_s = random.choice((30.0, 3_600.0, 30 * 86_400.0))
        self.keys_max = random.choice((50, 10_000_000))
        self.retrying_max = random.choice((3, 10))
        self.endpoints = Endpoints(random.choice((*CHANNELS, "email", "")), random.choice((1, 2, 16)))
        if self.endpoints.channel:
            self.tempers[self.endpoints.channel] = random.choice(TEMPERS[1:])
        self.users_max = random.choice((4, 100))
        self.made: dict[bytes, Submission] = {}
        self.policies = draw(random)
        self.jumps = random.choice((0.0, 0.6))  # of the wall clock
        self.stored = Stored(self.made, self.policies)
        self.receipts = Receipts(self.stored, self.window_s, self.keys_max)
        self.asking = Asking(random, self.clock, USERS, self.stored, self.receipts)
        self.trials = Trials(self.stored, self.fuse.blow)
        self.checker = Checker(
            self.stored, self.policies, self.receipts, self.asking, self.trials, self.clock, USERS, self.endpoints
        )
        self.producer = Producer(random, self.clock, USERS)
        self.collector = Collector()
        self.router = Router(self.epoch, self.data, self.clock)
        self.disk = Disk(random, self.fuse, self.checker.committed)
        self.worker: SimulatedWorker
        self._answered: set[int] = set()
        self._opened: Shard | None = None
        self._greeted = 0  # by which incarnation, since the last time that a shard was seen to open

    @property
    def trace(self) -> list[str]:
        return list(self.checker.trace)

    def _say(self, text: str) -> None:
        self.checker.trace.append(f"{self.clock.mono:10.3f} {self.clock.wall_us // 1000 % 10**9:9d}  {text}")

    def _log(self) -> SimpleNamespace:
        def say(event: str, **fields: object) -> None:
            self._say(f"logs: {event} {fields}")

        return SimpleNamespace(warning=say, error=say, exception=say)

    # --- the shard's lives -------------------------------------------------------------------------------------

    def _settings(self) -> ShardSettings:
        channels = dict.fromkeys(CHANNELS, simulated(concurrency=self.concurrency))
        return ShardSettings(
            shard=0,
            shards=1,
            path=str(self._path),
            durability="process",
            incarnation=self.clock.wall_us,
            secret=7,
            categories=CATEGORIES,
            rate_limits=self.policies.rate_limits,
            caps=self.policies.caps,
            digests=self.policies.digests,
            retry=RetryPolicy(max_retries=2, base=Seconds(1.0)),
            priorities=Priorities(aging=Seconds(AGING_S)),
            idempotency=Idempotency(window=Seconds(self.window_s), max_entries=self.keys_max),
            retention=Retention(finished=Seconds(self.retention_s), inbox=Seconds(3 * self.retention_s)),
            bounds=Bounds(
                lane_items=5, retrying=self.retrying_max, users=self.users_max, limiter_keys=50, turn_notifications=20
            ),
            channels=self.endpoints.settings(channels),
        )

    @contextmanager
    def world(self) -> Iterator[None]:
        """The product's modules get this simulation's time, disk and dice, and its checked parts."""
        with ExitStack() as stack:
            for module, values in TINY.items():
                for name, value in values.items():
                    stack.enter_context(mock.patch.object(module, name, value))
            for module, name, part in (
                (shards.worker, "time", self.clock),
                (shards.shard, "random", self.random),
                (shards.shard, "SimulatedChannel", self._make_channel),
                (shards.shard, "Core", partial(CheckedCore, self.checker)),
                (shards.book, "NotificationQueue", CheckedQueue),
                (shards.core, "Judge", FaultyJudge),
                (sqlite3, "connect", self.disk.connect),
                (os, "posix_fallocate", self.disk.allocate),
                *((module, "log", self._log()) for module in (shards.worker, shards.journal, dispatcher.router.link)),
            ):
                stack.enter_context(mock.patch.object(module, name, part))
            try:
                yield
            finally:
                self.disk.close()

    def _make_channel(self, name: str, *_: object) -> TemperedChannel:
        return TemperedChannel(
            name,
            HEALTHY if self._are_healthy else self.tempers[name],
            self.random,
            self.harmless[name],
            self.trials,
            self.checker.attempt,
            self.fuse.reached,
            self.checker.attempts.untried,
        )

    def _start_worker(self) -> None:
        """As the supervisor does: again and again, until it stays."""
        while True:
            self.lives += 1
            self.receipts.turn(self.clock.wall_us)
            try:
                with self.fuse.live():
                    self.worker = SimulatedWorker(
                        self._settings(),
                        Inlet(self.data, self.fuse.reached),
                        Inlet(self.control, self.fuse.reached),
                        Outlet(self._hear_shard, self.fuse.reached),
                        Outlet(lambda message: self.items.put(0, message), self.fuse.reached),
                        self.trials,
                    )
                break
            except Crash as crash:
                self._fall(f"while it starts, {crash}")
        self._say(f"life {self.lives} begins")
        self._look_at_shard()
        self.control.put(0, pack(Subscriptions([b"inapp."])))

    def _look_at_shard(self) -> None:
        """Whether it was made anew, or dropped."""
        shard = self.worker.shard
        if shard is not self._opened:
            self._opened = shard
            self._say("the shard is open" if shard else f"the shard is dropped: {self.worker._stalled}")
            if shard:
                assert self._greeted == self.worker._incarnation, "link: the router does not hear that a shard is open"
                self._greeted = 0
                self.checker.opened(shard)
            else:
                self.stalls += 1

    def _hear_shard(self, message: bytes) -> None:
        """Nothing leaves a turn before its commit, and nothing at all but excuses if that fails."""
        decoded = _from_shard.decode(message)
        is_excuse = isinstance(decoded, Stalled)
        if isinstance(decoded, Reply):
            is_excuse = decoded.error is not None and decoded.error.code == "unavailable"
            assert decoded.query not in self._answered, f"query {decoded.query} is answered twice"
            self._answered.add(decoded.query)
            self.asking.leaves(decoded)
        assert is_excuse or not self.disk.is_uncommitted, f"A: {decoded} leaves, and its turn is not committed"
        if isinstance(decoded, Report):
            if decoded.conn == 0 and decoded.resend:
                self._greeted = decoded.incarnation
            last = len(self.stored.at_us)
            assert decoded.base + decoded.have == last, f"A: {decoded}, and the journal has {last} frames"
        self.reports.put(self.lives, message)

    def _fall(self, why: str) -> None:
        """All memory is lost; the files are as they were, for the next life and for a second reader."""
        self.crashes += 1
        self._say(f"CRASH {why}")
        before, self._path = self._path, self._directory / f"journal-{self.lives}.db"
        second = self._directory / "second-reader.db"
        for suffix in (".db", ".db-wal", ".witness", ".marks"):
            if (found := before.with_suffix(suffix)).exists():
                shutil.copy(found, self._path.with_suffix(suffix))
                shutil.copy(found, second.with_suffix(suffix))
        self.disk.close()
        self.trials.crashed(self._path.with_suffix(".marks"))
        if self.stored.channel_names:
            reader = sqlite3.Connection(second)
            self.checker.crashed(reader)
            reader.close()
        for file in (*self._directory.glob("second-reader*"), *self._directory.glob(f"{before.stem}.*")):
            file.unlink()
        self.data.break_off()
        self.control.break_off()
        if not self._are_healthy and self.random.random() < 0.3:
            self.fuse.left = self.random.randint(0, 80)  # while it starts, or soon after

    def _crash(self, why: str) -> None:
        self._fall(why)
        self._start_worker()

    # --- steps -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        self._start_worker()
        steps: dict[Callable[[], None], float] = {
            self._submit: 6,
            self._hear: 8,
            self._ping: 3,
            self._turn: 10,
            self._wait: 6,
            self._approach: 2,
            self._ask: 5,
            self._jump_wall_clock: self.jumps,
            self._suspend: 0.1,
            self._arm: 0.7,
            self._fail_disk: 0.3,
            self._heal_disk: 1.5,
            self._restart_router: 0.2,
        }
        for step in self.random.choices(list(steps), list(steps.values()), k=STEPS):
            step()
        self._drain()

    def _submit(self) -> None:
        for _ in range(self.random.choice((1, 1, 4))):
            submission = self.producer.frame()
            self.made[submission.body] = submission
            self.router.backlog.append(submission)
        self.router.pump()

    def _ping(self) -> None:
        self.router.time_out(self.stored.pruned)
        self.router.pump()
        self.router.ping()

    def _hear(self) -> None:
        for _ in range(self.random.randint(1, 6)):
            message = self.reports.get()
            if message is None:
                break
            decoded = _from_shard.decode(message)
            if isinstance(decoded, Report):
                self.router.hear(decoded)
                self.checker.heard(self.router)
            elif isinstance(decoded, Reply):
                self.asking.hear(decoded)
        self.router.pump()
        while (item := self.items.get()) is not None:
            self.collector.hear(item)
            if self.random.random() < 0.5:
                self.control.put(0, pack(OutboxAck(self.receipts.generation, self.collector.upto)))

    def _turn(self) -> None:
        self._say("turn")
        self._resume()
        self.receipts.turn(self.clock.wall_us)
        try:
            with self.fuse.live():
                self.worker._turn()
        except Crash as crash:
            self._crash(str(crash))
        else:
            self._look_at_shard()
            if self.worker.shard:
                self.checker.turned(self.worker, self.worker.shard)

    def _resume(self) -> None:
        """The operator mends what was misconfigured, sooner or later."""
        core = self.worker.shard.core if self.worker.shard else None
        for channel in list(core.paused) if core else ():
            if core and (self._are_healthy or self.random.random() < RESUMED):
                core.resume(channel)

    def _wait(self) -> None:
        self.clock.advance(self.random.choice((0.001, 0.1, 1.0, 3.0, 11.0)))

    def _approach(self) -> None:
        """To just around an instant at which something is let go."""
        dues = sorted({*self.checker.waiting.due_ms.values(), *self.checker.windows.first_due_ms().values()})
        if dues:
            due_ms = self.random.choice(dues[:4]) + self.random.choice((-1, 0, 1, 500))
            self.clock.advance(max(0.0, due_ms / 1000 - self.clock.wall_us / 1e6))

    def _jump_wall_clock(self) -> None:
        seconds = self.random.choice((-3_600, -5, 5, 3_600))
        self.clock.wall_us += seconds * 1_000_000
        self._say(f"the wall clock jumps by {seconds} s")

    def _suspend(self) -> None:
        self.clock.advance(3_600)
        self._say("an hour has passed")

    def _arm(self) -> None:
        self.fuse.left = self.random.choice((0, 3, 10, 30)) + self.random.randint(0, 30)

    def _fail_disk(self) -> None:
        self.disk.fail(self.random.choice((0, 5, 30)) + self.random.randint(0, 10))
        self._say("the disk begins to fail")

    def _heal_disk(self) -> None:
        self.disk.heal()

    def _restart_router(self) -> None:
        """The producer sends again what it has no receipt for; the old router's frames are still on their way."""
        unfinished = self.router.unfinished()
        self.epoch += self.random.choice((1, 1_000))
        self._say(f"a new router, epoch {self.epoch}")
        self.router = Router(self.epoch, self.data, self.clock)
        self.router.backlog.extend(unfinished)
        self.router.pump()

    def _ask(self) -> None:
        self.control.put(0, pack(self.asking.next()))

    # --- the end -----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Without faults, everything comes to its end."""
        self._say("the faults end")
        self.fuse.left = -1
        self.disk.heal()
        self.faults.stop()
        self._are_healthy = True
        for channel in self.worker.shard.channels.values() if self.worker.shard else ():
            assert isinstance(channel, TemperedChannel)
            channel.recover()
        for _ in range(DRAIN_TURNS_MAX):
            self._ping()
            self._turn()
            self._hear()
            self.clock.advance(1.0)
            self._skip()
            if not self.router.unfinished() and not self._busy():
                break
        left = len(self.router.unfinished())
        assert not left, f"{left} frames are never acknowledged"
        assert self.worker.shard, f"still no shard: {self.worker._stalled}"
        self.checker.drained(self.worker.shard, self.collector.letters)

    def _skip(self) -> None:
        """To the next instant at which something is let go or tried again, if there is nothing else to do: the last
        turn stored nothing, or all that is open waits."""
        shard, idles = self.worker.shard, self.checker.commits == self._commits
        self._commits = self.checker.commits
        if shard and (idles or self.stored.only_waits()) and (due := shard.core.next_due(self.clock.now())) is not None:
            self.clock.advance(max(0.0, due - self.clock.mono))

    def _busy(self) -> bool:
        shard = self.worker.shard
        if not shard or self.stored.open or shard.core.changes or shard.core.behind:
            return True
        return shard.state.outbox != self.collector.upto or len(self.control) > 0
