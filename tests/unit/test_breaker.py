"""When a provider is left alone, and when it is tried again."""

from __future__ import annotations

from shards.breaker import ATTEMPTS_MIN, OPEN_S, PATIENCE_S, WINDOW_S, Breaker


def failed(times: int, now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(times):
        assert breaker.admits(now)
        breaker.begin()
        breaker.fail(now)
    return breaker


def test_few_failures_open_nothing() -> None:
    breaker = failed(ATTEMPTS_MIN - 1)
    assert breaker.admits(0.0)
    assert breaker.state(0.0) == "closed"


def test_seventy_percent_of_ten_attempts_open_it() -> None:
    for failures, state in ((6, "closed"), (7, "open")):
        breaker = Breaker()
        for _ in range(10 - failures):
            breaker.succeed(0.0)
        for _ in range(failures):
            breaker.fail(0.0)
        assert breaker.state(0.0) == state, failures


def test_failures_that_are_long_ago_do_not_count() -> None:
    breaker = failed(ATTEMPTS_MIN - 1)
    breaker.fail(WINDOW_S + 20)
    assert breaker.state(WINDOW_S + 20) == "closed"


def test_half_open_it_takes_one_attempt_at_a_time() -> None:
    breaker = failed(ATTEMPTS_MIN)
    assert not breaker.admits(OPEN_S - 0.1)
    assert breaker.next_at(1.0) == OPEN_S
    assert breaker.admits(OPEN_S)
    breaker.begin()
    assert not breaker.admits(OPEN_S)
    assert breaker.next_at(OPEN_S) == OPEN_S + PATIENCE_S
    breaker.fail(OPEN_S)
    assert breaker.state(OPEN_S + 1) == "open"
    assert breaker.admits(2 * OPEN_S)
    breaker.begin()
    breaker.succeed(2 * OPEN_S)
    assert breaker.state(2 * OPEN_S) == "closed"
    breaker.fail(2 * OPEN_S)
    assert breaker.admits(2 * OPEN_S), "what was before is forgotten"


def test_what_was_under_way_when_it_opened_does_not_close_it() -> None:
    """Of a service that fails mostly, something succeeds soon."""
    breaker = failed(ATTEMPTS_MIN)
    breaker.succeed(1.0)
    assert breaker.state(1.0) == "open"
    assert breaker.state(OPEN_S) == "half_open"


def test_a_throttled_provider_is_left_alone_as_long_as_it_asked_but_not_for_ever() -> None:
    for asked_s, waits_s in ((0.0, PATIENCE_S), (7.0, 7.0), (3_600.0, 60.0)):
        breaker = Breaker()
        breaker.fail(0.0, throttled=True, asked_s=asked_s)
        assert not breaker.admits(waits_s - 0.1)
        assert breaker.state(0.0) == "throttled"
        assert breaker.admits(waits_s)
        assert breaker.state(waits_s) == "closed"


def test_being_throttled_opens_it_only_if_it_happens_again_and_again() -> None:
    """What was under way with the first one says nothing new: the channel is slowed."""
    for alone, state in ((True, "throttled"), (False, "open")):
        breaker = Breaker(alone)
        for _ in range(ATTEMPTS_MIN):
            breaker.fail(0.0, throttled=True)
        assert breaker.state(0.0) == state
    breaker = Breaker()
    for second in range(ATTEMPTS_MIN):
        breaker.fail(second * PATIENCE_S, throttled=True)
    assert breaker.state(ATTEMPTS_MIN * PATIENCE_S) == "open"
