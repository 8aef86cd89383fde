"""Channels of different tempers, simulated: healthy ones beside slow, failing and hanging ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from shards.answers import ErrorClass
from shards.frames import Entry, Frame, Run
from shards.sending import Advice, Failure, Results
from tests.simulation.trials import Trials

ERRORS: tuple[ErrorClass, ...] = (
    "transient", "throttled", "ambiguous", "misconfigured", "permanent", "bad_address",
)  # fmt: skip
HELD_S = (0.0, 1.0, 30.0)
ASKED_S = (0.0, 3.0, 20.0)


class Temper(NamedTuple):
    """How long attempts take, in seconds, and how many of them fail."""

    name: str
    durations_s: tuple[float, ...]
    failure: float


HEALTHY = Temper("healthy", (0.0,), 0.0)
TEMPERS = (
    HEALTHY,
    Temper("uneven", (0.0, 0.1, 2.0, 20.0), 0.2),
    Temper("slow", (2.0, 20.0, 60.0), 0.05),
    Temper("failing", (0.0, 0.1), 0.7),
    Temper("hanging", (100_000.0,), 0.0),
)


class TemperedChannel:
    """Attempts end later, in any order, and some of them fail."""

    def __init__(
        self,
        name: str,
        temper: Temper,
        random: Random,
        harmless: bool,
        trials: Trials,
        started: Callable[[str, Entry], None],
        reached: Callable[[str], None],
        untried: Callable[[Entry], None],
    ) -> None:
        self.name = name
        self.harmless = harmless
        self.temper = temper
        self.under_way: list[tuple[float, Entry]] = []
        self._random = random
        self._trials = trials
        self._started = started
        self._reached = reached
        self._untried = untried

    def start(self, runs: Sequence[Run], now: float) -> None:
        if not self.harmless:
            self._trials.begin(self.name, [(run.frame.seq, slot) for run in runs for slot in run.slots])
        self._reached(f"before a start of {self.name}")
        for run in runs:
            for at in range(len(run)):
                entry = run.entry(at)
                self._started(self.name, entry)
                if not self.harmless:
                    self._trials.start(self.name, entry)
                self.under_way.append((now + self._random.choice(self.temper.durations_s), entry))

    def collect(self, now: float) -> Results:
        ended = [entry for due, entry in self.under_way if due <= now]
        self.under_way = [(due, entry) for due, entry in self.under_way if due > now]
        self._random.shuffle(ended)
        delivered: dict[Frame, list[int]] = {}
        failed: list[Failure] = []
        held: list[tuple[Entry, float]] = []
        for entry in ended:
            if not self.harmless:
                self._trials.end(self.name, (entry[0].seq, entry[1]))
            if self._random.random() < self.temper.failure / 5:
                held.append((entry, now + self._random.choice(HELD_S)))
                self._untried(entry)
            elif self._random.random() < self.temper.failure:
                error_class = self._random.choice(ERRORS)
                advice = self._random.choice((None, Advice(self._random.choice(ASKED_S))))
                failed.append((entry, error_class, "as the simulation wants it", advice))
                if error_class == "misconfigured":
                    self._untried(entry)
            else:
                delivered.setdefault(entry[0], []).append(entry[1])
        return Results(list(delivered.items()), failed, held, slows=not self.harmless)

    def next_due(self) -> float | None:
        return min((due for due, _ in self.under_way), default=None)

    def recover(self) -> None:
        """From now on it is healthy, and what hung ends at once."""
        self.temper = HEALTHY
        self.under_way = [(0.0, entry) for _, entry in self.under_way]
