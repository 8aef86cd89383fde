"""A shard under faults: the real turn, core, journal and link, with a virtual clock and no sockets.

Everything is drawn from one seed, so a failing seed replays: ``python -m tests.simulation.simulator --seed 17``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import msgspec

import dispatcher.link
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
from shards.wire import FromShard, OutboxAck, Query, Reply, Report, Request, Subscriptions, pack
from shards.worker import Worker
from tests.simulation.checks import Checker
from tests.simulation.models import Clock, Collector, Faults, Inlet, Outlet, Poller, Producer, Router, SlowChannel, Wire

STEPS = 250
DRAIN_TURNS_MAX = 1_000
POSITIONS_MAX = 60  # of a frame: 20 entries, three recipients each
USERS = 6
AGING_S = 5.0

# Small enough that every list overflows within a few turns.
TINY: dict[Any, dict[str, int]] = {
    shards.core: {"FRAMES_PER_REFILL": 2, "LOGGED_MAX": 2},
    shards.journal: {"LOG_ROWS_MAX": 6, "LOGGED_FRAMES_MAX": 4},
    shards.inbox: {"TAIL_MAX": 12},
    shards.contents: {"FRAMES_KEPT": 3},
    shards.worker: {"EXPIRY_FRAMES": 3, "MAINTENANCE_FRAMES": 5, "OUTBOX_BATCH": 4},
}

_from_shard = msgspec.msgpack.Decoder(FromShard)


class Crash(BaseException):
    """The process is gone, right here."""


class Fuse:
    """Counts the places where a crash is worth something; the armed one crashes."""

    def __init__(self) -> None:
        self.left = -1

    def pass_by(self) -> None:
        if self.left >= 0:
            self.left -= 1
            if self.left < 0:
                raise Crash

    def guard(self, owner: object, name: str) -> None:
        """Crash points before and after a method."""
        method: Callable[..., Any] = getattr(owner, name)

        @wraps(method)
        def guarded(*arguments: Any, **named: Any) -> Any:
            self.pass_by()
            result = method(*arguments, **named)
            self.pass_by()
            return result

        setattr(owner, name, guarded)


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
    def __init__(self, seed: int, directory: Path, clock: Clock) -> None:
        self.random = random = Random(seed)
        self.directory = directory
        self.clock = clock
        self.fuse = Fuse()
        loss, duplication, reordering = (random.choice((0.0, 0.01, 0.1)) for _ in range(3))
        self.faults = Faults(loss, duplication, reordering, random.choice((0.0, 0.2, 0.6)))
        self.users = [f"user-{number}" for number in range(USERS)]
        self.data = Wire(random, self.faults)
        self.control = Wire(random, Faults())
        self.reports = Wire(random, self.faults)
        self.items = Wire(random, self.faults)
        self.collector = Collector()
        self.checker = Checker(self.users, AGING_S)
        self.producer = Producer(random, self.clock, USERS)
        self.epoch = 1
        self.router = Router(self.epoch, self.data, self.clock)
        self.acknowledged = self.router.acknowledged
        self.incarnation = 0
        self.crashes = 0
        self.retention_s = random.choice((60.0, 86_400.0))
        self.concurrency = random.choice((1, 3, 30))
        self.window_s = 30 * 86_400.0
        self.replays = random.random() < 0.5
        self.worker = self._start_worker(directory / "journal-0.db")

    # --- the shard's lives -------------------------------------------------------------------------------------

    def _settings(self, path: Path) -> ShardSettings:
        channel = ChannelSettings(provider="simulated", concurrency=self.concurrency)
        return ShardSettings(
            shard=0,
            shards=1,
            path=str(path),
            durability="process",
            incarnation=self.incarnation,
            secret=7,
            categories={"marketing": Category(channels=("email", "sms", "inapp"), priority="low")},
            rate_limits={"sms": RateLimit("6/minute", burst=2, exempt=("critical",))},
            retry=RetryPolicy(max_retries=2, base=Seconds(1.0)),
            priorities=Priorities(aging=Seconds(AGING_S)),
            idempotency=Idempotency(window=Seconds(self.window_s)),
            retention=Retention(finished=Seconds(self.retention_s), inbox=Seconds(3 * self.retention_s)),
            bounds=Bounds(lane_items=5, retrying=10, users=4, limiter_keys=50, turn_notifications=20),
            channels=dict.fromkeys(("email", "sms", "push"), channel),
        )

    def _start_worker(self, path: Path) -> SimulatedWorker:
        self.incarnation += 1
        worker = SimulatedWorker(
            self._settings(path),
            Inlet(self.data),
            Inlet(self.control),
            Outlet(self._upstream),
            Outlet(lambda message: self.items.put(0, message)),
        )
        core, journal = worker.core, worker.journal
        core._random = self.random.random
        worker.channels = {
            number: SlowChannel(number, channel.name, self.random, self.faults, self.checker.attempt)
            for number, channel in worker.channels.items()
        }
        self.checker.restarted(core, self.clock.now())
        self.checker.committed(journal)
        for owner, names in (
            (journal, ("begin", "record", "save_state", "prune", "trim_outbox", "post")),
            (worker.inbox, ("append", "_sort_in")),
            (core, ("receive", "refill", "wake", "deliver_inapp", "deliver", "fail", "committed", "take")),
            (worker, ("_report", "_post", "_answer")),
        ):
            for name in names:
                self.fuse.guard(owner, name)
        for channel in worker.channels.values():
            self.fuse.guard(channel, "start")
        journal.commit = self._checked_commit(worker)  # type: ignore[method-assign]
        self.control.put(0, pack(Subscriptions([b"inapp."])))
        return worker

    def _checked_commit(self, worker: SimulatedWorker) -> Callable[[], None]:
        """What is on disk is right at every commit, whether or not the shard lives to see it."""
        commit = worker.journal.commit

        def checked() -> None:
            self.fuse.pass_by()
            commit()
            self.checker.committed(worker.journal)
            self.fuse.pass_by()

        return checked

    def _upstream(self, message: bytes) -> None:
        self.reports.put(self.incarnation, message)

    def _crash(self) -> None:
        """All memory is lost; the files are as they were."""
        self.crashes += 1
        before = Path(self.worker.settings.path)
        after = self.directory / f"journal-{self.incarnation}.db"
        for suffix in ("", "-wal"):
            if (found := before.with_name(before.name + suffix)).exists():
                shutil.copy(found, after.with_name(after.name + suffix))
        self.worker.journal.close()
        self.data.break_off()
        self.control.break_off()
        self.worker = self._start_worker(after)
        self.checker.inboxes(self.worker.journal, self.worker.core.inapp)

    # --- steps -------------------------------------------------------------------------------------------------

    def run(self) -> None:
        random = self.random
        steps: list[tuple[Callable[[], None], float]] = [
            (self._submit, 6),
            (self._hear, 8),
            (self._ping, 3),
            (self._turn, 10),
            (self._wait, 6),
            (self._operate, 1.5),
            (self._jump_wall_clock, 0.2),
            (self._arm, 0.7),
            (self._restart_router, 0.2),
        ]
        moves, weights = [move for move, _ in steps], [weight for _, weight in steps]
        for move in random.choices(moves, weights, k=STEPS):
            move()
        self._drain()

    def _submit(self) -> None:
        for _ in range(self.random.choice((1, 1, 4))):
            self.router.backlog.append(self.producer.frame())
        self.router.pump()

    def _ping(self) -> None:
        self.router.time_out(self.checker.view.pruned)
        self.router.pump()
        self.router.ping()

    def _hear(self) -> None:
        for _ in range(self.random.randint(1, 6)):
            message = self.reports.get()
            if message is None:
                break
            decoded = _from_shard.decode(message)
            if isinstance(decoded, Report):
                self._hear_report(decoded)
            elif isinstance(decoded, Reply):
                self._hear_reply(decoded)
        self.router.pump()
        while (item := self.items.get()) is not None:
            self.collector.hear(item)
            if self.random.random() < 0.5:
                self.control.put(0, pack(OutboxAck(self.worker.journal.generation, self.collector.upto)))

    def _hear_report(self, report: Report) -> None:
        self.router.hear(report)
        for seq, submission in self.router.released:
            self.checker.released(seq, submission, self.worker.journal)
        self.router.released.clear()

    def _hear_reply(self, reply: Reply) -> None:
        if reply.query == 1:  # stats
            counts = reply.result
            planned = sum(channel["planned"] for channel in counts["channels"].values())
            finals = sum(sum(channel["outcomes"].values()) for channel in counts["channels"].values())
            assert planned == finals + counts["pending"], "C: as the stats operation says it"

    def _turn(self) -> None:
        try:
            self.worker._turn()
        except Crash:
            self._crash()
        self.checker.bounds(self.worker.core, POSITIONS_MAX)

    def _wait(self) -> None:
        self.clock.advance(self.random.choice((0.001, 0.1, 1.0, 3.0, 11.0)))

    def _jump_wall_clock(self) -> None:
        self.clock.wall_us += self.random.choice((-3_600, -5, 5, 3_600)) * 1_000_000

    def _arm(self) -> None:
        self.fuse.left = self.random.choice((0, 3, 10, 30)) + self.random.randint(0, 20)

    def _restart_router(self) -> None:
        """The producer sends again what it has no receipt for; the old router's frames are still on their way."""
        unfinished = self.router.unfinished()
        self.epoch += self.random.choice((1, 1_000))
        self.router = Router(self.epoch, self.data, self.clock)
        self.router.acknowledged = self.acknowledged
        self.router.backlog.extend(unfinished)
        self.router.pump()

    def _operate(self) -> None:
        """What operators and users ask for."""
        random, user_id = self.random, self.random.choice(self.users)
        requests = [
            Query(1, Request("stats")),
            Query(2, Request("inbox.list", user_id=user_id)),
            Query(3, Request("user.delete", user_id=user_id)),
        ]
        chosen = {name: random.random() < 0.5 for name in ("email", "push", "inapp")}
        requests.append(Query(4, Request("user.put", user_id=user_id, user={"preferences": {"channels": chosen}})))
        if self.replays:
            requests.append(Query(5, Request("dead.replay", limit=random.randint(1, 8))))
            requests.append(Query(6, Request("dead.purge", limit=random.randint(1, 8))))
        self.control.put(0, pack(random.choice(requests)))

    # --- the end -----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Without faults, everything comes to its end."""
        self.fuse.left = -1
        self.faults.stop()
        for _ in range(DRAIN_TURNS_MAX):
            self._ping()
            self._turn()
            self._hear()
            self.clock.advance(1.0)
            if not self.router.unfinished() and not self._busy():
                break
        worker = self.worker
        assert not self.router.unfinished(), f"{len(self.router.unfinished())} frames are never acknowledged"
        self.checker.drained(worker.core, worker.journal, self.collector.letters)
        self.checker.inboxes(worker.journal, worker.core.inapp)
        self.checker.verdicts(self.acknowledged)

    def _busy(self) -> bool:
        waiting = bool(self.worker.journal.pending() or self.worker.core.changes or self.worker.core.behind)
        return waiting or self.worker.journal.state.outbox != self.collector.upto or len(self.control) > 0


