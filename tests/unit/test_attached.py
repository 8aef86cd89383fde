"""What a shard does for the workers of an attached channel, turn by turn, with a router that is this test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shards import ledger, unpacking
from shards.changes import Now
from shards.settings import ATTACHED, ChannelSettings, ProviderSettings
from shards.shard import Shard
from shards.units import Seconds
from shards.wire.encoding import pack
from shards.wire.link import SUBMIT, Ask, Data, Ping
from shards.wire.requests import Request, WorkResult
from shards.wire.workers import Gone, Settled, Taken, Want, Work
from tests.unit.test_shard import SETTINGS, at

TIMEOUT_S = 10
PAGER = ChannelSettings((ProviderSettings(ATTACHED),), concurrency=5, timeout=Seconds(TIMEOUT_S))
ALONE = msgspec.structs.replace(SETTINGS, channels={"pager": PAGER})
HELD = msgspec.structs.replace(ALONE, channels={"pager": msgspec.structs.replace(PAGER, on_ambiguous="hold")})
TAKEN = WorkResult("")


class Rig:
    def __init__(self, settings: Any = ALONE) -> None:
        self.settings = settings
        self.second = 0
        self.clock_s: float | None = None  # the monotonic one, if it is not with the other
        self.frames = 0
        self.coming: list[Data | Ping | Ask] = []  # in the next turn
        self.shard = Shard(settings, self.now, set())

    @property
    def now(self) -> Now:
        moment = at(self.second)
        return moment if self.clock_s is None else moment._replace(mono=self.clock_s)

    def submit(self, count: int, **fields: Any) -> None:
        self.frames += 1
        documents = [
            {"user_id": "u", "title": f"t{number}", "channels": ["pager"], **fields} for number in range(count)
        ]
        data = Data(1, 0, 1, self.frames, SUBMIT, self.now.wall_us, False, pack(documents))
        self.coming.append(data)

    def turn(self, *heard: Work) -> dict[int, str]:
        """Numbers and titles of what is handed over in it."""
        return {number: msgspec.msgpack.decode(document)["title"] for number, document in self.turn_raw(*heard)}

    def turn_raw(self, *heard: Work) -> list[tuple[int, msgspec.Raw]]:
        shard, now = self.shard, self.now
        shard.core.refill(now)
        shard.take(self.coming, now)
        self.coming = []
        for message in heard:
            shard.hear(message, now)
        shard.collect(now)
        shard.core.wake(now)
        shard.commit(now)
        shard.start(now)
        found: list[tuple[int, msgspec.Raw]] = []
        channel = shard.attached["pager"]
        while offer := channel.offer():
            found += offer
            channel.offered(len(offer))
        return found

    def reopen(self) -> None:
        self.shard.close()
        self.shard = Shard(self.settings, self.now, set())

    def outcomes(self) -> list[tuple[str, int]]:
        """Of all deliveries: outcome and attempts."""
        words = [
            word
            for seq in range(1, self.frames + 1)
            if (row := self.shard.journal.frames.get(seq))
            for word in (
                self.shard.core.frames[seq].slots if seq in self.shard.core.frames else ledger.words(row.slots)
            )
        ]
        return [(ledger.OUTCOMES[ledger.outcome_of(word)], ledger.attempts_of(word)) for word in words]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.chdir(tmp_path)
    found = Rig()
    yield found
    found.shard.close()


def want(count: int, workers: int = 1, epoch: int = 1) -> Want:
    return Want(epoch, "pager", count, workers)


def settled(*numbers: int, **fields: Any) -> Settled:
    return Settled("pager", [(number, WorkResult("", **fields)) for number in numbers])


def test_nothing_is_handed_over_that_is_not_wanted(rig: Rig) -> None:
    rig.submit(10)
    assert rig.turn() == {}
    assert rig.shard.core.pause_of(rig.shard.journal.channel_names.index("pager"))
    assert list(rig.turn(want(2)).values()) == ["t0", "t1"]
    assert rig.turn(want(2)) == {}  # these two are not with a worker yet
    assert list(rig.turn(want(3)).values()) == ["t2"]
    assert rig.outcomes() == [("pending", 0)] * 10


def test_what_is_taken_makes_room_up_to_the_concurrency(rig: Rig) -> None:
    rig.submit(10)
    first = rig.turn(want(3))
    assert len(rig.turn(Taken("pager", "w", list(first)))) == 2
    assert rig.turn(settled(*first)) != {}
    assert rig.outcomes()[:4] == [("delivered", 1)] * 3 + [("pending", 0)]


def test_a_result_of_a_number_that_is_not_known_means_nothing(rig: Rig) -> None:
    rig.submit(1)
    (number,) = rig.turn(want(1))
    rig.turn(settled(number - 1, number + 1, 0), Taken("pager", "w", [number + 1]), Gone("pager", "other"))
    assert rig.outcomes() == [("pending", 0)]
    rig.turn(settled(number, number))
    rig.turn(settled(number, error_class="permanent"))
    assert rig.outcomes() == [("delivered", 1)]
    assert rig.shard.core.in_flight == [0] * len(rig.shard.core.in_flight)


def test_a_bug_in_making_a_delivery_ready_ends_its_attempt_and_not_the_shard(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(unpacking, "unpack", lambda *_: 1 / 0)
        rig.submit(1)
        assert rig.turn(want(2)) == {}
        rig.turn()
        assert rig.outcomes() == [("retrying", 1)]
    rig.second = 60
    (number,) = rig.turn()
    rig.turn(settled(number))
    assert rig.outcomes() == [("delivered", 2)]


def test_the_timeout_runs_from_the_worker_on(rig: Rig) -> None:
    rig.submit(2)
    first, second = rig.turn(want(2))
    rig.second = 100
    rig.turn(Taken("pager", "w", [first]))
    rig.second += TIMEOUT_S - 1
    rig.turn()
    assert rig.outcomes() == [("pending", 0)] * 2
    rig.second += 1
    assert rig.shard.attached["pager"].next_due() == rig.now.mono
    rig.turn()
    assert rig.outcomes() == [("retrying", 1), ("pending", 0)]
    rig.turn(settled(first), settled(second))  # one of them too late
    assert rig.outcomes() == [("retrying", 1), ("delivered", 1)]


def test_what_a_worker_had_that_is_gone_is_tried_again(rig: Rig) -> None:
    rig.submit(2)
    first, second = rig.turn(want(2))
    rig.turn(Taken("pager", "a", [first]), Taken("pager", "b", [second]), Gone("pager", "a"), want(0))
    assert rig.outcomes() == [("retrying", 1), ("pending", 0)]
    rig.second += 5
    assert list(rig.turn(want(1)).values()) == ["t0"]


def test_what_is_returned_is_as_it_was(rig: Rig) -> None:
    rig.submit(3)
    numbers = list(rig.turn(want(2)))
    again = rig.turn(settled(*numbers, error_class="returned"), want(3))
    assert list(again.values()) == ["t0", "t1", "t2"]
    assert not again.keys() & set(numbers)
    assert rig.outcomes() == [("pending", 0)] * 3


def test_whom_a_worker_cannot_reach_is_suppressed(rig: Rig) -> None:
    rig.submit(1)
    rig.turn(settled(*rig.turn(want(1)), error_class="no_contact"))
    assert rig.outcomes() == [("suppressed", 0)]


def test_of_a_new_router_nothing_is_known_that_was_with_the_old_one(rig: Rig) -> None:
    rig.submit(5)
    first, second = rig.turn(want(2))
    rig.turn(want(1), Taken("pager", "w", [first]))
    assert len(rig.turn(want(2, epoch=2))) == 2  # what the old one may have lost is not in the new one's way
    rig.turn(want(5, epoch=1))  # of a router that is no more
    rig.turn(settled(second))  # its results count
    rig.second += TIMEOUT_S
    rig.turn(want(0, epoch=2))
    assert rig.outcomes() == [("retrying", 1), ("delivered", 1), ("pending", 0), ("pending", 0), ("pending", 0)]


def test_who_gives_what_the_old_router_had_gives_it_anew(rig: Rig) -> None:
    rig.submit(1)
    (number,) = rig.turn(want(1))
    rig.turn(want(1, epoch=2))
    rig.second += TIMEOUT_S - 1
    rig.turn(Taken("pager", "w", [number]))
    rig.second += TIMEOUT_S - 1
    rig.turn(settled(number))
    assert rig.outcomes() == [("delivered", 1)]


def test_numbers_are_never_used_again(rig: Rig) -> None:
    rig.submit(3)
    before = rig.turn(want(3))
    rig.second += 1
    rig.reopen()
    after = rig.turn(want(3))
    assert after.keys().isdisjoint(before)
    rig.turn(settled(*before, error_class="permanent"))
    assert rig.outcomes() == [("pending", 0)] * 3


def test_numbers_are_not_used_again_after_a_reboot(rig: Rig) -> None:
    """Workers on other machines still have what they were given; the monotonic clock begins anew."""
    rig.submit(1)
    rig.turn()
    rig.clock_s = 20.0  # the service starts as long after each boot
    rig.reopen()
    before = rig.turn(want(1))
    rig.second += 60
    rig.reopen()
    after = rig.turn(want(1))
    rig.turn(settled(*before))
    assert rig.outcomes() == [("pending", 0)]
    rig.turn(settled(*after))
    assert rig.outcomes() == [("delivered", 1)]


@pytest.mark.parametrize(("before", "after"), [(HELD, ALONE), (ALONE, HELD)])
def test_what_is_under_way_may_see_another_policy(rig: Rig, before: Any, after: Any) -> None:
    """Nothing stays marked as under way: the next process would suspect it, and its place would be lost."""
    rig.shard.reconfigure(before, rig.now)
    rig.submit(5)
    numbers = rig.turn(want(5))
    rig.shard.reconfigure(after, rig.now)
    rig.turn(settled(*numbers))
    assert rig.outcomes() == [("delivered", 1)] * 5
    assert rig.shard.marks.found() == []


def test_at_the_end_what_never_left_is_as_it_was(rig: Rig) -> None:
    rig.submit(2)
    first, _ = rig.turn(want(2))
    rig.turn(want(1), Taken("pager", "w", [first]))
    rig.submit(1)
    rig.turn()  # commits it
    rig.shard.hear(want(3), rig.now)
    rig.shard.start(rig.now)
    rig.shard.attached["pager"].give_up()
    rig.turn()
    assert rig.outcomes() == [("retrying", 1), ("retrying", 1), ("pending", 0)]


def test_where_twice_is_worse_a_gone_worker_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rig = Rig(HELD)
    rig.submit(1)
    rig.turn(Taken("pager", "w", list(rig.turn(want(1)))), Gone("pager", "w"))
    assert rig.outcomes() == [("dead", 1)]
    rig.shard.close()


def test_status_says_what_it_waits_for(rig: Rig) -> None:
    rig.submit(1, idempotency_key="k")
    rig.turn()

    def reason() -> Any:
        request = Request("status", user_id="u", idempotency_key="k")
        return rig.shard.operations.answer(request, rig.now)["deliveries"][0]["reason"]

    assert reason() == "no_worker"
    rig.shard.pauses.pause("pager", rig.now)
    assert reason() == "channel_paused"
    rig.shard.pauses.resume("pager")
    rig.turn(want(0, workers=1))
    assert reason() is None
