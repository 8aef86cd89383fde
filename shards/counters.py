"""The shard's totals. They are stored in the same transaction as what they count, and survive pruning."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shards.ledger import OUTCOMES


class ChannelCounters(msgspec.Struct, gc=False):
    """Of one channel: deliveries planned, by final outcome, attempts made, attempts that failed."""

    planned: int = 0
    attempts: int = 0
    failed_attempts: int = 0
    outcomes: list[int] = msgspec.field(default_factory=lambda: [0] * len(OUTCOMES))


class Counters(msgspec.Struct):
    """``channels`` is indexed by the journal's channel numbers; verdicts are counted per recipient."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    channels: list[ChannelCounters] = []
    dead_letters: dict[str, int] = {}  # by reason, as they stand now

    def finals(self, names: list[str]) -> Iterator[tuple[str, str, int]]:
        """``(channel, outcome, count)`` of everything that happened, for the collector's metrics."""
        for name, channel in zip(names, self.channels, strict=True):
            for outcome, count in zip(OUTCOMES, channel.outcomes, strict=True):
                yield name, outcome, count
            yield name, "planned", channel.planned
            yield name, "attempts", channel.attempts
            yield name, "failed_attempts", channel.failed_attempts


class Latencies:
    """How long deliveries took, in steps of 0.1 ms up to 1 s and 1 % steps above; bounded in size."""

    FINE_STEPS = 10_000

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._max_us = 0

    def add(self, elapsed_us: int, count: int) -> None:
        if elapsed_us < 0:
            elapsed_us = 0  # the clock went back
        if elapsed_us > self._max_us:
            self._max_us = elapsed_us
        step = elapsed_us // 100
        if step > self.FINE_STEPS:
            scale = 1 << max(0, step.bit_length() - 8)
            step = step // scale * scale
        self._counts[step] = self._counts.get(step, 0) + count

    def buckets(self) -> dict[int, int]:
        """Lower bound in units of 0.1 ms -> deliveries; buckets of several shards add up."""
        return self._counts

    @property
    def max_us(self) -> int:
        return self._max_us
