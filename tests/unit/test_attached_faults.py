"""A shard, routers and workers that die, with messages between them that come late or not at all: by seeds."""

from __future__ import annotations

import random
from collections import Counter, deque
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.router.workers import Workers
from shards.wire.errors import Error, RequestError
from shards.wire.requests import WorkerCall
from shards.wire.workers import Offer, Work
from tests.unit.test_attached import ALONE, Rig

SEEDS = range(12)
STEPS = 250
ROUNDS_MAX = 400


class World:
    """One shard, one router at a time, and some workers. Time goes on in whole seconds."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        settings = msgspec.structs.replace(ALONE, retry=msgspec.structs.replace(ALONE.retry, max_retries=200))
        self.rig = Rig(settings)
        self.epoch = 0
        self.down: deque[Work] = deque()  # from router to shard
        self.up: deque[Offer] = deque()
        self.alive: set[bytes] = set()
        self.silent: set[bytes] = set()  # their ends have not been seen yet
        self.held: dict[bytes, list[dict[str, Any]]] = {}
        self.made: Counter[str] = Counter()
        self.names = 0
        self.router = self.new_router()

    def new_router(self) -> Workers:
        self.epoch += 1
        router = Workers(self.epoch, 1, self.send, self.answer)
        router.configure({"pager": 10.0})
        return router

    def send(self, shard: int, work: Work) -> bool:
        if self.chance.random() < 0.05:
            return False
        self.down.append(work)
        return True

    def answer(
        self, envelope: list[bytes], as_json: bool, seq: int | str | None, result: dict[str, Any] | Error
    ) -> bool:
        name = envelope[0]
        if name in self.alive and isinstance(result, dict):
            self.held[name] += result.get("deliveries", [])
        return name in self.alive or name in self.silent

    # --- what happens ------------------------------------------------------------------------------------------

    def submit(self) -> None:
        self.rig.submit(self.chance.randint(1, 8))

    def join(self) -> None:
        if len(self.alive) < 3:
            self.names += 1
            self.alive.add(b"w%d" % self.names)
            self.held[b"w%d" % self.names] = []

    def call(self, *, all_of_it: bool = False) -> None:
        for name in sorted(self.alive):
            if not all_of_it and self.chance.random() < 0.5:
                continue
            held = self.held[name]
            done = held if all_of_it else [one for one in held if self.chance.random() < 0.6]
            self.held[name] = [] if all_of_it else [one for one in held if one not in done]
            results = [self.result(one, all_of_it) for one in done]
            request = WorkerCall(
                "channel.attach", "pager", name.decode(), limit=self.chance.randint(0, 6), results=results
            )
            if all_of_it:
                request.limit = 6
            try:
                self.router.call([name, b""], False, request, self.now)
            except RequestError:  # the shard takes nothing now: asked again later
                self.held[name] += done

    def result(self, given: dict[str, Any], good: bool) -> dict[str, Any]:
        self.made[msgspec.msgpack.decode(given["delivery"])["id"]] += 1
        kind = "" if good else self.chance.choice(["", "", "", "transient", "returned"])
        return {"token": given["token"], **({"error_class": kind} if kind else {})}

    def leave(self) -> None:
        if self.alive:
            name = self.chance.choice(sorted(self.alive))
            self.alive.discard(name)
            how = self.chance.choice(["seen", "unseen", "detached"])
            if how == "unseen":
                self.silent.add(name)
            if how == "detached":
                call = WorkerCall("channel.detach", "pager", name.decode())
                self.router.call([name, b""], False, call, self.now)

    def kill_router(self) -> None:
        """What is on its way arrives as far as it was sent."""
        for queue in (self.down, self.up):
            for _ in range(self.chance.randint(0, len(queue))):
                queue.pop()
        self.router = self.new_router()

    def kill_shard(self) -> None:
        """Without an end in order; what was for it finds its successor."""
        self.rig.second += 1
        self.rig.reopen()
        if self.chance.random() < 0.7:
            self.up.clear()
        self.router.forget(0)

    # --- turns -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.rig.now.mono

    def turn(self) -> None:
        chance = self.chance
        heard = [self.down.popleft() for _ in range(chance.randint(0, len(self.down)))]
        offered = self.rig.turn_raw(*heard)
        if offered:
            self.up.append(Offer(0, "pager", offered))
        for _ in range(chance.randint(0, len(self.up))):
            self.router.offer(self.up.popleft())
        self.router.step(self.now)
        if chance.random() < 0.3:
            self.rig.second += chance.choice([1, 1, 2, 11])
            self.router.tick(self.now)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_made_and_nothing_stays_under_way(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = World(seed)
    events = [
        world.submit,
        world.join,
        world.call,
        world.call,
        world.call,
        world.leave,
        world.kill_router,
        world.kill_shard,
    ]
    weights = [4, 4, 8, 8, 8, 2, 1, 1]
    for _ in range(STEPS):
        world.chance.choices(events, weights)[0]()
        world.turn()
    world.alive = {b"good"}
    world.held = {b"good": []}
    world.silent.clear()
    for _ in range(ROUNDS_MAX):
        world.call(all_of_it=True)
        world.turn()
        if all(outcome == "delivered" for outcome, _ in world.rig.outcomes()):
            break
    assert Counter(outcome for outcome, _ in world.rig.outcomes()).keys() <= {"delivered"}
    assert len(world.made) == len(world.rig.outcomes())
    world.call(all_of_it=True)
    for _ in range(20):
        world.turn()
    channel = world.rig.shard.attached["pager"]
    assert (channel.next_due(), channel.credit.unclaimed, sum(world.rig.shard.core.in_flight)) == (None, 0, 0)
    world.rig.shard.close()
