"""How long from the start of the command to ready, with much pending after a kill? Beside an interpreter and SQLite."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter
from typing import Any, Literal

from bench.load import Submitter
from bench.pending import batches, config
from bench.report import Figure, medians, options, result, show
from tests.support.service import RunningDispatcher

BARE = "import sqlite3; sqlite3.connect(':memory:').execute('CREATE TABLE one(two)')"


def run(
    rounds: int = 1, pending: int = 1_000_000, shards: int = 2, durability: Literal["power", "process"] = "process"
) -> dict[str, Any]:
    with RunningDispatcher(config(), shards=shards, durability=durability) as dispatcher:
        with Submitter(dispatcher.submit) as submitter:
            submitter.submit(batches(0, pending))
        seconds, floor = medians(rounds, lambda: _restart(dispatcher), _bare)
        found = dispatcher.request("stats")["pending"]
        dispatcher.kill()  # what is under way would take an hour
    figures = [Figure(f"killed to ready, {pending:,} pending", seconds, floor, "s")]
    return result("recovery", rounds, figures, pending=found, shards=shards, durability=durability)


def _restart(dispatcher: RunningDispatcher) -> float:
    dispatcher.kill()
    started = perf_counter()
    dispatcher.start()
    return perf_counter() - started


def _bare() -> float:
    started = perf_counter()
    subprocess.run([sys.executable, "-c", BARE], check=True)
    return perf_counter() - started


def main() -> None:
    chosen = options("bench.recovery", __doc__, 1, pending=1_000_000, shards=2, durability="process")
    show(run(chosen.rounds, chosen.pending, chosen.shards, chosen.durability), chosen.json)


if __name__ == "__main__":
    main()
