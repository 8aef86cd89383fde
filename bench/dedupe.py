"""What does an idempotency key cost, in time and in memory? Beside a bare dict of the keys themselves."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

from bench.report import Figure, medians, options, result, seconds, show
from shards.dedupe import IdempotencySet

BATCH = 500


def run(rounds: int = 3, entries: int = 1_000_000) -> dict[str, Any]:
    users = [f"user-{number % 10_000}" for number in range(entries)]
    keys = [f"0-{number}" for number in range(entries)]
    value, floor = medians(
        rounds, lambda: _ns(entries, _claims(users, keys)), lambda: _ns(entries, _bare_claims(users, keys))
    )
    size, bare_size = _bytes(_claims(users, keys)) / entries, _bytes(_bare_claims(users, keys)) / entries
    return result(
        "dedupe",
        rounds,
        [
            Figure("digest and claim a new key", value, floor, "ns/item"),
            Figure("memory of a key", size, bare_size, "bytes"),
        ],
        entries=entries,
    )


def _ns(entries: int, work: Callable[[], object]) -> float:
    return seconds(work) / entries * 1e9


def _claims(users: list[str], keys: list[str]) -> Callable[[], IdempotencySet]:
    def work() -> IdempotencySet:
        found = IdempotencySet(1)
        for at in range(0, len(users), BATCH):
            found.claim(found.digests(users[at : at + BATCH], keys[at : at + BATCH]), at)
        return found

    return work


def _bare_claims(users: list[str], keys: list[str]) -> Callable[[], dict[str, int]]:
    def work() -> dict[str, int]:
        found: dict[str, int] = {}
        claim = found.setdefault
        for at in range(0, len(users), BATCH):
            _ = [
                claim(f"{user}\0{key}", at)
                for user, key in zip(users[at : at + BATCH], keys[at : at + BATCH], strict=True)
            ]
        return found

    return work


def _bytes(work: Callable[[], object]) -> int:
    """What the work's result holds."""
    tracemalloc.start()
    try:
        kept = work()
        size = tracemalloc.get_traced_memory()[0]
        del kept
        return size
    finally:
        tracemalloc.stop()


def main() -> None:
    chosen = options("bench.dedupe", __doc__, 3, entries=1_000_000)
    show(run(chosen.rounds, chosen.entries), chosen.json)


if __name__ == "__main__":
    main()
