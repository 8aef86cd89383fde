"""Celery: two worker processes, no results, a prefetch for short tasks, no worker events.

https://docs.celeryq.dev/en/stable/userguide/optimizing.html
"""

from __future__ import annotations

import os
from importlib.metadata import version

from celery import Celery  # type: ignore[import-untyped]  # it has no types

from bench.queues.sink import deliver

VERSION = f"Celery {version('celery')}"
WORKER = (
    *("-m", "celery", "--app", "bench.queues.with_celery", "worker", "--pool", "prefork", "--concurrency", "2"),
    *("--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"),
)
ACKNOWLEDGED = "before it runs, and lost if the worker dies"

app = Celery("bench", broker=os.environ["BENCH_REDIS"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=64, broker_connection_retry_on_startup=True)
enqueue = app.task(deliver).delay
