"""What does a pending notification cost in memory? In the lanes, and where most of them wait on disk.

The lanes' figure is the growth of a shard's resident memory from one depth to three times that, with idempotency
entries bounded to a few, as ``bench.dedupe`` has those. The floor is a list of the same notifications, encoded.
"""

from __future__ import annotations

from typing import Any

from bench.load import Submitter
from bench.pending import batches, config
from bench.report import Figure, options, result, show
from shards.wire.encoding import pack
from tests.support.service import RunningDispatcher, wait_until

MIB = 2**20


def run(rounds: int = 1, pending: int = 200_000, on_disk: int = 1_000_000) -> dict[str, Any]:
    bare = sum(len(pack(one)) + 33 for batch in batches(0, 1_000) for one in batch) / 1_000  # 33: a bytes' own
    figures = []
    for _ in range(rounds):
        before, after = _growth(config(10 * pending, 1_000), pending // 2, pending)
        figures.append(Figure(f"in the lanes, {pending:,} pending", (after - before) / pending, bare, "bytes"))
    if on_disk:
        before, after = _growth(config(), 0, on_disk)
        figures += [
            Figure(f"default bounds, {on_disk:,} pending, keys too", (after - before) / on_disk, bare, "bytes"),
            Figure(f"the shard's resident memory, {on_disk:,} pending", after / MIB, before / MIB, "MiB"),
        ]
    return result("memory", rounds, figures, pending=pending, on_disk=on_disk)


def _growth(config: str, first: int, count: int) -> tuple[float, float]:
    """The shard's resident memory with ``first`` pending, and with ``count`` more."""
    with RunningDispatcher(config, shards=1) as dispatcher, Submitter(dispatcher.submit) as submitter:
        submitter.submit(batches(0, first))
        before = _resident(dispatcher, first)
        submitter.submit(batches(first, count))
        after = _resident(dispatcher, first + count)
        dispatcher.kill()  # what is under way would take an hour
    return before, after


def _resident(dispatcher: RunningDispatcher, pending: int) -> float:
    stats = wait_until(
        lambda: stats if (stats := dispatcher.request("stats"))["pending"] == pending else None, 30.0, "all are pending"
    )
    return float(stats["shards"][0]["rss_mb"]) * MIB


def main() -> None:
    chosen = options("bench.memory", __doc__, 1, pending=200_000, on_disk=1_000_000)
    show(run(chosen.rounds, chosen.pending, chosen.on_disk), chosen.json)


if __name__ == "__main__":
    main()
