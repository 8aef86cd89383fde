"""The processes that submit the events of a simulation."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from dispatcher.simulation.plan import Plan, SimulationError
from dispatcher.simulation.producer import ProducerSettings, Totals
from dispatcher.simulation.service import Service
from shards.logs import LogSettings
from shards.process import handover

PROCESSES = 2


def start_producers(plan: Plan, service: Service, step: int) -> list[subprocess.Popen[bytes]]:
    count = min(PROCESSES, plan.producers)
    producers = []
    for process in range(count):
        settings = ProducerSettings(
            submit=service.submit,
            seed=plan.seed,
            events=plan.events,
            users=plan.users,
            producers=plan.producers,
            numbers=list(range(process, plan.producers, count)),
            duplicate_rate=plan.duplicate_rate,
            sample=step,
            batch=plan.batch,
        )
        producer = subprocess.Popen(
            [sys.executable, "-m", "dispatcher.simulation.producer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert producer.stdin is not None
        producer.stdin.write(handover(f"producer {process}", LogSettings(), msgspec.json.encode(settings)))
        producer.stdin.close()
        producers.append(producer)
    return producers


def totals(producer: subprocess.Popen[bytes]) -> Totals:
    assert producer.stdout is not None
    line = producer.stdout.readline()
    if not line.startswith(b"{"):
        raise SimulationError("a producer failed; its message is above")
    return msgspec.json.decode(line, type=Totals)
