"""A shard's process, without a process: what is left of it where the disk fails between two turns."""

from __future__ import annotations

import errno
import select
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shards import shard as shards
from shards.journal import SqliteJournal
from shards.process import Stop
from shards.settings import ChannelSettings, ProviderSettings, ShardSettings
from shards.units import encode_hook
from shards.worker import Worker
from tests.unit.test_shard import SETTINGS

WEBHOOK = ChannelSettings((ProviderSettings("webhook"),))
ADDED = msgspec.structs.replace(SETTINGS, channels={**SETTINGS.channels, "webhook": WEBHOOK}, version=9)


class Asked(Stop):
    """Told to go by other settings, and to stop once it has a journal again."""

    def __init__(self, settings: ShardSettings) -> None:
        super().__init__()
        self.told: bytes | None = msgspec.json.encode(settings, enc_hook=encode_hook)

    def other_settings(self) -> bytes | None:
        told, self.told = self.told, None
        return told


def test_a_full_disk_while_the_first_real_channel_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("shards.worker.say", said.append)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    stop = Asked(ADDED)
    put_config, opened = SqliteJournal.put_config, shards.Shard.__init__

    def full(journal: SqliteJournal, *rest: Any) -> None:
        monkeypatch.setattr(SqliteJournal, "put_config", put_config)
        raise OSError(errno.ENOSPC, "no space left")

    def open_again(shard: shards.Shard, settings: ShardSettings, *rest: Any) -> None:
        opened(shard, settings, *rest)
        stop.requested = "webhook" in settings.channels

    worker = Worker(SETTINGS, stop)
    monkeypatch.setattr(SqliteJournal, "put_config", full)
    monkeypatch.setattr(shards.Shard, "__init__", open_again)
    worker.run()
    assert said == ["reloaded 9"]
    assert worker.shard
    assert worker.shard.courier


def test_a_signal_ends_a_poll_once() -> None:
    stop = Stop()
    poll = select.poll()
    poll.register(stop.bell, select.POLLIN)
    assert not poll.poll(0)
    stop.request(signal.SIGTERM, None)
    stop.request_reload(signal.SIGHUP, None)
    assert poll.poll(0)
    stop.bell.hear()
    assert not poll.poll(0)
    stop.bell.hear()
    assert stop.requested
