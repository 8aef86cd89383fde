"""The shard core under faults: see ``simulator.py``. ``SIMULATION_SEEDS=2000`` runs more, from 0 on."""

from __future__ import annotations

import os

import pytest

from tests.simulation.simulator import simulate

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "60"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_invariants_hold_under_faults(seed: int) -> None:
    simulate(seed)


def test_a_seed_replays() -> None:
    first, second = simulate(3), simulate(3)
    assert first.crashes == second.crashes
    assert first.checker.view.words == second.checker.view.words


def test_the_faults_happen() -> None:
    """The simulation is worth something only if it reaches the rare states."""
    runs = [simulate(seed) for seed in range(12)]
    assert sum(run.crashes for run in runs) >= 12
    assert sum(run.epoch > 1 for run in runs) >= 4
    assert any(run.checker.revivals for run in runs)
    assert any(run.checker.view.pruned for run in runs)
