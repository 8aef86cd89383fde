"""Who gets the deliveries of attached channels, by a clock of ours, with shards and clients that only take notes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dispatcher.router.workers import QUEUE_BYTES_MAX, WORKERS_MAX, Workers
from shards.wire.encoding import pack
from shards.wire.errors import Error, RequestError
from shards.wire.requests import WorkerCall, WorkResult
from shards.wire.workers import Gone, Offer, Settled, Taken, Want, Work

RETURNED = WorkResult("", error_class="returned")
TIMEOUT_S = 10.0


class Router:
    """Two shards, and clients that are known by the first part of their envelope."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.sent: list[tuple[int, Work]] = []
        self.answers: dict[bytes, list[Any]] = {}
        self.silent: set[int] = set()  # shards that take nothing
        self.gone: set[bytes] = set()  # clients
        self.workers = Workers(7, 2, self._send, self._answer)
        self.workers.configure({"pager": TIMEOUT_S, "fax": TIMEOUT_S, "email": None})
        self.workers.step(self.now)

    def _send(self, shard: int, work: Work) -> bool:
        if shard not in self.silent:
            self.sent.append((shard, work))
        return shard not in self.silent

    def _answer(
        self, envelope: list[bytes], as_json: bool, seq: int | str | None, result: dict[str, Any] | Error
    ) -> bool:
        if envelope[0] not in self.gone:
            self.answers.setdefault(envelope[0], []).append(result)
        return envelope[0] not in self.gone

    def call(self, worker: str, limit: int = 1, wait_ms: int = 10_000, channel: str = "pager", **fields: Any) -> None:
        op = fields.pop("op", "channel.attach")
        request = WorkerCall(op, channel, worker, limit=limit, wait_ms=wait_ms, **fields)
        self.workers.call([worker.encode(), b""], False, request, self.now)

    def offer(self, shard: int, *numbers: int, document: Any = None) -> None:
        deliveries = [(number, msgspec.Raw(pack(document or {"title": str(number)}))) for number in numbers]
        self.workers.offer(Offer(shard, "pager", deliveries))

    def step(self, after_s: float = 0.0) -> list[tuple[int, Work]]:
        """What the shards hear."""
        self.now += after_s
        if after_s:
            self.workers.tick(self.now)
        self.workers.step(self.now)
        heard, self.sent = self.sent, []
        return heard

    def is_busy(self) -> bool:
        return self.workers.has_work

    def given(self, worker: str) -> list[str]:
        """The tokens of its last answer."""
        return [one["token"] for one in self.answers[worker.encode()][-1]["deliveries"]]


@pytest.fixture
def router() -> Router:
    found = Router()
    found.sent.clear()
    return found


def test_every_shard_hears_of_a_new_router() -> None:
    assert [(shard, work) for shard, work in Router().sent if work.channel == "pager"] == [
        (0, Want(7, "pager", 0, 0)),
        (1, Want(7, "pager", 0, 0)),
    ]


def test_the_shards_hear_of_a_channel_once_all_have_it(router: Router) -> None:
    """One that had not taken the new configuration when it was told has understood nothing."""
    router.call("a", 3)
    router.step()
    router.workers.configure({"pager": TIMEOUT_S, "fax": TIMEOUT_S, "email": None})
    assert [work for _, work in router.step() if work.channel == "pager"] == [Want(7, "pager", 3, 1)] * 2


def test_what_is_wanted_is_what_workers_have_room_for(router: Router) -> None:
    router.call("a", 3)
    router.call("b", 4)
    assert router.step() == [(0, Want(7, "pager", 7, 2)), (1, Want(7, "pager", 7, 2))]
    router.offer(1, 100, 101)
    heard = router.step()
    assert heard[:2] == [(1, Taken("pager", "a", [100])), (1, Taken("pager", "b", [101]))]
    assert heard[2:] == [(0, Want(7, "pager", 5, 2)), (1, Want(7, "pager", 5, 2))]
    assert router.given("a") == ["1-64"]
    assert router.step() == []


