"""What is to be simulated, and what is wrong when it cannot be."""

from __future__ import annotations

import msgspec

from dispatcher.simulation.workload import BATCH
from shards.units import Seconds


class SimulationError(Exception):
    """The simulation could not be carried through: the message says where it stood."""


class Plan(msgspec.Struct, frozen=True):
    """The command line's options."""

    events: int = 1_000_000
    users: int = 10_000
    producers: int = 100
    shards: int = 4
    failure_rate: float = 0.1
    duplicate_rate: float = 0.01
    retry_base: Seconds = Seconds(0.05)
    max_retries: int = 3
    durability: str = "power"
    seed: int = 1
    batch: int = BATCH
