"""What does it cost to queue a delivery? The lanes' push and pop, in batches of 500 and singly, at several depths."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from bench.report import Figure, medians, options, result, seconds, show
from shards.lanes import NotificationQueue

BATCH = 500
NORMAL = 1
STEP_S = 1e-4  # the clock goes on, so that ages are marked as in service


def run(rounds: int = 5, items: int = 500_000, depth_max: int = 1_000_000) -> dict[str, Any]:
    figures = []
    for depth in (1, 1_000, 1_000_000):
        if depth > depth_max:
            continue
        queue: NotificationQueue[int] = NotificationQueue()
        queue.push_many(range(depth), NORMAL, 0.0)
        bare = deque(range(depth))
        batched, batched_floor, single, single_floor = medians(
            rounds,
            partial(_ns, items, partial(_batches, queue, items)),
            partial(_ns, items, partial(_bare_batches, bare, items)),
            partial(_ns, items, partial(_singles, queue, items)),
            partial(_ns, items, partial(_bare_singles, bare, items)),
        )
        figures += [
            Figure(f"push_many and pop_many of {BATCH}, depth {depth:,}", batched, batched_floor, "ns/item"),
            Figure(f"push and pop, depth {depth:,}", single, single_floor, "ns/item"),
        ]
    return result("queue", rounds, figures, items=items)


def _ns(items: int, work: partial[None]) -> float:
    return seconds(work) / items * 1e9


def _batches(queue: NotificationQueue[int], items: int) -> None:
    batch = list(range(BATCH))
    for now in range(items // BATCH):
        queue.push_many(batch, NORMAL, now * STEP_S)
        queue.pop_many(BATCH, now * STEP_S)


def _bare_batches(queue: deque[int], items: int) -> None:
    batch = list(range(BATCH))
    for _ in range(items // BATCH):
        queue.extend(batch)
        _ = [queue.popleft() for _ in range(BATCH)]


def _singles(queue: NotificationQueue[int], items: int) -> None:
    push, pop = queue.push, queue.pop
    for item in range(items):
        push(item, NORMAL, 1.0)
        pop(1.0)


def _bare_singles(queue: deque[int], items: int) -> None:
    append, popleft = queue.append, queue.popleft
    for item in range(items):
        append(item)
        popleft()


def main() -> None:
    chosen = options("bench.queue", __doc__, 5, items=500_000, depth_max=1_000_000)
    show(run(chosen.rounds, chosen.items, chosen.depth_max), chosen.json)


if __name__ == "__main__":
    main()
