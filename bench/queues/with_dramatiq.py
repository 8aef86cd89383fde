"""Dramatiq: two worker processes of its default of 8 threads (https://dramatiq.io/guide.html)."""

from __future__ import annotations

import os
from importlib.metadata import version

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from bench.queues.sink import deliver

VERSION = f"Dramatiq {version('dramatiq')}"
WORKER = ("-m", "dramatiq", "bench.queues.with_dramatiq", "--processes", "2", "--threads", "8")
ACKNOWLEDGED = "after it has run"

broker: dramatiq.Broker = RedisBroker(url=os.environ["BENCH_REDIS"])  # type: ignore[no-untyped-call]  # theirs
dramatiq.set_broker(broker)
enqueue = dramatiq.actor(deliver).send
