"""The README's terminals, drawn from the real programs: ``python -m tools.pictures [--events N]``.

Their figures are those of the machine it runs on: take a quiet one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading

from bench.load import Submitter
from dispatcher.simulation.workload import batches
from tests.support.service import ROOT, RunningDispatcher, wait_until
from tests.support.terminal import Terminal
from tools.terminal_picture import picture

IMAGES = ROOT / "docs" / "images"
COLUMNS, ROWS = 112, 60
WORKING_S = 600.0
PAUSE_S = 0.1  # between two batches
CONFIG = """
[categories.security]
channels = ["email", "sms", "push"]
[retry]
max_retries = 3
base = "1s"
[channels.email]
provider = "simulated"
failure_rate = 0.02
latency = "20ms"
[channels.push]
provider = "simulated"
failure_rate = 0.8
latency = "5ms"
[channels.sms]
provider = "simulated"
"""


def draw_simulation(events: int) -> None:
    with Terminal("simulate", "--events", str(events), columns=COLUMNS, rows=ROWS, environment=_shell()) as screen:
        if screen.ended(WORKING_S):
            raise SystemExit(screen.output)
        screen.frame()
        _write("simulate", screen, f"$ dispatcher simulate --events {events}")


def draw_top() -> None:
    """A dispatcher at work, with one channel that is paused and one that fails."""
    with RunningDispatcher(CONFIG) as service:
        service.request("channel.pause", channel="sms")
        ended = threading.Event()
        producer = threading.Thread(target=_produce, args=(service.submit, ended))
        producer.start()
        try:
            environment = _shell() | {"DISPATCHER_SUBMIT": service.submit}
            with Terminal("top", columns=COLUMNS, rows=ROWS, environment=environment) as screen:
                wait_until(lambda: _is_telling(screen.frame()), WORKING_S, "trouble on the screen")
                _write("top", screen, "$ dispatcher top")
        finally:
            ended.set()
            producer.join()


def _is_telling(lines: list[str]) -> bool:
    """Both channels are seen in trouble, and it has been so for a while."""
    words = [line.split() for line in lines]
    states = {row[0]: row[1] for row in words if len(row) > 2}
    has_run = any(row[1:3] == ["up", "0:00:20"] for row in words)
    return states.get("push") == "failing" and states.get("sms") == "paused" and has_run


def _produce(submit: str, ended: threading.Event) -> None:
    with Submitter(submit) as submitter:
        for producer in itertools.count():
            for batch in batches(1, producer, 10_000, 1_000, 0.01):
                submitter.submit([batch])
                if ended.wait(PAUSE_S):
                    return


def _shell() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("DISPATCHER_", "NO_COLOR"))}


def _write(name: str, screen: Terminal, title: str) -> None:
    path = IMAGES / f"{name}.svg"
    path.write_text(picture(screen.emulator, title))
    print(path.relative_to(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.pictures", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--events", type=int, default=1_000_000, help="of the simulation")
    chosen = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    draw_top()
    draw_simulation(chosen.events)


if __name__ == "__main__":
    main()