def test_a_delivery_is_taken_before_it_is_given(router: Router) -> None:
    router.call("a", 5)
    router.step()
    router.silent = {0}
    router.offer(0, 1)
    assert router.step() == []
    assert b"a" not in router.answers
    router.silent = set()
    assert router.step()[0] == (0, Taken("pager", "a", [1]))
    assert router.given("a") == ["0-1"]


@pytest.mark.parametrize(("limits", "shares"), [((10, 10), (10, 10)), ((30, 10), (15, 5)), ((1, 40), (1, 19))])
def test_shares_are_by_room(router: Router, limits: tuple[int, int], shares: tuple[int, int]) -> None:
    router.call("a", limits[0])
    router.call("b", limits[1])
    router.offer(0, *range(20))
    router.step()
    assert (len(router.given("a")), len(router.given("b"))) == shares


def test_what_came_first_goes_first(router: Router) -> None:
    router.offer(1, 5, 6)
    router.offer(0, 1)
    router.call("a", 2)
    router.step()
    assert router.given("a") == ["1-5", "1-6"]
    router.call("a", 2)
    router.step()
    assert router.given("a") == ["0-1"]


def test_a_call_that_waited_long_enough_is_answered(router: Router) -> None:
    router.call("a", wait_ms=500)
    router.step(0.4)
    assert b"a" not in router.answers
    router.step(0.2)
    assert router.answers[b"a"] == [{"deliveries": [], "rejected": [], "lease_ms": 30_000}]
    router.offer(0, 1)
    assert router.step() == []  # it waits for the worker's next call, which has room by its last word
    router.call("a", wait_ms=0)
    router.step()
    assert router.given("a") == ["0-1"]


def test_who_is_silent_for_its_lease_is_gone(router: Router) -> None:
    router.call("a", 5)
    router.offer(1, 1, 2, 3)
    router.step()
    router.call("a", 5, wait_ms=0, results=[{"token": "1-1"}])
    router.step()
    router.offer(0, 9)  # nobody has been given this
    router.step(TIMEOUT_S * 3 - 0.1)
    assert router.step(0.2) == [(0, Settled("pager", [(9, RETURNED)])), *wants(0, 0)]


def test_a_call_that_waits_keeps_its_worker(router: Router) -> None:
    router.call("a", wait_ms=30_000)
    router.step()
    assert router.step(29.0) == []
    router.step(1.5)
    assert router.step(TIMEOUT_S * 3) == wants(0, 0)


def test_a_worker_that_leaves_is_gone_for_the_shards_that_it_had_something_of(router: Router) -> None:
    router.call("a", 2)
    router.offer(1, 1, 2)
    router.step()
    router.call("a", 0, results=[{"token": "1-1"}])
    router.call("a", op="channel.detach")
    assert router.step() == [
        (1, Settled("pager", [(1, WorkResult("1-1"))])),
        (1, Gone("pager", "a")),
        *wants(0, 0),
    ]
    assert router.answers[b"a"][-1] == {"detached": True}
    router.call("a", op="channel.detach")
    assert router.answers[b"a"][-1] == {"detached": False}


def wants(count: int, workers: int) -> list[tuple[int, Work]]:
    return [(shard, Want(7, "pager", count, workers)) for shard in (0, 1)]


def test_a_client_that_is_gone_costs_no_attempt(router: Router) -> None:
    router.call("a", 5)
    router.gone.add(b"a")
    router.offer(0, 1, 2)
    assert router.step() == [
        (0, Taken("pager", "a", [1, 2])),
        (0, Settled("pager", [(1, RETURNED), (2, RETURNED)])),
        *wants(0, 1),
    ]


def test_a_newer_call_ends_the_older_one(router: Router) -> None:
    router.call("a", 5)
    router.call("a", 3)
    assert len(router.answers[b"a"]) == 1
    assert router.step() == wants(3, 1)


