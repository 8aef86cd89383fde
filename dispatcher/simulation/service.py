"""The dispatcher that a simulation runs, in a child process, with free ports of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket as sockets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dispatcher.client import Client
from dispatcher.simulation.plan import Plan, SimulationError

STOP_S = 45.0
SIMULATED_CONCURRENCY = 20_000


@contextlib.contextmanager
def running(plan: Plan, directory: Path, failure_rate: float) -> Iterator[Service]:
    service = Service(plan, directory, failure_rate)
    try:
        service.wait_ready()
        yield service
    finally:
        service.stop()


class Service:
    """``submit``, ``stream``: its endpoints; ``client`` asks it."""

    def __init__(self, plan: Plan, directory: Path, failure_rate: float) -> None:
        self.submit, self.stream = _free_endpoint(), _free_endpoint()
        config = directory / "simulate.toml"
        config.write_text(_config(plan, directory, self.submit, self.stream, failure_rate))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dispatcher", "serve", "--config", str(config)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self.client = Client(self.submit, timeout_s=30.0)

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise SimulationError("the service did not start; its message is above")

    def stats(self) -> dict[str, Any]:
        stats = self.client.request("stats")
        if stats["not_responding"]:
            raise SimulationError(f"no answer from {', '.join(stats['not_responding'])}; its messages are above")
        return stats

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def _free_endpoint() -> str:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def _config(plan: Plan, directory: Path, submit: str, stream: str, failure_rate: float) -> str:
    channels = "".join(
        f'[channels.{name}]\nprovider = "simulated"\nconcurrency = {SIMULATED_CONCURRENCY}\n'
        f"failure_rate = {failure_rate}\nseed = {plan.seed}\n"
        for name in ("email", "sms", "push")
    )
    return (
        '[log]\nlevel = "warning"\n'
        f'[dispatcher]\nshards = {plan.shards}\ndata_dir = "{directory / "data"}"\ndurability = "{plan.durability}"\n'
        f'submit = "{submit}"\nstream = "{stream}"\ningest = "{_free_endpoint()}"\nreceipt_timeout = "60s"\n'
        f'[retry]\nbase = "{plan.retry_base}"\nmax_retries = {plan.max_retries}\n'
        # the drawn preferences decide alone, in all four categories
        '[categories.security]\nchannels = ["email", "sms", "push"]\npriority = "critical"\n' + channels
    )
