"""Huey: two worker processes, no results, no periodic tasks (https://huey.readthedocs.io/en/latest/consumer.html)."""

from __future__ import annotations

import os
from importlib.metadata import version

from huey import RedisHuey  # type: ignore[import-untyped]  # it has no types

from bench.queues.sink import deliver

VERSION = f"Huey {version('huey')}"
WORKER = (
    *("-m", "huey.bin.huey_consumer", "bench.queues.with_huey.huey"),
    *("--workers", "2", "--worker-type", "process", "--no-periodic", "--quiet"),
)
ACKNOWLEDGED = "before it runs, and lost if the worker dies"

huey = RedisHuey("bench", url=os.environ["BENCH_REDIS"], results=False)
enqueue = huey.task()(deliver)
