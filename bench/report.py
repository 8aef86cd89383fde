"""What all benchmarks share: figures beside their floor, their output, and a place on the disk."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """A measured value, and what the bare minimum took in the same run; ``ratio`` is value / floor."""

    name: str
    value: float
    floor: float | None
    unit: str

    @property
    def ratio(self) -> float | None:
        return round(self.value / self.floor, 3) if self.floor else None


def medians(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """Each measure's median over the rounds. They take turns, so that all see the same drift of the machine."""
    found: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for values, measure in zip(found, measures, strict=True):
            values.append(measure())
    return [statistics.median(values) for values in found]


def seconds(work: Callable[[], object]) -> float:
    """How long the work takes, without the collector of cycles."""
    gc.collect()
    gc.disable()
    try:
        started = perf_counter()
        work()
        return perf_counter() - started
    finally:
        gc.enable()


def result(bench: str, rounds: int, figures: list[Figure], **more: Any) -> dict[str, Any]:
    """The one JSON object of a benchmark."""
    return {
        "bench": bench,
        "rounds": rounds,
        "figures": [{**msgspec.to_builtins(figure), "ratio": figure.ratio} for figure in figures],
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        **more,
    }


def options(module: str, doc: str | None, rounds: int, **sizes: float | str) -> argparse.Namespace:
    """The command line: ``--json``, ``--rounds``, and the sizes with their defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(doc or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    parser.add_argument("--rounds", type=int, default=rounds)
    for name, default in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    end_in_order()
    return parser.parse_args()


def end_in_order() -> None:
    """SIGTERM unwinds, so that no service outlives its benchmark."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    for figure in found["figures"]:
        beside = f"  floor {short(figure['floor']):>10}  ratio {figure['ratio']:.3g}" if figure["floor"] else ""
        print(f"{figure['name']:<46} {short(figure['value']):>10} {figure['unit']:<10}{beside}")


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


@contextlib.contextmanager
def disk_directory() -> Iterator[Path]:
    """A directory of our own on the disk: /tmp is often in memory."""
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp" if Path("/var/tmp").is_dir() else None))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def quantile(sorted_values: list[float], share: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]
