"""Processes are killed under load, and every notification is accounted for: a short run of ``tests.chaos``."""

from __future__ import annotations

import pytest

from tests.chaos import Chaos, Plan


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_is_lost_or_doubled_by_kills() -> None:
    plan = Plan(kills=12, falls=1, seconds_max=20, shards=2, seed=11, rate=1_000, failure_rate=0.4)
    summary = Chaos(plan).run()
    assert summary["violations"] == []
    assert summary["kills"]["all"] == 1
    assert summary["kills"]["total"] >= 8, summary["kills"]  # fewer only where the machine is very slow
    assert summary["dead_letters"] > 0
    assert summary["inbox_items"] > 0
    assert summary["digests"] > 0
    assert summary["cancelled"] > 0
