"""What was spent of the limits, over stops, kills, changes of the clock and of the configuration."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import limit_store, schema
from shards.caps import CapSettings
from shards.changes import Now
from shards.journal import SqliteJournal
from shards.limit_store import LimitStore, split
from shards.limiter import RateLimit
from shards.limits import Limits
from shards.resharding import reshard
from shards.schema import DamagedError
from shards.units import Seconds

RATES = {"email": RateLimit("10/minute", burst=3), "sms": RateLimit("3/second", overflow="delay")}
CAPS = {"few": CapSettings(limit=3, window=Seconds(20.0))}
WALL_US = 1_800_000_000_000_000
KEYS_MAX = 1_000
KEY = -7


def connect() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.execute(f"CREATE TABLE limits({schema.TABLES['limits'][0]}, crc INTEGER NOT NULL)")
    return database


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    opened = connect()
    yield opened
    opened.close()


def moment(ms: int, wall_ms: int = 0, boot_s: float = 0.0) -> Now:
    """``ms`` after the beginning, where the wall clock was set by ``wall_ms``, and the monotonic one began earlier."""
    return Now(boot_s + ms / 1000, WALL_US + (ms + wall_ms) * 1000)


def opened(
    database: sqlite3.Connection,
    now: Now,
    rates: Mapping[str, RateLimit] = RATES,
    caps: Mapping[str, CapSettings] = CAPS,
) -> LimitStore:
    store = LimitStore(Path("journal"), database, Limits(rates, caps, KEYS_MAX))
    store.load(now)
    return store


def names(database: sqlite3.Connection) -> list[str]:
    return [name for (name,) in database.execute("SELECT DISTINCT name FROM limits ORDER BY name")]


Step = tuple[int, int, str]  # milliseconds before it, user, what

steps = st.lists(
    st.tuples(
        st.integers(0, 4_000),
        st.integers(-2, 2),
        st.sampled_from(["allow", "exempt", "reserve", "cap", "charge cap", "save", "reopen"]),
    ),
    max_size=80,
)


def act(limits: Limits, what: str, key: int, now: Now) -> object:
    rate, delay, cap = limits.rates["email"], limits.rates["sms"], limits.caps["few"]
    if what in ("allow", "exempt"):
        return rate.allow(key, now.mono, what == "exempt")
    if what == "reserve":
        return round(delay.reserve(key, now.mono) - now.mono, 5)
    has_room = cap.has_room(key, now.mono)
    if has_room or what == "charge cap":
        cap.charge(key, now.mono)
    return has_room


def answers(limits: Limits, key: int, now: Now) -> list[object]:
    return [
        (name, limit.remaining(key, now.mono), round(limit.next_at(key, now.mono) - now.mono, 5))
        for name, limit in limits.named.items()
    ]


@settings(max_examples=150)
@given(steps, st.integers(1, 4), st.integers(1, 60))
def test_who_is_stored_and_read_anew_answers_like_who_never_stopped(
    plan: list[Step], part: int, charges_max: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limit_store, "PART_TIMES", part)
        patch.setattr(limit_store, "CHARGES_MAX", charges_max)
        database = connect()
        boot_s, ms = 0.0, 0
        never = Limits(RATES, CAPS, KEYS_MAX)
        store = opened(database, moment(0))
        for wait_ms, key, what in plan:
            ms += wait_ms
            now, now_here = moment(ms), moment(ms, boot_s=boot_s)
            if what in ("save", "reopen"):
                store.save(now_here)
                if what == "reopen":
                    boot_s += 1_000.25
                    store = opened(database, moment(ms, boot_s=boot_s))
            else:
                assert act(never, what, key, now) == act(store.limits, what, key, now_here)
                store.save(now_here)
            now_here = moment(ms, boot_s=boot_s)
            for user in range(-2, 3):
                assert answers(never, user, now) == answers(store.limits, user, now_here)
        database.close()


def resharded(databases: list[sqlite3.Connection], count: int) -> list[sqlite3.Connection]:
    made = [connect() for _ in range(count)]
    for number, row in enumerate(
        row for database in databases for row in database.execute("SELECT * FROM limits ORDER BY id")
    ):
        for shard, part in split(row[1:-1], count).items():
            new = (number, *part)
            made[shard].execute("INSERT INTO limits VALUES (?, ?, ?, ?, ?, ?)", (*new, schema.checksum(*new)))
    for database in databases:
        database.close()
    return made


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4_000),
            st.integers(-4, 4),
            st.sampled_from(["allow", "exempt", "reserve", "cap", "charge cap", 1, 2, 3]),
        ),
        max_size=80,
    ),
    st.integers(1, 3),
)
def test_who_is_moved_to_other_shards_answers_like_who_stayed(
    plan: list[tuple[int, int, str | int]], part: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limit_store, "PART_TIMES", part)
        patch.setattr(limit_store, "CHARGES_MAX", 30)
        databases = [connect()]
        stores = [opened(databases[0], moment(0))]
        stayed = Limits(RATES, CAPS, KEYS_MAX)
        ms = 0
        for wait_ms, key, what in plan:
            ms += wait_ms
            now = moment(ms)
            if isinstance(what, int):
                databases = resharded(databases, what)
                stores = [opened(database, now) for database in databases]
            else:
                store = stores[key % 2**64 % len(stores)]
                assert act(stayed, what, key, now) == act(store.limits, what, key, now)
                store.save(now)
            for user in range(-4, 5):
                assert answers(stayed, user, now) == answers(stores[user % 2**64 % len(stores)].limits, user, now)
        for database in databases:
            database.close()


def test_resharding_takes_along_what_was_spent(tmp_path: Path) -> None:
    def paths(name: str, count: int) -> list[Path]:
        return [tmp_path / f"{name}-{shard}.db" for shard in range(count)]

    def spend(path: Path, shard: int, shards: int) -> None:
        journal = SqliteJournal(path, shard, shards, "process", ["email"])
        store = opened(journal.database, moment(0))
        journal.begin()
        for key in range(-20, 20):
            if key % 2**64 % shards == shard:
                for _ in range(key % 4):
                    store.limits.rates["email"].allow(key, 0.0)
                    store.limits.caps["few"].charge(key, 0.0)
        store.save(moment(0))
        journal.save_state()
        journal.commit()
        journal.close()

    for shard, path in enumerate(paths("two", 2)):
        spend(path, shard, 2)
    for before, after, count in (("two", "three", 3), ("three", "one", 1)):
        sources = paths(before, 2 if before == "two" else 3)
        reshard(sources, paths(after, count), {}, lambda _done, _total: None)
    journal = SqliteJournal(tmp_path / "one-0.db", 0, 1, "process", ["email"])
    limits = opened(journal.database, moment(0)).limits
    journal.close()
    for key in range(-20, 20):
        assert limits.rates["email"].remaining(key, 0.0) == limits.caps["few"].remaining(key, 0.0) == 3 - key % 4


def test_what_was_not_committed_is_not_spent(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    database.execute("BEGIN")
    assert store.limits.rates["email"].allow(KEY, 0.0)
    store.save(moment(0))
    database.execute("ROLLBACK")
    assert opened(database, moment(0)).limits.rates["email"].remaining(KEY, 0.0) == 3


def test_a_state_takes_the_place_of_what_it_sums_up(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_store, "CHARGES_MAX", 50)
    monkeypatch.setattr(limit_store, "PART_TIMES", 4)
    store = opened(database, moment(0))
    for key in range(10):
        assert store.limits.rates["email"].allow(key, 0.0)
        store.save(moment(0))
    rows = database.execute("SELECT times IS NOT NULL, length(keys) / 8 FROM limits ORDER BY id").fetchall()
    assert rows[0] == (1, 4), "the rows before the state are gone"
    assert [count for is_state, count in rows if not is_state] == [1] * 5
    again = opened(database, moment(0)).limits.rates["email"]
    assert [again.remaining(key, 0.0) for key in range(11)] == [2] * 10 + [3]


def test_a_clock_that_was_set_back_locks_nobody_out(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    for _ in range(3):
        assert store.limits.rates["email"].allow(KEY, 0.0)
        store.limits.caps["few"].charge(KEY, 0.0)
    store.save(moment(0))
    later = moment(0, wall_ms=-3_600_000)
    again = opened(database, later).limits
    assert again.rates["email"].next_at(KEY, 0.0) == pytest.approx(6.0, rel=1e-9)
    assert again.caps["few"].next_at(KEY, 0.0) == pytest.approx(20.0)


def test_a_clock_that_was_set_back_before_a_state_locks_nobody_out(
    database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_store, "CHARGES_MAX", 1)
    store = opened(database, moment(0))
    for _ in range(3):
        assert store.limits.rates["email"].allow(KEY, 0.0)
    store.save(moment(0))
    again = opened(database, moment(0, wall_ms=-3_600_000)).limits.rates["email"]
    assert again.next_at(KEY, 0.0) == pytest.approx(6.0, rel=1e-9)


def test_reservations_and_what_the_exempt_spent_outlive_a_stop(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    for _ in range(30):
        store.limits.rates["sms"].reserve(KEY, 0.0)
        assert store.limits.rates["email"].allow(KEY, 0.0, exempt=True)
    store.save(moment(0))
    again = opened(database, moment(0)).limits.rates
    assert again["sms"].next_at(KEY, 0.0) == pytest.approx(28 / 3, rel=1e-9)
    assert again["email"].next_at(KEY, 0.0) == pytest.approx(28 * 6, rel=1e-9)


def test_other_terms_keep_what_was_spent_as_far_as_they_go(database: sqlite3.Connection) -> None:
    slow = {"email": RateLimit("1/day", burst=50)}
    store = opened(database, moment(0), slow)
    for _ in range(50):
        assert store.limits.rates["email"].allow(KEY, 0.0)
        store.limits.caps["few"].charge(KEY, 0.0)
    store.save(moment(0))
    fast, one = {"email": RateLimit("10/minute", burst=10)}, {"few": CapSettings(limit=1, window=Seconds(20.0))}
    store = opened(database, moment(1), fast, one)
    assert store.limits.rates["email"].remaining(KEY, 0.001) == 0
    assert store.limits.rates["email"].next_at(KEY, 0.001) == pytest.approx(6.001, rel=1e-9)
    assert store.limits.caps["few"].next_at(KEY, 0.001) == 20.0
    store.save(moment(1))
    assert names(database) == ["cap:few 1/20s", "rate:email 10/minute+10"]
    assert opened(database, moment(2), fast, one).limits.rates["email"].next_at(KEY, 0.002) == pytest.approx(6.001)


def test_a_lower_cap_looks_at_the_newest_deliveries(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    for ms in (0, 5_000, 9_000):
        store.limits.caps["few"].charge(KEY, ms / 1000)
        store.save(moment(ms))
    two = {"few": CapSettings(limit=2, window=Seconds(20.0))}
    for after_stop in (opened(database, moment(9_000), RATES, two), opened(database, moment(9_000))):
        after_stop.keep(Limits(RATES, two, KEYS_MAX), moment(9_000))
        cap = after_stop.limits.caps["few"]
        assert cap.next_at(KEY, 9.0) == 25.0
        cap.charge(KEY, 25.0)
        assert cap.next_at(KEY, 25.0) == 29.0


def test_times_stay_in_order_where_the_clock_was_set_back_on_the_way(database: sqlite3.Connection) -> None:
    two = {"few": CapSettings(limit=2, window=Seconds(20.0))}
    store = opened(database, moment(0), {}, two)
    for now in (moment(0), moment(1_000, wall_ms=-15_000)):
        store.limits.caps["few"].charge(KEY, now.mono)
        store.save(now)
    cap = opened(database, moment(2_000, wall_ms=-15_000), {}, two).limits.caps["few"]
    assert not cap.has_room(KEY, 21.5)
    assert cap.remaining(KEY, 21.5) == 0
    assert cap.remaining(KEY, 22.0) == 2


def test_a_reload_of_the_configuration_keeps_what_was_spent_by_name(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    for name in ("email", "sms"):
        assert store.limits.rates[name].allow(KEY, 0.0)
    store.save(moment(0))
    assert store.limits.rates["email"].allow(KEY, 0.0)  # not stored yet
    store.keep(Limits({"email": RateLimit("10/minute", burst=5)}, CAPS, KEYS_MAX), moment(0))
    assert store.limits.rates["email"].remaining(KEY, 0.0) == 3
    store.save(moment(0))
    assert names(database) == ["rate:email 10/minute+5"]
    again = opened(database, moment(0), {"email": RateLimit("10/minute", burst=5)})
    assert again.limits.rates["email"].remaining(KEY, 0.0) == 3


def test_a_limit_that_is_no_more_is_forgotten(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    assert store.limits.rates["email"].allow(KEY, 0.0)
    store.save(moment(0))
    opened(database, moment(0), {}).save(moment(0))
    assert names(database) == []
    assert opened(database, moment(0)).limits.rates["email"].remaining(KEY, 0.0) == 3


def test_a_damaged_row_is_told(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    assert store.limits.rates["email"].allow(KEY, 0.0)
    store.save(moment(0))
    database.execute("UPDATE limits SET at_ms = at_ms + 1")
    with pytest.raises(DamagedError, match="limits"):
        opened(database, moment(0))


def test_a_limit_that_comes_back_is_stored_again(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    assert store.limits.rates["email"].allow(KEY, 0.0)
    store.save(moment(0))
    store.keep(Limits({}, CAPS, KEYS_MAX), moment(0))
    store.save(moment(0))
    store.keep(Limits(RATES, CAPS, KEYS_MAX), moment(0))
    for _ in range(2):
        assert store.limits.rates["email"].allow(KEY, 0.0)
        store.save(moment(0))
    assert opened(database, moment(0)).limits.rates["email"].remaining(KEY, 0.0) == 1


def test_a_reload_that_changes_no_terms_keeps_all_that_is_reserved(database: sqlite3.Connection) -> None:
    store = opened(database, moment(0))
    for _ in range(30):
        store.limits.rates["sms"].reserve(KEY, 0.0)
    store.keep(Limits({"sms": RateLimit("3/second", exempt=("critical",))}, CAPS, KEYS_MAX), moment(0))
    assert store.limits.rates["sms"].next_at(KEY, 0.0) == pytest.approx(28 / 3)
    assert store.limits.rates["sms"].exempt == {"critical"}


def test_a_state_is_finished_under_steady_load(database: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_store, "CHARGES_MAX", 20)
    monkeypatch.setattr(limit_store, "PART_TIMES", 2)
    store = opened(database, moment(0))
    for turn in range(200):
        for key in range(20):
            assert store.limits.rates["email"].allow(key, 0.0, exempt=True)
        store.save(moment(turn))
        (rows,) = database.execute("SELECT count(*) FROM limits").fetchone()
        assert rows <= 45
