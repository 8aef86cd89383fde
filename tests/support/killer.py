"""Ends a random process of a running dispatcher, without making its supervisor give up."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

ROLES = {"shards.worker": "shard", "dispatcher.router": "router", "dispatcher.collector": "collector"}
SHORT_LIFE_S = 11.0  # the supervisor counts starts that did not last 10 s
SHORT_LIVES_MAX = 5  # and gives up after 10 of them
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Killer:
    """Reads /proc, not ``stats``: so it also finds processes that are just starting, while nothing answers."""

    def __init__(self, supervisor: int, shards: int, chance: random.Random) -> None:
        self._supervisor = supervisor
        self._names = ["router", "collector", *(f"shard {number}" for number in range(shards))]
        self._chance = chance
        self._short_lives: dict[str, int] = {}

    def kill_one(self) -> str | None:
        """SIGKILL to one process: its role. None if it does not run, or has died too often just now; try again."""
        role = self._chance.choice(("router", "collector", "shard", "shard"))
        name = self._chance.choice([name for name in self._names if name.startswith(role)])
        pid = self.children().get(name)
        if pid is None:
            return None
        short = _age_s(pid) < SHORT_LIFE_S
        lives = self._short_lives.get(name, 0) + 1 if short else 1
        if lives > SHORT_LIVES_MAX:
            return None
        os.kill(pid, signal.SIGKILL)
        self._short_lives[name] = lives
        return role

    def children(self) -> dict[str, int]:
        """Process ids by name, of those that run."""
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) != self._supervisor or state == "Z":
                    continue
                module = (entry / "cmdline").read_bytes().split(b"\0")[2].decode()
                role = ROLES.get(module)
                name = _shard_name(entry) if role == "shard" else role
            except (OSError, IndexError):
                continue  # it ended while we looked, or is not there yet
            if name:
                found[name] = int(entry.name)
        return found


def _shard_name(process: Path) -> str | None:
    """Which shard a process is: the one whose journal it holds."""
    for descriptor in (process / "fd").iterdir():
        match = re.search(r"/shard-(\d+)\.db$", str(descriptor.readlink()))
        if match:
            return f"shard {match[1]}"
    return None


def _age_s(pid: int) -> float:
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / TICKS_PER_S
