"""Conservation and digests as properties of any sequence of what a shard is asked: found by hypothesis, replayable."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shards import ledger
from shards.caps import CapSettings
from shards.changes import Now
from shards.digests import DigestSettings
from shards.limiter import RateLimit
from shards.retry import RetryPolicy
from shards.rules import Category
from shards.settings import Bounds, Idempotency, Priorities, Retention, ShardSettings
from shards.shard import Shard
from shards.units import Seconds
from shards.wire.encoding import pack
from shards.wire.errors import RequestError
from shards.wire.ids import hash_user, make_id
from shards.wire.link import SUBMIT, Data
from shards.wire.requests import Request
from tests.support.simulated import simulated

USERS = ("anna", "ben")
START_US = 1_700_000_000_000_000
WINDOW_S = 10
YEAR_S = 366 * 86_400
TURNS_MAX = 300

CHANNEL = simulated(concurrency=3, failure_rate=0.3, seed=5)
SETTINGS = ShardSettings(
    shard=0,
    shards=1,
    path="",
    durability="process",
    incarnation=1,
    secret=1,
    categories={
        "plain": Category(channels=("email", "inapp")),
        "social": Category(channels=("email", "inapp")),
        "capped": Category(channels=("push",)),
    },
    rate_limits={"push": RateLimit("2/minute", overflow="inapp"), "email": RateLimit("6/minute", overflow="delay")},
    caps={"few": CapSettings(2, Seconds(60.0), categories=("capped",))},
    digests={"social": DigestSettings("social", Seconds(WINDOW_S), categories=("social",), items_max=3)},
    retry=RetryPolicy(max_retries=2, base=Seconds(1.0)),
    priorities=Priorities(),
    idempotency=Idempotency(),
    retention=Retention(finished=Seconds(10 * YEAR_S), inbox=Seconds(10 * YEAR_S)),
    bounds=Bounds(lane_items=3),
    channels={"email": CHANNEL, "push": CHANNEL},
)

SAID = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(USERS),
        "category": st.sampled_from(("plain", "social", "social", "capped")),
        "title": st.just("hello"),
    },
    optional={
        "send_at": st.integers(-5, 40),  # seconds from now
        "expires_at": st.integers(-1, 60),
        "priority": st.sampled_from(("low", "critical")),
    },
)
DOCUMENTS = st.sampled_from(
    (
        {},
        {"preferences": {"channels": {"email": False}}},
        {"preferences": {"quiet_hours": {"start": "22:00", "end": "22:20"}}},  # it is 22:13 at the start
        {"contacts": {"email": "a@example.org"}},
    )
)


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(prefix="properties-")
        self._path = Path(self._directory.name) / "shard-0.db"
        self._mono = 1_000.0
        self._sent: list[tuple[str, int, int]] = []  # user, frame and position
        self._number = 0
        self._counted = 0  # deliveries, by the answers to cancels
        self.shard = self._open()

    @property
    def now(self) -> Now:
        return Now(self._mono, START_US + round(self._mono * 1e6))

    def _open(self) -> Shard:
        settings = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__}
        return Shard(ShardSettings(**{**settings, "path": str(self._path)}), self.now, set())

    def _turn(self, data: Data | None = None) -> bool:
        """As the worker does it; whether there may be more to do at once."""
        shard, core, now = self.shard, self.shard.core, self.now
        more = core.refill(now) | core.release(now)
        if data:
            shard.take([data], now)
        shard.collect(now)
        core.wake(now)
        more = core.deliver_inapp(now) or more
        shard.commit(now)
        shard.start(now)
        return more or bool(core.changes)

    # --- what may happen ---------------------------------------------------------------------------------------

    @rule(items=st.lists(SAID, min_size=1, max_size=4))
    def submit(self, items: list[dict[str, Any]]) -> None:
        wall_ms = self.now.wall_us // 1000
        said = [
            {key: wall_ms + 1000 * value if isinstance(value, int) else value for key, value in item.items()}
            for item in items
        ]
        self._number += 1
        self._sent += [(item["user_id"], self._number, at) for at, item in enumerate(items)]
        self._turn(Data(1, 0, 1, self._number, SUBMIT, self.now.wall_us, False, pack(said)))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self._sent:
            return
        user, seq, index = data.draw(st.sampled_from(self._sent))
        id_ = make_id(self.shard.journal.generation, hash_user(user), seq, index)
        with contextlib.suppress(RequestError):  # it has ended already
            self._counted += self.shard.operations.answer(Request("cancel", id=id_), self.now)["cancelled"]
        self._turn()

    @rule(user=st.sampled_from(USERS), document=DOCUMENTS)
    def choose(self, user: str, document: dict[str, Any]) -> None:
        self.shard.operations.answer(Request("user.put", user_id=user, user=document), self.now)
        self._turn()

    @rule(seconds=st.sampled_from((0.001, 1.0, 9.0, 60.0, 3_600.0)))
    def wait(self, seconds: float) -> None:
        self._mono += seconds
        self._turn()

    @rule()
    def turn(self) -> None:
        self._turn()

    @rule()
    def crash(self) -> None:
        """What is not committed is lost."""
        self.shard.marks.close()
        self.shard.journal.close()
        self.shard = self._open()

    # --- what must hold ----------------------------------------------------------------------------------------

    def _words(self) -> dict[tuple[int, int], int]:
        rows = [self.shard.journal.frames.get(seq) for seq in range(1, self._number + 1)]
        words = {}
        for row in rows:
            assert row is not None
            frame = self.shard.core.frames.get(row.seq)
            words.update(
                {(row.seq, at): word for at, word in enumerate(frame.slots if frame else ledger.words(row.slots))}
            )
        return words

    @invariant()
    def conserved(self) -> None:
        found = Counter((ledger.channel_of(word), ledger.outcome_of(word)) for word in self._words().values())
        for number, counts in enumerate(self.shard.core.counters.channels):
            assert counts.planned == sum(count for (channel, _), count in found.items() if channel == number)
            for final in ledger.FINAL:
                assert counts.outcomes[final] == found[number, final]

    @invariant()
    def cancels_are_counted(self) -> None:
        gone = sum(ledger.outcome_of(word) == ledger.CANCELLED for word in self._words().values())
        assert gone >= self._counted  # the others were under way

    def teardown(self) -> None:
        """In the end nothing is pending, and each digest was one delivery of one of its items."""
        try:
            for _ in range(TURNS_MAX):
                if not self._turn() and not self.shard.journal.ledgers.pending():
                    break
                self._mono += 5.0 if self.shard.journal.ledgers.pending() else 0.0
            assert not self.shard.journal.ledgers.pending()
            self.conserved()
            self._digests_were_sent_once()
        finally:
            self.shard.close()
            self._directory.cleanup()

    def _digests_were_sent_once(self) -> None:
        words = self._words()
        database, names = self.shard.journal.database, self.shard.core.channel_names
        seen: Counter[tuple[str, int]] = Counter()
        for (id_,) in database.execute(
            "SELECT id FROM digests WHERE carrier IS NOT NULL"
        ).fetchall():  # others are empty
            waiting = self.shard.journal.waiting
            window = next(one for seq in range(1, self._number + 1) for one in waiting.digests_of(seq) if one.id == id_)
            seen.update((window.channel, place) for place in window.places)
            tried = []
            for place in window.places:
                seq, index = place >> 16, place & 0xFFFF
                row = self.shard.journal.frames.get(seq)
                assert row is not None
                first = sum(row.widths[:index])
                found = [words[seq, slot] for slot in range(first, first + row.widths[index])]
                tried += [word for word in found if names[ledger.channel_of(word)] == window.channel]
            assert len({ledger.outcome_of(word) for word in tried}) == 1
            assert sum(ledger.attempts_of(word) > 0 for word in tried) <= 1
        assert not seen or max(seen.values()) == 1


Machine.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=20,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestProperties = Machine.TestCase
