"""How close a channel gets to what its service takes, and how many attempts that costs."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest

from shards.breaker import PATIENCE_S
from shards.slowing import FIRST, FORGOTTEN_AT, GROWS_S, HALF, LESS, Slowing

PLACES = 64
STEP_S = 0.01


class Run(NamedTuple):
    taken: int
    refused: int


class Service:
    """It takes ``rate`` in any second, 0 for all; answers come ``took_s`` later. ``run`` has a backlog without end."""

    def __init__(self, rate: int, shards: int = 1, took_s: float = 0.05, asked_s: float = 0.0) -> None:
        self.rate = rate
        self.now = 1_000.0
        self.shards = [Slowing() for _ in range(shards)]
        self._took_s = took_s
        self._asked_s = asked_s
        self._recent: deque[float] = deque()
        self._answers: list[deque[tuple[float, bool]]] = [deque() for _ in range(shards)]

    def run(self, seconds: float) -> Run:
        taken = refused = 0
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            for shard, answers in zip(self.shards, self._answers, strict=True):
                ended = []
                while answers and answers[0][0] <= self.now:
                    ended.append(answers.popleft()[1])
                if ended:
                    no = ended.count(False)
                    shard.heed(len(ended), len(ended) - no, no, self._asked_s if no else 0.0, len(answers), self.now)
                    taken, refused = taken + len(ended) - no, refused + no
                count = min(PLACES - len(answers), shard.available(self.now))
                shard.spend(count, self.now)
                answers += [(self.now + self._took_s, self._takes()) for _ in range(count)]
        return Run(taken, refused)

    def _takes(self) -> bool:
        while self._recent and self._recent[0] <= self.now - 1.0:
            self._recent.popleft()
        if self.rate and len(self._recent) >= self.rate:
            return False
        self._recent.append(self.now)
        return True


def test_without_a_limit_nothing_is_slowed() -> None:
    service = Service(rate=0)
    assert service.run(5.0).taken > 5.0 * PLACES
    assert service.shards[0].next_at(service.now) is None


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("rate", [10, 50, 500])
def test_it_gets_close_to_what_a_service_takes_at_the_price_of_few_attempts(rate: int, shards: int) -> None:
    service = Service(rate, shards)
    first = service.run(10.0)
    assert first.refused <= shards * (PLACES + 5), "one wave, that nothing was known of"
    found = service.run(110.0)
    assert found.taken >= 0.7 * rate * 110
    assert found.refused <= 20 * shards + 0.005 * found.taken


def test_less_than_one_a_second_is_learned_as_well() -> None:
    service = Service(1, shards=4)
    service.run(30.0)
    found = service.run(90.0)
    assert found.taken >= 45
    assert found.refused <= 90


def test_a_limit_that_is_gone_is_forgotten() -> None:
    service = Service(10)
    service.run(60.0)
    assert service.shards[0].rate(service.now) < 20
    service.rate = 0
    service.run(1.5 * GROWS_S)
    assert service.shards[0].rate(service.now) > 40
    service.run(FORGOTTEN_AT * GROWS_S)
    assert service.shards[0].next_at(service.now) is None


def test_a_limit_that_falls_is_followed() -> None:
    service = Service(100)
    service.run(60.0)
    service.rate = 5
    service.run(20.0)
    found = service.run(60.0)
    assert found.taken >= 0.5 * 5 * 60
    assert found.refused <= 30


def test_what_was_under_way_slows_it_once() -> None:
    one = Slowing()
    one.heed(10, 10, 0, 0.0, 54, 1_000.0)
    one.heed(1, 0, 1, 0.0, 53, 1_000.1)
    rate = one.rate(1_000.1)
    assert rate == pytest.approx(10 * LESS)
    one.heed(53, 0, 53, 0.0, 0, 1_000.2)
    assert one.rate(1_000.2) == rate
    one.heed(2, 1, 1, 0.0, 0, 1_002.0)
    assert one.rate(1_002.0) == pytest.approx(rate * LESS, rel=0.01)
    one.heed(1, 0, 1, 0.0, 0, 1_004.0)
    assert one.rate(1_004.0) == pytest.approx(rate * LESS * HALF, rel=0.01), "nothing was taken"


@pytest.mark.parametrize(("asked_s", "waits_s"), [(0.0, PATIENCE_S), (7.0, 7.0), (3_600.0, 60.0)])
def test_nothing_starts_for_as_long_as_the_service_asks(asked_s: float, waits_s: float) -> None:
    one = Slowing()
    one.heed(1, 0, 1, asked_s, 0, 1_000.0)
    assert (one.next_at(1_000.0) or 0.0) >= 1_000.0 + waits_s
    assert one.available(1_000.0 + waits_s) == 0
    assert one.available(1_000.0 + waits_s + 1 / (HALF * FIRST)) == 1


def test_what_was_not_attempted_after_all_may_be_spent_again() -> None:
    one = Slowing()
    one.heed(1, 0, 1, 0.0, 0, 1_000.0)
    now = 1_001.0 + 1 / (HALF * FIRST)
    assert one.available(now) == 1
    one.spend(1, now)
    assert one.next_at(now) == pytest.approx(now + 1 / (HALF * FIRST), abs=0.01)
    one.refund(1, now)
    assert one.available(now) == 1
