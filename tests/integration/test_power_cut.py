"""A power cut at any moment: with ``durability = "power"`` what a receipt named is there, whatever the drive's cache
has lost. The service's journals are recorded write by write, and rebuilt as a cut may leave them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

import pytest

from shards.journal import SqliteJournal
from shards.wire.ids import parse_id
from shards.wire.notification import CHANNELS
from tests.support.needs import needs
from tests.support.power.cut import Drive, build, records
from tests.support.service import RunningDispatcher

SUBMITS = 250
CUTS = 60
CONFIG = '[channels.email]\nprovider = "simulated"\n[channels.push]\nprovider = "simulated"\n'


class Receipt(NamedTuple):
    """``logged`` is the size of the log when it came: what was written until then had to be enough."""

    logged: int
    ids: list[str]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs(sys.platform == "linux" and shutil.which("cc"), "no C compiler")
    return build(tmp_path_factory.mktemp("recorder"))


def run_service(
    durability: Literal["power", "process"], log: Path, recorder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[Receipt]:
    """Submit under recording, then kill everything."""
    dispatcher = RunningDispatcher(CONFIG, shards=1, durability=durability)
    receipts: list[Receipt] = []
    random = Random(5)
    with monkeypatch.context() as environment:
        environment.setenv("LD_PRELOAD", str(recorder))
        environment.setenv("POWER_LOG", str(log))
        dispatcher.start()
    try:
        for number in range(SUBMITS):
            batch = [
                {"user_id": f"user-{random.randrange(50)}", "title": f"{number}/{at}", "category": "transaction"}
                for at in range(random.choice((1, 5, 40)))
            ]
            ids = dispatcher.client.submit(*batch)["ids"]
            receipts.append(Receipt(log.stat().st_size, ids))
    finally:
        dispatcher.kill()
        shutil.rmtree(dispatcher.directory, ignore_errors=True)
    return receipts


def lost_by_cuts(log: bytes, receipts: list[Receipt], directory: Path) -> int:
    """How many acknowledged notifications are lost in all of some random cuts."""
    random = Random(9)
    first = receipts[0].logged
    ends = [record.end for record in records(log) if record.end > first]
    cuts = set(random.sample(ends, CUTS))
    drive, lost = Drive(), 0
    for record in records(log):
        drive.play(record)
        if record.end not in cuts:
            continue
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        drive.cut(random, directory)
        acknowledged = [id for receipt in receipts if receipt.logged <= record.end for id in receipt.ids]
        lost += len(acknowledged) - found(directory / "shard-0.db", acknowledged)
    return lost


def found(path: Path, ids: list[str]) -> int:
    """How many of the ids the journal has; and it is in order."""
    journal = SqliteJournal(path, 0, 1, "power", CHANNELS)
    try:
        assert journal.database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        channels = journal.state.counters.channels
        finals = sum(sum(channel.outcomes) for channel in channels)
        assert sum(channel.planned for channel in channels) == finals + journal.ledgers.pending()
        places = [(generation, seq) for generation, _, seq, _ in map(parse_id, ids)]
        kept = {place for place in set(places) if place[0] == journal.generation and journal.frames.content(place[1])}
        return sum(place in kept for place in places)
    finally:
        journal.close()


@pytest.mark.timeout(120)
def test_a_power_cut_loses_nothing_that_was_acknowledged(
    tmp_path: Path, recorder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    receipts = run_service("power", log, recorder, monkeypatch)
    assert lost_by_cuts(log.read_bytes(), receipts, tmp_path / "after") == 0


@pytest.mark.timeout(120)
def test_without_syncs_the_same_cuts_lose_some(tmp_path: Path, recorder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can fail."""
    log = tmp_path / "log"
    receipts = run_service("process", log, recorder, monkeypatch)
    assert lost_by_cuts(log.read_bytes(), receipts, tmp_path / "after") > 0
