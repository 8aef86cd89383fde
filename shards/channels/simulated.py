"""A channel that reaches nobody: seeded failures and latency, for simulations and benchmarks."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence

import msgspec
import xxhash

from shards import ledger
from shards.frames import Frame, Run
from shards.retry import DueHeap
from shards.sending import Failure, Results
from shards.units import Seconds

SCALE = 2**64


class SimulatedChannel:
    """An attempt's fate is a hash of (seed, key, channel, attempt): equal seeds give equal outcomes, in any order.

    ``latency`` is the mean; an attempt takes between none and twice of it. All that is started together ends
    together, as one batch would.
    """

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """``failure_rate`` is how many attempts fail, 0 to 1."""

        failure_rate: float = 0.0
        latency: Seconds = Seconds(0.0)
        seed: int = 0

        def __post_init__(self) -> None:
            if not 0 <= self.failure_rate <= 1:
                raise ValueError(f"failure_rate is {self.failure_rate}; it must be between 0 and 1")

    harmless = True

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._seed = settings.seed
        self._threshold = int(settings.failure_rate * SCALE)
        self._latency_s = settings.latency
        self._suffixes = [f":{name}:{attempt}" for attempt in range(256)]
        self._under_way: DueHeap[Sequence[Run]] = DueHeap()
        self._batch = 0

    def start(self, runs: Sequence[Run], now: float) -> None:
        self._batch += 1
        draw = xxhash.xxh3_64_intdigest(f"{self.name}\0{self._batch}".encode(), self._seed) / SCALE
        self._under_way.push(now + 2 * draw * self._latency_s, runs)

    def collect(self, now: float) -> Results:
        delivered: list[tuple[Frame, MutableSequence[int]]] = []
        failed: list[Failure] = []
        for runs in self._under_way.pop_due(now):
            for run in runs:
                slots = run.slots
                if self._threshold and (fails := self._fails(run)):
                    failed += [(run.entry(at), "transient", "simulated failure", None) for at in fails]
                    slots = [slot for at, slot in enumerate(slots) if at not in fails]
                if slots:
                    delivered.append((run.frame, slots))
        return Results(delivered, failed)

    def _fails(self, run: Run) -> set[int]:
        """The positions whose attempt fails."""
        threshold, seed, fate, suffixes = self._threshold, self._seed, xxhash.xxh3_64_intdigest, self._suffixes
        words, shift, unkeyed = run.frame.slots, ledger.ATTEMPTS_SHIFT, run.frame.seq
        return {
            at
            for at, (slot, key) in enumerate(zip(run.slots, run.keys, strict=True))
            if fate(f"{key or unkeyed}{suffixes[words[slot] >> shift]}".encode(), seed) < threshold
        }

    def next_due(self) -> float | None:
        return self._under_way.next_due()
