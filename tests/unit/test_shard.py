"""A shard without its process: what it takes, starts and stores, turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards.changes import Now
from shards.retry import RetryPolicy
from shards.settings import Bounds, ChannelSettings, Idempotency, Priorities, Retention, ShardSettings
from shards.shard import OUTBOX_BYTES, Shard
from shards.units import Seconds
from shards.wire import INGEST, SUBMIT, Data, pack

SETTINGS = ShardSettings(
    shard=0,
    shards=1,
    path="shard-0.db",
    durability="process",
    incarnation=1,
    secret=1,
    categories={},
    rate_limits={},
    retry=RetryPolicy(max_retries=5, base=Seconds(1.0), jitter="none"),
    priorities=Priorities(),
    idempotency=Idempotency(),
    retention=Retention(),
    bounds=Bounds(),
    channels={"email": ChannelSettings(provider="simulated", failure_rate=1.0, latency=Seconds(0.0))},
)
Open = Callable[[ShardSettings, Now], Shard]


def at(second: int) -> Now:
    return Now(1_000.0 + second, 1_700_000_000_000_000 + second * 1_000_000)


@pytest.fixture
def open_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    monkeypatch.chdir(tmp_path)
    opened: list[Shard] = []

    def reopen(settings: ShardSettings, moment: Now) -> Shard:
        for shard in opened:
            shard.close()
        opened[:] = [Shard(settings, moment, {}, set())]
        return opened[0]

    yield reopen
    for shard in opened:
        shard.close()


def send(shard: Shard, n: int, moment: Now, *notifications: dict[str, Any], source: int = SUBMIT) -> None:
    shard.take([Data(1, 0, 1, n, source, moment.wall_us, False, pack(notifications))], moment)


def turn(shard: Shard, moment: Now) -> None:
    shard.core.refill(moment)
    shard.collect(moment)
    shard.core.wake(moment)
    shard.core.deliver_inapp(moment)
    shard.commit(moment)
    shard.start(moment)


def test_a_message_for_the_collector_is_bounded_in_bytes(open_shard: Open) -> None:
    shard = open_shard(SETTINGS, at(0))
    half = OUTBOX_BYTES // 2
    for n, size in enumerate((half, half, 3 * half, 10, 10), 1):
        send(shard, n, at(0), {"user_id": "ann", "title": "t" * size, "unknown": 1}, source=INGEST)
        turn(shard, at(0))
    counts = []
    while outbox := shard.outbox(at(0)):
        counts.append(len(outbox.items))
        shard.outbox_sent(outbox, at(0))
    assert counts == [1, 1, 1, 2]