@contextmanager
def tiny_limits(clock: Clock) -> Iterator[None]:
    with ExitStack() as stack:
        for module, values in TINY.items():
            for name, value in values.items():
                stack.enter_context(mock.patch.object(module, name, value))
        stack.enter_context(mock.patch.object(shards.worker, "now", clock.now))
        stack.enter_context(mock.patch.object(dispatcher.link, "log"))  # journals that lose frames are among the faults
        yield


def simulate(seed: int) -> Simulation:
    """Run one seed; ``AssertionError``, or whatever the product raises, if it fails."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory, tiny_limits(clock):
        simulation = Simulation(seed, Path(directory), clock)
        try:
            simulation.run()
        finally:
            simulation.worker.journal.close()
    return simulation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=60, help="how many, from 0 on")
    parser.add_argument("--seed", type=int, help="only this one")
    arguments = parser.parse_args()
    failed = []
    for seed in [arguments.seed] if arguments.seed is not None else range(arguments.seeds):
        try:
            simulate(seed)
        except Exception as error:  # noqa: BLE001 - every kind of failure is reported, with its seed
            failed.append(seed)
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            sys.stdout.write(f"seed {seed}: {type(error).__name__}: {error} ({place})\n")
            if arguments.seed is not None:
                traceback.print_exc()
    sys.stdout.write(f"{len(failed)} failed: {failed}\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
