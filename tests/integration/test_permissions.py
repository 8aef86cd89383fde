"""What the service writes is for its user alone, whatever the umask, and whatever was there before."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from tests.support.needs import needs
from tests.support.service import ROOT, RunningDispatcher, wait_until

FILES = {"identity.json", "epoch", "lock", "collector.db", "shard-0.db", "shard-0.db-wal"}
SOCKETS = {"control-0", "router", "collector", "shard-0"}


def open_to_others(directory: Path) -> dict[str, str]:
    """The paths below that others may read, write or enter, with their modes."""
    found = [directory, *directory.rglob("*")]
    modes = {str(path.relative_to(directory.parent)): stat.S_IMODE(path.lstat().st_mode) for path in found}
    return {path: f"{mode:04o}" for path, mode in modes.items() if mode & 0o077}


def test_everything_is_for_this_user_alone_under_any_umask() -> None:
    service = RunningDispatcher(shards=1, umask=0)
    service.data_dir = service.directory / "new" / "data"
    endpoints = service.directory / "public"
    endpoints.mkdir()
    text = service.config_file.read_text()
    for name in ("ingest", "submit", "stream"):
        text = text.replace(getattr(service, name), f"ipc://{endpoints / name}")
        setattr(service, name, f"ipc://{endpoints / name}")
    service.config_file.write_text(text)
    with service:
        service.client.submit({"user_id": "ada", "title": "x"})
        service.ingested(b"not a notification")
        wait_until(lambda: service.request("stats")["collector"]["dead_letters"])
        written = {path.name for path in service.data_dir.rglob("*")}
        assert written >= FILES | SOCKETS, written
        assert open_to_others(service.data_dir.parent) == {}
        assert {path.name for path in endpoints.iterdir()} == {"ingest", "submit", "stream"}
        assert all(path.stat().st_mode & 0o077 == 0 for path in endpoints.iterdir())
        service.stop()
        assert open_to_others(service.data_dir) == {}


def test_a_directory_that_was_open_is_closed_with_a_warning() -> None:
    service = RunningDispatcher(shards=1)
    (service.data_dir / "run").mkdir(parents=True)
    service.data_dir.chmod(0o755)
    with service:
        assert open_to_others(service.data_dir) == {}
        opened = {
            line["directory"]: line["mode"]
            for line in service.events()
            if line["event"].startswith("was open to other users")
        }
        assert opened[str(service.data_dir)] == "0755"


def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    needs(os.geteuid() == 0, "only root can give a directory to another user")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    os.chown(data_dir, 65_534, 65_534)
    assert refusal(data_dir) == f"{data_dir}: it belongs to user 65534"
    assert not list(data_dir.iterdir())


def test_a_shared_directory_is_refused_and_stays_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert refusal(tmp_path) == f"{tmp_path}: it is a symbolic link, or shared like /tmp"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


def test_a_directory_within_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(0o700)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere").chmod(0o755)  # whatever the umask
    (tmp_path / "data" / "run").symlink_to(tmp_path / "elsewhere")
    assert "it is a symbolic link" in refusal(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o755


def refusal(data_dir: Path) -> str:
    """What the service says that must not start there, without the remedy."""
    ended = subprocess.run(
        [sys.executable, "-m", "dispatcher", "serve", "--data-dir", str(data_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    said, remedy = ended.stderr.removeprefix("error: ").split("; ")
    assert remedy == "data_dir must be a directory of this user, who can write to it\n"
    return said
