"""The shard under faults: see ``simulation.py``. ``SIMULATION_SEEDS=2000`` runs more, from 0 on."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from shards.tables.outbox import OutboxTable
from tests.simulation.simulation import Simulation
from tests.simulation.simulator import simulate

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "60"))
GROUP = 10
RARE = (
    "cancelled",
    "cancelled under way",
    "released after send_at",
    "released after quiet_hours",
    "released after limit",
    "released after retry",
    "deferred across a crash",
    "digests sent",
    "digests of several frames",
    "digests across a crash",
    "digests full",
    "empty digests",
    "items cancelled",
    "rate_limited by cap",
    "rate_limited by limit",
    "delayed by a limit",
    "moved to the inbox",
    "joined by overflow",
    "waited for an endpoint on disk",
)


@pytest.fixture(scope="module")
def reached() -> Counter[str]:
    """What the seeds of this run came to."""
    return Counter()


@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_invariants_hold_under_faults(first: int, reached: Counter[str]) -> None:
    for seed in range(first, min(first + GROUP, SEEDS)):
        _count(simulate(seed), reached)


def _count(run: Simulation, reached: Counter[str]) -> None:
    reached["crashes"] += run.crashes
    reached["stalls"] += run.stalls
    reached["refused"] += sum(submission.is_unjudgeable for submission in run.stored.entered.values())
    reached["poison"] += len(run.trials.poison_starts)
    reached["on trial"] += run.trials.alone.total()
    reached["routers"] += run.epoch > 1
    reached["failed statements"] += run.disk.failed
    reached["answers"] += run.asking.answered
    reached["receipts"] += len(run.receipts.all)
    reached["replays"] += run.stored.revivals.total()
    reached["pruned"] += len(run.stored.pruned)
    reached["cancelled"] += run.asking.cancelled
    reached["cancelled under way"] += run.asking.under_way
    for model in (run.checker.waiting, run.checker.windows, run.checker.spending):
        reached.update(model.reached)
    reached["hanging beside others"] += "hanging" in {temper.name for temper in run.tempers.values()}


def test_the_faults_happened(reached: Counter[str]) -> None:
    """The simulation is worth something only if it reaches the rare states."""
    if not reached:
        pytest.skip("no seed was run beside this test")
    for name in ("crashes", "failed statements", "answers", "receipts", "pruned", "on trial"):
        assert reached[name] >= SEEDS, reached
    for name in ("stalls", "refused", "poison"):
        assert reached[name] >= SEEDS // 2, reached
    for name in RARE:
        assert reached[name] >= max(1, SEEDS // 10), (name, reached)
    assert reached["replays"] >= SEEDS // 4, reached
    assert reached["routers"] >= SEEDS // 4, reached
    assert reached["hanging beside others"] >= SEEDS // 8, reached


def test_a_seed_replays() -> None:
    first, second = simulate(3), simulate(3)
    assert first.crashes == second.crashes
    assert first.trace == second.trace
    assert first.stored.words == second.stored.words


def test_a_failure_says_its_seed_and_its_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OutboxTable, "trim", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as raised:
        simulate(0)
    assert "its last steps" in raised.value.__notes__[0]
    assert raised.value.__notes__[0].endswith("turn")
