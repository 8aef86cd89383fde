"""Where damaged journals are kept for a person to look at: a directory each, with a report of what was lost."""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

DIRECTORY = Path("quarantine")  # in the data directory, where every shard stands
UNFINISHED = ".unfinished"
REPORT = "report.json"


class Report(msgspec.Struct):
    """``gone`` counts deliveries by channel that are in no journal any more; ``lost`` says what could not be read."""

    journal: str
    at: str
    damage: str
    lost: list[str]
    gone: dict[str, int]
    frames: int  # kept
    pending: int  # deliveries kept that are not final
    notes: list[str]


class Case:
    """One damaged journal's place: ``keep`` its files, then ``close`` it with a report. Unclosed ones are deleted."""

    def __init__(self, journal: Path) -> None:
        for old in DIRECTORY.glob(f"{journal.name}-*{UNFINISHED}"):
            shutil.rmtree(old)
        moment = datetime.datetime.now(datetime.UTC)
        self.at = moment.isoformat(timespec="seconds")
        name = f"{journal.name}-{moment:%Y%m%dT%H%M%S.%fZ}"
        DIRECTORY.mkdir(mode=0o700, exist_ok=True)
        self.directory = DIRECTORY / name
        self.unfinished = DIRECTORY / (name + UNFINISHED)
        self.unfinished.mkdir(mode=0o700)

    def keep(self, files: Iterable[Path]) -> None:
        """As second names: the first ones are given up when what replaces them is ready."""
        for path in files:
            if path.exists():
                os.link(path, self.unfinished / path.name)

    def close(self, report: Report) -> None:
        text = msgspec.json.format(msgspec.json.encode(report), indent=2)
        (self.unfinished / REPORT).write_bytes(text + b"\n")
        self.unfinished.rename(self.directory)


def cases(shard: int, shards: int) -> list[str]:
    """What is kept of this shard's journals; the first shard answers for those that are no more."""
    found = []
    for path in sorted(DIRECTORY.glob("shard-*.db-*")):
        number = path.name.removeprefix("shard-").partition(".")[0]
        if number.isdecimal() and (int(number) == shard or (shard == 0 and int(number) >= shards)):
            found.append(str(path))
    return found
