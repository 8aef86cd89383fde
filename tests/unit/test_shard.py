"""A shard without its process: what it takes, starts and stores, turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shards import ledger, meter
from shards.changes import Now
from shards.marks import Marks
from shards.retry import RetryPolicy
from shards.settings import Bounds, Idempotency, Priorities, Retention, ShardSettings
from shards.shard import OUTBOX_BYTES, Shard
from shards.units import Seconds
from shards.wire.encoding import pack
from shards.wire.link import INGEST, SUBMIT, Data
from shards.wire.requests import Request
from tests.support.simulated import simulated

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
    channels={"email": simulated(failure_rate=1.0)},
)
EMAIL = 0
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
        opened[:] = [Shard(settings, moment, set())]
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


def words(shard: Shard, seq: int) -> list[int]:
    row = shard.journal.frames.get(seq)
    assert row is not None
    return list(ledger.words(row.slots))


def test_why_it_cannot_be_opened_is_said_as_it_is(open_shard: Open, tmp_path: Path) -> None:
    (tmp_path / "shard-0.marks").mkdir()
    with pytest.raises(IsADirectoryError):
        open_shard(SETTINGS, at(0))


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


def test_templates_that_take_long_share_a_turn(open_shard: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten in one frame, each turn renders so many as together take what one of them may take."""
    monkeypatch.setattr(meter, "STEPS_MAX", 1_000)
    slow = {"t": {"title": "{% for n in range(payload.rounds) %}{{ n }}{% endfor %}"}}
    shard = open_shard(msgspec.structs.replace(SETTINGS, templates=slow), at(0))
    said = {"template": "t", "channels": ["inapp"]}
    rounds = [100] * 6 + [10_000] + [1] * 3
    send(shard, 1, at(0), *({**said, "user_id": "ann", "payload": {"rounds": each}} for each in rounds))
    more, taken = True, []
    while more:
        shard.core.refill(at(0))
        more = shard.core.deliver_inapp(at(0))
        shard.commit(at(0))
        taken.append(sum(shard.core.counters.channels[shard.core.inapp].outcomes))
    assert taken == [3, 6, 7, 10]
    assert [ledger.outcome_of(value) == ledger.DEAD for value in words(shard, 1)] == [each > 100 for each in rounds]
    inbox = shard.operations.answer(Request("inbox.list", user_id="ann"), at(0))
    assert [item["payload"]["rounds"] for item in inbox["items"]] == [100] * 3  # a page is bounded in the same way
    inbox = shard.operations.answer(Request("inbox.list", user_id="ann", cursor=inbox["next"]), at(0))
    assert [item["cursor"] for item in inbox["items"]] == [4, 5, 6]


def test_a_retry_on_a_channel_that_is_no_more_becomes_a_dead_letter(open_shard: Open) -> None:
    shard = open_shard(SETTINGS, at(0))
    send(shard, 1, at(0), {"user_id": "ann", "title": "hello", "channels": ["email"]})
    turn(shard, at(0))
    turn(shard, at(0))
    assert len(shard.core.retrying[EMAIL]) == 1
    shard = open_shard(msgspec.structs.replace(SETTINGS, channels={}), at(1))
    turn(shard, at(3))
    assert [ledger.outcome_of(value) for value in words(shard, 1)] == [ledger.DEAD]
    ((_, _, letter),) = shard.journal.dead.find({}, 10)
    assert (letter.reason, letter.attempts) == ("channel_not_configured", 1)
    shard = open_shard(SETTINGS, at(4))
    assert shard.operations.answer(Request("dead.replay"), at(4)) == {"count": 1}
    turn(shard, at(4))
    assert shard.core.in_flight[EMAIL] == 1


@pytest.mark.parametrize(("seq", "slot"), [(1, 7), (2, 0), (2**63, 0)])
def test_a_damaged_page_of_marks_names_no_suspects(open_shard: Open, seq: int, slot: int) -> None:
    shard = Shard(SETTINGS, at(0), set())
    send(shard, 1, at(0), {"user_id": "ann", "title": "hello", "channels": ["email"]})
    turn(shard, at(0))
    shard.close()
    marks = Marks(Path("shard-0.marks"), 1)
    marks.start(seq, [slot], alone=False)
    marks.close()
    assert not open_shard(SETTINGS, at(1)).found_suspects


def test_what_changes_in_this_turn_was_updated_now(open_shard: Open) -> None:
    """The answer leaves after the commit, so its time is the commit's."""
    shard = open_shard(SETTINGS, at(0))
    later = {"send_at": at(100).wall_us // 1000, "expires_at": at(1).wall_us // 1000}
    send(shard, 1, at(0), {"user_id": "ann", "title": "t", "channels": ["email"], "idempotency_key": "k", **later})
    turn(shard, at(0))
    turn(shard, at(0))
    shard.core.release(at(2))
    shard.core.refill(at(2))
    shard.start(at(2))
    (delivery,) = shard.operations.answer(Request("status", user_id="ann", idempotency_key="k"), at(2))["deliveries"]
    assert (delivery["outcome"], delivery["updated_at"]) == ("expired", at(2).wall_us // 1000)
