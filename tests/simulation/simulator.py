"""Seeds of the simulation: ``python -m tests.simulation.simulator --seeds 3000``, or ``--seed 17`` for one again.

Everything is drawn from the seed, so a failing one replays, and says what came before its failure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from multiprocessing import get_context
from pathlib import Path

from tests.simulation.simulation import Simulation

PROGRESS_S = 10.0
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # real syncs are of no use here


def simulate(seed: int) -> Simulation:
    """Run one seed; ``AssertionError``, or whatever the product raises, if it fails: with its trace as a note."""
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=MEMORY) as directory:
        simulation = Simulation(seed, Path(directory))
        try:
            with simulation.world():
                simulation.run()
        except Exception as error:
            error.add_note("\n".join([f"seed {seed}; its last steps (monotonic s, wall ms):", *simulation.trace]))
            raise
    return simulation


def attempt(seed: int) -> tuple[int, str | None]:
    """The seed, and its failure if it has one."""
    try:
        simulate(seed)
    except Exception as error:  # noqa: BLE001 - every kind of failure is reported, with its seed
        where = traceback.extract_tb(error.__traceback__)[-1]
        notes = "\n".join(error.__notes__)
        return seed, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})\n{notes}"
    return seed, None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=60, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    only = arguments.seed
    seeds = range(arguments.first, arguments.first + arguments.seeds) if only is None else [only]
    failed: list[int] = []
    said_at = time.monotonic()
    with get_context("spawn").Pool(min(arguments.processes, len(seeds))) as pool:
        for done, (seed, failure) in enumerate(pool.imap_unordered(attempt, seeds), 1):
            if failure is not None:
                failed.append(seed)
                shown = failure if len(failed) == 1 or only is not None else failure.partition("\n")[0]
                sys.stdout.write(f"seed {seed}: {shown}\n")
            if time.monotonic() - said_at > PROGRESS_S:
                said_at = time.monotonic()
                sys.stderr.write(f"{done} of {len(seeds)} seeds, {len(failed)} failed\n")
    sys.stdout.write(f"{len(seeds)} seeds, {len(failed)} failed: {sorted(failed)}\n")
    if failed and only is None:
        sys.stdout.write(f"again, with its trace: python -m tests.simulation.simulator --seed {min(failed)}\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