def test_a_shard_that_starts_anew_has_offered_nothing_and_heard_nothing(router: Router) -> None:
    router.call("a", 1)
    router.step()
    router.offer(0, 1, 2)
    router.offer(1, 3)
    router.step()
    assert router.given("a") == ["0-1"]
    router.workers.forget(0)
    assert (0, Want(7, "pager", 0, 1)) in router.step()
    router.call("a", 5)
    router.step()
    assert router.given("a") == ["1-3"]


def test_what_a_shard_does_not_take_is_said_again(router: Router) -> None:
    router.silent = {1}
    router.call("a", 1)
    assert router.step() == wants(1, 1)[:1]
    router.silent = set()
    assert router.step(0.1) == wants(1, 1)[1:]
    router.silent = {0}
    with pytest.raises(RequestError, match="shard 0 takes no results now"):
        router.call("a", results=[{"token": "0-1"}])


def test_nothing_more_is_wanted_with_much_in_hand(router: Router) -> None:
    router.call("a", 1_000)
    router.call("b", 1_000)
    router.step()
    router.call("a", 0)
    router.call("b", 0)
    router.step()
    large = "x" * (QUEUE_BYTES_MAX // 4)
    for number in range(5):
        router.offer(0, number, document=large)
    router.call("a", 1_000)
    router.call("a", 1_000, wait_ms=0)
    heard = router.step()
    assert router.given("a") == ["0-0"]  # an answer has at least one
    assert [work for _, work in heard if isinstance(work, Want)] == []
    router.call("a", 1_000)
    assert [work.count for _, work in router.step() if isinstance(work, Want)] == [999, 999]


def test_a_stop_gives_out_nothing_more_and_waits_for_results(router: Router) -> None:
    router.call("a", 2)
    router.call("b", 2)
    router.offer(0, 1)
    router.step()
    router.workers.close()
    router.offer(1, 2)
    router.step()
    assert len(router.answers[b"b"]) == 1
    assert router.is_busy()
    router.call("a", 2, results=[{"token": "0-1"}])
    assert not router.is_busy()
    assert router.given("a") == []


def test_a_stop_waits_no_longer_than_a_result_may_take(router: Router) -> None:
    router.call("a", 2)
    router.offer(0, 1)
    router.step()
    router.workers.close()
    router.step(TIMEOUT_S + 0.1)
    assert not router.is_busy()


def test_there_are_so_many_workers_of_a_channel(router: Router) -> None:
    for number in range(WORKERS_MAX):
        router.call(f"w{number}", 0)
    router.call("w0", 0)
    router.call("w0", 0, channel="fax")
    with pytest.raises(RequestError) as caught:
        router.call("one more", 0)
    assert caught.value.error.code == "too_many"


def test_channels_are_added_and_timeouts_change(router: Router) -> None:
    with pytest.raises(RequestError) as caught:
        router.call("a", channel="new")
    assert caught.value.error.code == "unknown_channel"
    router.workers.configure({"pager": 20.0, "new": 1.0})
    router.call("a", 0, channel="new")
    router.call("b", 0)
    assert [router.answers[name][-1]["lease_ms"] for name in (b"a", b"b")] == [3_000, 60_000]


def test_no_number_is_too_large_for_a_shard(router: Router) -> None:
    """JSON has integers of any size, MessagePack has not."""
    results = [{"token": "0-1", "error_class": "throttled", "retry_after_ms": number} for number in (10**20, 2**53, -1)]
    router.call("a", limit=0, results=results)
    rejected = router.answers[b"a"][-1]["rejected"]
    assert [(one["index"], one["error"].field) for one in rejected] == [
        (0, "results[0].retry_after_ms"),
        (2, "results[2].retry_after_ms"),
    ]
    assert [pack(work) for _, work in router.step() if isinstance(work, Settled)]
