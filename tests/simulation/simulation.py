"""One simulated shard: the real turn, core, journal and link, with a virtual clock, a faulty disk and no sockets."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import msgspec

import shards.contents
import shards.core
import shards.inbox
import shards.journal
import shards.worker
from shards.limiter import RateLimit
from shards.process import Stop
from shards.retry import RetryPolicy
from shards.rules import Category
from shards.settings import Bounds, ChannelSettings, Idempotency, Priorities, Retention, ShardSettings
from shards.units import Seconds
from shards.wire import FromShard, OutboxAck, Reply, Report, Subscriptions, pack
from shards.worker import Worker
from tests.simulation.asking import Asking
from tests.simulation.channels import TEMPERS, TemperedChannel
from tests.simulation.checks import Checker, checked_core
from tests.simulation.disk import Crash, Disk, Fuse
from tests.simulation.order import CheckedLimiter, CheckedQueue
from tests.simulation.producer import Producer, Submission
from tests.simulation.receipts import Receipts
from tests.simulation.router import Collector, Router
from tests.simulation.stored import Stored
from tests.simulation.wire import Clock, Faults, Inlet, Outlet, Poller, Wire

STEPS = 250
DRAIN_TURNS_MAX = 1_000
USERS = [f"user-{number}" for number in range(6)]
AGING_S = 5.0
CHANNELS = ("email", "sms", "push")

# Small enough that every list overflows within a few turns.
TINY: dict[Any, dict[str, int]] = {
    shards.core: {"FRAMES_PER_REFILL": 2, "LOGGED_MAX": 2},
    shards.journal: {"LOG_ROWS_MAX": 6, "LOGGED_FRAMES_MAX": 4, "CHECKPOINT_PAGES": 20},
    shards.inbox: {"TAIL_MAX": 12},
    shards.contents: {"FRAMES_KEPT": 3},
    shards.worker: {"EXPIRY_FRAMES": 3, "MAINTENANCE_FRAMES": 5, "OUTBOX_BATCH": 4},
}

_from_shard = msgspec.msgpack.Decoder(FromShard)


class SimulatedWorker(Worker):
    """The worker, with inlets and outlets in the place of sockets."""

    def __init__(
        self, settings: ShardSettings, data: Inlet, control: Inlet, upstream: Outlet, collector: Outlet
    ) -> None:
        self._ends = data, control, upstream, collector
        super().__init__(settings, Stop())

    def _open_sockets(self) -> None:
        self.data, self.control, self.upstream, self.collector = self._ends  # type: ignore[assignment]
        self.poller = Poller(self._ends[0], self._ends[1])  # type: ignore[assignment]
        self._report(0, resend=True)


class Simulation:
    """``survives_disk_errors``: the shard recovers from them by itself; otherwise its process ends by the first."""

    def __init__(self, seed: int, directory: Path, survives_disk_errors: bool) -> None:
        self.random = random = Random(seed)
        self.clock = Clock()
        self.fuse = Fuse()
        self.crashes = 0
        self.incarnation = 0
        self.epoch = 1
        self._directory = directory
        self._path = directory / "journal-0.db"
        self._survives_disk_errors = survives_disk_errors
        self.faults = Faults(*(random.choice((0.0, 0.01, 0.1)) for _ in range(3)))
        self.data = Wire(random, self.faults)
        self.control = Wire(random, Faults())
        self.reports = Wire(random, self.faults)
        self.items = Wire(random, self.faults)
        self.tempers = {name: random.choice(TEMPERS) for name in CHANNELS}
        self.channels: dict[str, TemperedChannel] = {}
        self.retention_s = random.choice((60.0, 86_400.0))
        self.concurrency = random.choice((1, 3, 30))
        self.window_s = random.choice((30.0, 3_600.0, 30 * 86_400.0))
        self.keys_max = random.choice((50, 10_000_000))
        self.retrying_max = random.choice((3, 10))
        self.users_max = random.choice((4, 100))
        self.made: dict[bytes, Submission] = {}
        self.stored = Stored(self.made)
        self.receipts = Receipts(self.stored, self.window_s, self.keys_max)
        self.asking = Asking(random, USERS, self.stored, self.receipts)
        self.checker = Checker(self.stored, self.receipts, self.asking, self.clock, USERS)
        self.producer = Producer(random, self.clock, USERS)
        self.collector = Collector()
        self.router = Router(self.epoch, self.data, self.clock)
        self.disk = Disk(random, self.fuse, self.checker.committed)
        self.worker: SimulatedWorker

    @property
    def trace(self) -> list[str]:
        return list(self.checker.trace)

    def _say(self, text: str) -> None:
        self.checker.trace.append(f"{self.clock.mono:10.3f} {self.clock.wall_us // 1000 % 10**9:9d}  {text}")

    # --- the shard's lives -------------------------------------------------------------------------------------

    def _settings(self) -> ShardSettings:
        channel = ChannelSettings(provider="simulated", concurrency=self.concurrency)
        return ShardSettings(
            shard=0,
            shards=1,
            path=str(self._path),
            durability="process",
            incarnation=self.incarnation,
            secret=7,
            categories={"marketing": Category(channels=("email", "sms", "inapp"), priority="low")},
            rate_limits={"sms": RateLimit("6/minute", burst=2, exempt=("critical",))},
            retry=RetryPolicy(max_retries=2, base=Seconds(1.0)),
            priorities=Priorities(aging=Seconds(AGING_S)),
            idempotency=Idempotency(window=Seconds(self.window_s), max_entries=self.keys_max),
            retention=Retention(finished=Seconds(self.retention_s), inbox=Seconds(3 * self.retention_s)),
            bounds=Bounds(
                lane_items=5, retrying=self.retrying_max, users=self.users_max, limiter_keys=50, turn_notifications=20
            ),
            channels=dict.fromkeys(CHANNELS, channel),
        )

    @contextmanager
    def world(self) -> Iterator[None]:
        """The product's modules get this simulation's time, disk and dice, and its checked parts."""
        with ExitStack() as stack:
            for module, values in TINY.items():
                for name, value in values.items():
                    stack.enter_context(mock.patch.object(module, name, value))
            for module, name, part in (
                (shards.worker, "now", self.clock.now),
                (shards.worker, "random", self.random),
                (shards.worker, "SimulatedChannel", self._make_channel),
                (shards.worker, "Core", checked_core(self.checker)),
                (shards.core, "NotificationQueue", CheckedQueue),
                (shards.core, "Limiter", partial(CheckedLimiter, self.clock)),
                (sqlite3, "connect", self.disk.connect),
            ):
                stack.enter_context(mock.patch.object(module, name, part))
            try:
                yield
            finally:
                self.disk.close()

    def _make_channel(self, name: str, *_: object) -> TemperedChannel:
        channel = self.channels[name] = TemperedChannel(
            name, self.tempers[name], self.random, self.checker.attempt, self.fuse.reached
        )
        return channel

    def _start_worker(self) -> None:
        """As the supervisor does: again and again, until it stays."""
        while True:
            self.incarnation += 1
            self.receipts.turn(self.clock.wall_us)
            try:
                with self.fuse.live():
                    self.worker = SimulatedWorker(
                        self._settings(),
                        Inlet(self.data, self.fuse.reached),
                        Inlet(self.control, self.fuse.reached),
                        Outlet(lambda message: self.reports.put(self.incarnation, message), self.fuse.reached),
                        Outlet(lambda message: self.items.put(0, message), self.fuse.reached),
                    )
                break
            except (Crash, sqlite3.OperationalError) as error:
                self._fall(f"while it starts, {error}")
                if self.disk.is_failing:
                    self.disk.heal()
        self._say(f"incarnation {self.incarnation} is up")
        self.checker.recovered(self.worker.core)
        self.control.put(0, pack(Subscriptions([b"inapp."])))

    def _fall(self, why: str) -> None:
        """All memory is lost; the files are as they were, for the next life and for a second reader."""
        self.crashes += 1
        self._say(f"CRASH {why}")
        before, self._path = self._path, self._directory / f"journal-{self.incarnation}.db"
        second = self._directory / "second-reader.db"
        for suffix in ("", "-wal"):
            if (found := before.with_name(before.name + suffix)).exists():
                shutil.copy(found, self._path.with_name(self._path.name + suffix))
                shutil.copy(found, second.with_name(second.name + suffix))
        self.disk.close()
        if self.stored.channel_names:
            reader = sqlite3.Connection(second)
            self.checker.crashed(reader)
            reader.close()
        for file in (*self._directory.glob("second-reader*"), *self._directory.glob(f"{before.name}*")):
            file.unlink()
        self.data.break_off()
        self.control.break_off()

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
            self._ask: 3,
            self._jump_wall_clock: 0.6,
            self._suspend: 0.1,
            self._arm: 0.7,
            self._fail_disk: 0.15,
            self._heal_disk: 0.5,
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
        self.receipts.turn(self.clock.wall_us)
        try:
            with self.fuse.live():
                self.worker._turn()
        except Crash as crash:
            self._crash(str(crash))
        except sqlite3.OperationalError as error:
            if self._survives_disk_errors or not self.disk.is_failing:
                raise
            self._crash(f"by the disk: {error}")
        else:
            numbers = self.worker.core.channel_names.index
            channels = {numbers(name): channel for name, channel in self.channels.items()}
            if not self.disk.is_failing:
                self.checker.turned(self.worker, channels)

    def _wait(self) -> None:
        self.clock.advance(self.random.choice((0.001, 0.1, 1.0, 3.0, 11.0)))

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
        self.disk.fail(self.random.randint(0, 12))
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
        for name in CHANNELS:
            self.tempers[name] = self.channels[name].temper
            self.channels[name].recover()
        for _ in range(DRAIN_TURNS_MAX):
            self._ping()
            self._turn()
            self._hear()
            self.clock.advance(1.0)
            if not self.router.unfinished() and not self._busy():
                break
        left = len(self.router.unfinished())
        assert not left, f"{left} frames are never acknowledged"
        self.checker.drained(self.worker, self.collector.letters)

    def _busy(self) -> bool:
        waiting = bool(self.stored.open or self.worker.core.changes or self.worker.core.behind)
        return waiting or self.worker.journal.state.outbox != self.collector.upto or len(self.control) > 0
