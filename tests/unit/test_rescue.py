"""Any bit of a journal may flip, and any tail may be missing: it is noticed, and all else is kept."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tarfile
from array import array
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from shards import disk, ledger
from shards.changes import Changes, Dead, Now
from shards.counters import ChannelCounters
from shards.frames import Frame, NewFrame
from shards.inbox import Inbox
from shards.journal import SqliteJournal, witness_path
from shards.preferences import UserDocument
from shards.quarantine import DIRECTORY, Report
from shards.rescue import rescue
from shards.retry import RetryPolicy
from shards.schema import DamagedError
from shards.scrub import Scrub
from shards.settings import (
    Bounds,
    Idempotency,
    Priorities,
    Retention,
    ShardSettings,
)
from shards.shard import Shard
from shards.wire.encoding import pack
from shards.wire.ids import hash_user, make_id
from shards.wire.outbox import DeadLetter
from tests.support.logs import captured_logs
from tests.support.simulated import simulated

FIXTURES = Path(__file__).parent.parent / "fixtures"
FRAMES = 150
PER_FRAME = 6
FLIPS = 60
CUTS = 25
NOW = Now(1_000.0, 1_700_000_000_000_000)

SETTINGS = ShardSettings(
    shard=0,
    shards=1,
    path="shard-0.db",
    durability="power",
    incarnation=1,
    secret=1,
    categories={},
    rate_limits={},
    retry=RetryPolicy(),
    priorities=Priorities(),
    idempotency=Idempotency(),
    retention=Retention(),
    bounds=Bounds(),
    channels={"email": simulated()},
)


def user(number: int) -> str:
    return f"user-{number % 7}"


def write(path: Path) -> None:
    """A journal with something in every table, some of it only in the log."""
    journal = SqliteJournal(path, 0, 1, "power", SETTINGS.channel_names())
    inbox = Inbox(journal.path, journal.database)
    state = journal.state
    state.counters.channels = [ChannelCounters() for _ in journal.channel_names]
    email, inapp = state.counters.channels[0], state.counters.channels[3]
    for seq in range(1, FRAMES + 1):
        if seq == FRAMES * 2 // 3:
            journal.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        changes = Changes()
        changes.frames = [frame(seq)]
        journal.begin()
        state.last = seq
        email.planned += PER_FRAME
        inapp.planned += PER_FRAME
        inapp.outcomes[ledger.DELIVERED] += PER_FRAME
        if seq % 10 == 0:
            letter_id = make_id(journal.generation, hash_user(user(0)), seq, 0)
            letter = DeadLetter(letter_id, user(0), "email", "system", "permanent", "permanent", "no", 1, 5, b"{}")
            changes.dead = [Dead(seq, 0, letter)]
            changes.frames[0].slots[0] = ledger.word(0, 1, ledger.DEAD)
            changes.frames[0].open -= 1
            email.outcomes[ledger.DEAD] += 1
            state.counters.dead_letters["permanent"] = state.counters.dead_letters.get("permanent", 0) + 1
        journal.record(changes, 5)
        entries = array("q")
        for index in range(PER_FRAME):
            number = hash_user(user(index))
            entries.extend((number - 2**64 if number >= 2**63 else number, seq << 16 | index))
        inbox.append(entries)
        journal.users.put(f"known-{seq}", UserDocument(locale="de"))
        journal.save_state()
        journal.commit()
    # the process is killed: nothing is checkpointed, the log stays
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{path}{suffix}.kept")
    shutil.copy(witness_path(path), f"{witness_path(path)}.kept")
    journal.close()
    for suffix in ("", "-wal"):
        Path(f"{path}{suffix}.kept").rename(f"{path}{suffix}")
    Path(f"{witness_path(path)}.kept").rename(witness_path(path))


def frame(seq: int) -> Frame:
    slots = array("I", [ledger.word(0, 1), ledger.word(3, 1, ledger.DELIVERED)] * PER_FRAME)
    one = Frame(seq, 1_000 + seq, slots, bytes([2] * PER_FRAME))
    one.open = one.active = PER_FRAME
    one.mask = ledger.lane_bit(1)
    body = pack([{"user_id": user(index), "title": f"{seq}-{index}", "body": "x" * 40} for index in range(PER_FRAME)])
    one.new = NewFrame(0, False, body)
    return one


class Content(NamedTuple):
    """All that a journal holds, as far as anybody could tell a difference."""

    frames: dict[int, tuple[Any, ...]]
    users: dict[str, Any]
    dead: dict[tuple[int, int], Any]
    inbox: dict[int, list[tuple[int, int]]]


def content(path: Path) -> Content:
    """As the shard opens it; raises where it does."""
    journal = SqliteJournal(path, 0, 1, "power", SETTINGS.channel_names())
    try:
        Scrub(path, journal.database).step(2**40)
        run = journal.database.execute
        inbox = Inbox(journal.path, journal.database)
        hashes = {hash_user(user(index)) for index in range(7)}
        signed = [number - 2**64 if number >= 2**63 else number for number in hashes]
        return Content(
            {seq: tuple(journal.frames.get(seq) or ()) for (seq,) in run("SELECT seq FROM frames")},
            {row[0]: journal.users.get(row[0]) for row in run("SELECT user_id FROM users")},
            {(seq, slot): letter for seq, slot, letter in journal.dead.find({}, 10_000)},
            {number: inbox.places(number, 0, 10_000) for number in signed},
        )
    finally:
        journal.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / SETTINGS.path
    write(path)
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / SETTINGS.path


def restore(original: Path, path: Path) -> None:
    for name in (path.name, path.name + "-wal", witness_path(path).name):
        path.with_name(name).unlink(missing_ok=True)
        shutil.copy(original.with_name(name), path.with_name(name))
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1 << bit,)))


def damage_of(path: Path) -> str | None:
    """What opening and reading it says; None if it is as it was."""
    try:
        content(path)
    except (sqlite3.Error, DamagedError) as error:
        if not disk.is_damage(error):
            raise
        return str(error)
    return None


def report() -> Report:
    (case,) = DIRECTORY.iterdir()
    return msgspec.json.decode((case / "report.json").read_bytes(), type=Report)


def rescued(path: Path, damage: str) -> Content:
    rescue(SETTINGS, damage)
    found = content(path)
    shard = Shard(SETTINGS, NOW, ())
    for channel in shard.stats(NOW)["channels"].values():
        assert channel["planned"] >= 0
    total = sum(counters.planned - sum(counters.outcomes) for counters in shard.core.counters.channels)
    assert total == shard.journal.ledgers.pending(), "conserved"
    assert shard.stats(NOW)["quarantined"] == [str(case) for case in DIRECTORY.iterdir()]
    shard.close()
    return found


def test_any_flipped_bit_is_noticed_and_the_rest_is_kept(original: Path, path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    restore(original, path)
    expected = content(path)
    noticed = 0
    kept = []
    for number in range(FLIPS):
        restore(original, path)
        victim = path if number % 2 else path.with_name(path.name + "-wal")
        at, bit = chance.randrange(victim.stat().st_size), chance.randrange(8)
        flip(victim, at, bit)
        case = f"seed {seed}, flip {number}: bit {bit} of byte {at} of {victim.name}"
        damage = damage_of(path)
        if damage is None:
            restore(original, path)
            flip(victim, at, bit)
            assert content(path) == expected, f"{case} is not noticed"
            continue
        noticed += 1
        restore(original, path)
        flip(victim, at, bit)
        found = rescued(path, damage)
        for name in ("frames", "users", "dead"):
            part, before = getattr(found, name), getattr(expected, name)
            assert part.items() <= before.items(), f"{case}: something came up that was never written"
        kept.append(len(found.frames) / FRAMES)
        if len(found.frames) < FRAMES:
            assert report().lost or report().notes, f"{case}: it does not say what is lost"
    assert noticed > FLIPS // 2
    assert sum(kept) / len(kept) > 0.6, kept


def test_a_damaged_first_page_costs_nothing(original: Path, path: Path) -> None:
    """Of a journal that was closed: of others, the log has that page."""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    restore(original, path)
    expected = content(path)
    clean = path.read_bytes()
    for number in range(FLIPS):
        at, bit = chance.randrange(100 if number % 3 == 0 else 4096), chance.randrange(8)

        def damage(at: int = at, bit: int = bit) -> None:
            restore(original, path)
            path.with_name(path.name + "-wal").unlink()
            path.write_bytes(clean)
            flip(path, at, bit)

        damage()
        noticed = damage_of(path)
        if noticed is not None:
            damage()
            found = rescued(path, noticed)
            case = f"seed {seed}: bit {bit} of byte {at}: {noticed}"
            assert (found.frames, found.users, found.dead) == (expected.frames, expected.users, expected.dead), case


def test_any_cut_tail_is_noticed(original: Path, path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    restore(original, path)
    expected = content(path)
    for number in range(CUTS):
        restore(original, path)
        victim = path if number % 2 else path.with_name(path.name + "-wal")
        size = chance.randrange(victim.stat().st_size)
        os.truncate(victim, size)
        damage = damage_of(path)
        restore(original, path)
        os.truncate(victim, size)
        if damage is None:  # at the end of a page that the log has as well
            assert content(path) == expected, f"seed {seed}: {victim.name} cut to {size} is not noticed"
            continue
        found = rescued(path, damage)
        assert found.frames.items() <= expected.frames.items()
        assert report().lost or report().notes, f"seed {seed}: {victim.name} cut to {size}: what is lost is not said"


@pytest.mark.parametrize("known", [1, 2, 3])
def test_a_journal_of_an_older_format_is_rescued_whole(known: int, path: Path) -> None:
    with tarfile.open(FIXTURES / f"format-{known}.tar.xz") as archive:
        archive.extractall(path.parent, filter="data")
    for file in path.parent.glob(f"format-{known}/shard-0.*"):
        file.rename(path.parent / file.name)
    before = rows(path)
    rescue(msgspec.structs.replace(SETTINGS, shards=2), "somebody says so")
    assert rows(path) == before
    assert not report().lost


def rows(path: Path) -> dict[str, int]:
    """How many there are of what every format has in one table."""
    with closing(sqlite3.connect(path)) as database:
        tables = ("frames", "ledger", "users", "dead")
        return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def test_a_missing_journal_is_an_empty_one_and_said_loudly(original: Path, path: Path) -> None:
    restore(original, path)
    path.unlink()
    damage = damage_of(path)
    assert damage is not None
    assert "missing" in damage
    path.unlink(missing_ok=True)
    with captured_logs() as lines:
        found = rescued(path, damage)
    assert not found.frames
    assert any("150 frames, are gone" in line.get("what", "") for line in lines)
    assert "nothing of it can be read" in report().notes


def test_the_damaged_files_are_kept_as_they_were(original: Path, path: Path) -> None:
    restore(original, path)
    flip(path.with_name(path.name + "-wal"), 50_000, 3)
    names = (path.name, path.name + "-wal", witness_path(path).name)
    before = [path.with_name(name).read_bytes() for name in names]
    rescue(SETTINGS, "a test")
    (case,) = DIRECTORY.iterdir()
    assert [(case / name).read_bytes() for name in names] == before
    assert case.stat().st_mode & 0o777 == 0o700
    assert "transactions" in " ".join(report().notes)


def test_a_rescue_that_fails_changes_nothing(original: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restore(original, path)
    before = {one.name: one.read_bytes() for one in path.parent.iterdir() if one.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("shards.target.Target.finish", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
        with pytest.raises(OSError, match="no space"):
            rescue(SETTINGS, "a test")
    assert {one.name: one.read_bytes() for one in path.parent.iterdir() if one.is_file()} == before
    assert not list(DIRECTORY.iterdir())


@pytest.mark.parametrize("left", ["shard-0.db-wal", "shard-0.witness"])
def test_a_rescue_that_is_cut_short_loses_nothing(
    original: Path, path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Killed while it removes what is left of the damaged journal, whose last commits were only in the log."""
    restore(original, path)
    expected = content(path)
    restore(original, path)
    unlink = Path.unlink

    def killed(victim: Path, missing_ok: bool = False) -> None:
        if victim.name == left:
            raise KeyboardInterrupt
        unlink(victim, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            rescue(SETTINGS, "a test")
    assert content(path) == expected
    assert len(list(DIRECTORY.iterdir())) == 1
