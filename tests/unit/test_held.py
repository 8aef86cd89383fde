"""What was not attempted after all: it goes first, in its old order, and has used up nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from shards.frames import Entry, Run
from shards.sending import Results
from shards.settings import ChannelSettings, ProviderSettings
from tests.support.world import World


class Hands:
    """A channel whose attempts end when the test says so."""

    name = "email"
    harmless = True

    def __init__(self) -> None:
        self.started: list[Entry] = []
        self._ended: list[Results] = []

    def start(self, runs: Sequence[Run], now: float) -> None:
        self.started += [run.entry(at) for run in runs for at in range(len(run))]

    def collect(self, now: float) -> Results:
        return self._ended.pop(0)

    def next_due(self) -> float | None:
        return 0.0 if self._ended else None

    def refuse(self, entry: Entry) -> None:
        self._ended.append(Results([], [(entry, "misconfigured", "no", None)]))

    def hold(self, *entries: Entry, until: float) -> None:
        self._ended.append(Results([], [], [(entry, until) for entry in entries]))

    def miss(self, entry: Entry) -> None:
        self._ended.append(Results([], [], [], [entry]))


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., tuple[World, Hands]]]:
    made: list[World] = []

    def begin(**changes: Any) -> tuple[World, Hands]:
        provider = ProviderSettings("", "tests.support.scripted:Scripted", {"label": "world"})
        made.append(World(tmp_path, channels={"email": ChannelSettings((provider,), **changes)}))
        hands = Hands()
        made[-1].shard.channels[made[-1].core.channel_names.index("email")] = hands
        for user_id in ("ann", "bob"):
            made[-1].user(user_id, contacts={"email": f"{user_id}@example.org"})
        return made[-1], hands

    yield begin
    for one in made:
        one.close()


def submit(one: World, *keys: str, **more: Any) -> None:
    one.submit(*({"idempotency_key": key, "title": key, "channels": ["email"], **more} for key in keys))


def keys(one: World, entries: Sequence[Entry]) -> list[str | None]:
    return [one.core.said(entry).idempotency_key for entry in entries]


def test_refusals_that_come_one_by_one_leave_the_order_as_it_was(begin: Callable[..., tuple[World, Hands]]) -> None:
    """A mail server takes seconds to refuse a password, to each connection at another time."""
    one, hands = begin(concurrency=4)
    submit(one, "1", "2", "3", "4", "5", "6")
    submit(one, "critical", priority="critical")
    begun = [*hands.started]
    assert keys(one, begun) == ["1", "2", "3", "4"]
    for entry in (begun[1], begun[0], begun[3], begun[2]):
        hands.refuse(entry)
        one.run()
    assert one.core.in_flight == [0] * len(one.core.in_flight)
    assert one.shard.stats(one.now)["channels"]["email"]["queued"] == 7
    one.ask("cancel", user_id="ann", idempotency_key="2")
    hands.started.clear()
    one.shard.pauses.resume("email")
    one.run()
    assert keys(one, hands.started) == ["critical", "1", "3", "4"]
    assert one.conserved


def test_what_was_held_has_not_used_up_the_channels_rate(begin: Callable[..., tuple[World, Hands]]) -> None:
    one, hands = begin(rate="4/minute", burst=4)
    submit(one, "1", "2", "3", "4", "5")
    begun = [*hands.started]
    assert keys(one, begun) == ["1", "2", "3", "4"]
    hands.hold(*begun[1:], until=one.now.mono + 5)
    hands.miss(begun[0])
    hands.started.clear()
    one.run()
    one.advance(4)
    assert hands.started == []
    assert one.outcome("2") == "pending:no_provider"
    one.advance(1)
    assert keys(one, hands.started) == ["2", "3", "4", "5"]
    assert [one.outcome(key) for key in "12"] == ["suppressed:no_contact", "pending"]


def test_what_was_held_survives_a_kill(begin: Callable[..., tuple[World, Hands]]) -> None:
    one, hands = begin()
    submit(one, "1", "2")
    hands.hold(*hands.started, until=one.now.mono + 60)
    one.run()
    one.restart()
    assert [sent.said.idempotency_key for sent in one.sent] == ["1", "2"]
    assert [one.status(key)["email"]["attempts"] for key in "12"] == [1, 1]
    assert one.conserved


def test_what_was_held_can_expire(begin: Callable[..., tuple[World, Hands]]) -> None:
    one, hands = begin()
    submit(one, "1", expires_at=one.now.wall_us // 1000 + 60_000)
    submit(one, "2")
    begun = [*hands.started]
    hands.started.clear()
    for entry in begun:
        hands.refuse(entry)
    one.advance(61)
    assert [one.outcome(key) for key in "12"] == ["pending:channel_paused"] * 2
    one.shard.pauses.resume("email")
    one.run()
    assert keys(one, hands.started) == ["2"]
    assert one.outcome("1") == "expired:expires_at"
    assert one.conserved
