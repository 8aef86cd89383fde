"""Runs every benchmark small, each in its own process, so that none of them rots; for figures run each alone."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from typing import Any

from bench.report import show
from tests.support.service import ROOT

SMALL: dict[str, list[str]] = {
    "queue": ["--items", "100000", "--rounds", "3"],
    "wire": ["--items", "20000"],
    "limiter": ["--items", "100000", "--keys", "10000", "--rounds", "1"],
    "dedupe": ["--entries", "100000", "--rounds", "1"],
    "journal": ["--items", "10000", "--rounds", "1"],
    "templates": ["--items", "500", "--rounds", "1"],
    "latency": ["--rate", "1000", "--duration-s", "1"],
    "memory": ["--pending", "20000", "--on-disk", "0"],
    "broadcast": ["--users", "10000", "--duration-s", "1"],
    "http_clients": ["--requests", "640", "--rounds", "1"],
    "hot_user": ["--rate", "1000", "--duration-s", "1"],
    "isolation": ["--rate", "20", "--duration-s", "1"],
    "backlog": ["--pending", "50000", "--criticals", "20"],
    "recovery": ["--pending", "50000"],
    "scheduled": ["--items", "20000", "--lead-s", "15", "--duration-s", "1"],
    "email": ["--mails", "1000", "--rounds", "1"],
    "webhooks": ["--webhooks", "1000", "--rounds", "1"],
    "library": ["--events", "20000", "--singles", "2000", "--rounds", "1"],
    "end_to_end": [
        "--shards",
        "2",
        "--durability",
        "process",
        "--batch",
        "500",
        "--events",
        "50000",
        "--ingest",
        "10000",
    ],
}
if shutil.which("redis-server"):
    SMALL["others"] = ["--tasks", "100", "--ours", "1000", "--steady", "10", "--queues", "huey", "--redis", "everysec"]
EACH_S = 60.0


def run(names: list[str]) -> dict[str, Any]:
    return {name: _run_one(name) for name in names}


def _run_one(name: str) -> dict[str, Any]:
    started = time.monotonic()
    command = [sys.executable, "-m", f"bench.{name}", *SMALL[name], "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            output, _ = process.communicate(timeout=EACH_S)
        except subprocess.TimeoutExpired:
            process.terminate()  # it stops what it has started
            raise SystemExit(f"bench.{name} takes more than {EACH_S:g} s") from None
    if process.returncode:
        raise SystemExit(f"bench.{name} failed; its message is above")
    return {**json.loads(output), "elapsed_s": round(time.monotonic() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.all", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SMALL)}; all if none is given")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - SMALL.keys():
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    found = run(chosen.names or list(SMALL))
    if chosen.json:
        print(json.dumps(found))
        return
    for name, one in found.items():
        print(f"\n{name} ({one['elapsed_s']} s)")
        show(one, as_json=False)


if __name__ == "__main__":
    main()
