"""The data directory: who may use it, and what is said of one that cannot be used."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatcher import data_directory
from dispatcher.data_directory import DataDirectory, Identity
from dispatcher.errors import BrokenError, StartError


def opened(path: Path, wanted: int | None = None) -> tuple[Identity, int]:
    directory = DataDirectory(path)
    with directory.lock():
        return directory.identity(wanted, lambda: False), directory.next_epoch()


def test_an_installation_keeps_its_identity_and_never_repeats_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "some" / "data"
    identity, first = opened(path, 3)
    assert identity.shards == 3
    assert path.stat().st_mode & 0o777 == 0o700
    ahead = first + 10**12  # the clock was wrong at that time
    (path / "epoch").write_text(str(ahead))
    assert opened(path) == (identity, ahead + 1)
    directory = DataDirectory(path)
    assert [directory.next_epoch(), directory.next_epoch()] == [ahead + 2, ahead + 3]
    assert abs(first - time.time() * 1e6) < 3600e6


def test_a_new_installation_has_four_shards_by_default(tmp_path: Path) -> None:
    assert opened(tmp_path)[0].shards == 4


def test_only_one_instance_at_a_time(tmp_path: Path) -> None:
    with (
        DataDirectory(tmp_path).lock(),
        pytest.raises(StartError, match="in use by another instance; stop it, or use another data_dir"),
        DataDirectory(tmp_path).lock(),
    ):
        pass
    opened(tmp_path)


def a_link(path: Path) -> None:
    path.with_name("real").mkdir()
    path.symlink_to("real")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def a_file(path: Path) -> None:
    path.write_text("")


def run_is_a_file(path: Path) -> None:
    path.mkdir()
    (path / "run").write_text("")


def lock_is_a_directory(path: Path) -> None:
    (path / "lock").mkdir(parents=True)


def identity(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "identity.json").write_bytes(content)

    return write


def epoch(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "epoch").write_bytes(content)

    return write


def epoch_is_a_directory(path: Path) -> None:
    (path / "epoch").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (a_link, "data is a symbolic link; name the directory itself as data_dir"),
        (a_link_to_nothing, "data is a symbolic link"),
        (a_file, "data: File exists; data_dir must be a directory of this user, who can write to it"),
        (run_is_a_file, "data: File exists; data_dir must be"),
        (lock_is_a_directory, "data: Is a directory; data_dir must be"),
        (identity(b""), r"identity.json is damaged \(Input data was truncated\); restore it from a backup"),
        (identity(b'{"shards":2'), "identity.json is damaged"),
        (identity(b"\xff\xfe"), "identity.json is damaged"),
        (identity(b'{"shards":0,"secret":1}'), r"identity.json is damaged \(Expected `int` >= 1 - at `\$.shards`\)"),
        (identity(b'{"shards":2}'), "identity.json is damaged"),
        (epoch(b""), "epoch is damaged .*; see that the clock of this machine is right, delete the file"),
        (epoch(b"\xff12"), "epoch is damaged"),
        (epoch_is_a_directory, "epoch: Is a directory; make it readable for this user"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(spoil: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    spoil(path)
    with pytest.raises(StartError, match=says) as raised:
        opened(path, 2)
    assert not isinstance(raised.value, BrokenError)
    assert str(path) in str(raised.value)


def test_a_place_where_nothing_can_be_made() -> None:
    with pytest.raises(
        StartError, match=r"/proc/dispatcher: .*; data_dir must be a directory of this user, who can write"
    ):
        opened(Path("/proc/dispatcher"))


def test_a_full_disk_is_no_wrong_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(data_directory, "write_durably", full)
    with pytest.raises(BrokenError, match="No space left on device; start again when that is mended"):
        opened(tmp_path)


def test_a_damaged_epoch_does_not_stop_a_running_service(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    first = directory.next_epoch()
    (tmp_path / "epoch").write_text("nonsense")
    assert directory.next_epoch() > first
    assert (tmp_path / "epoch").read_text().isdigit()
