"""What does it cost to ask a limit, and to keep what was spent of it over a restart?"""

from __future__ import annotations

import os
import random
import statistics
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.report import Figure, disk_directory, medians, options, result, seconds, show
from shards import schema
from shards.caps import Cap, CapSettings
from shards.changes import Now
from shards.limit_store import CHARGES_MAX, OLD_ROWS, PART_TIMES, LimitStore
from shards.limiter import Limiter, RateLimit
from shards.limits import Limits
from shards.units import Seconds
from shards.wire.ids import hash_user

TURN = 8_192
NOW = Now(1_000.0, 1_800_000_000_000_000)
DAILY = RateLimit("1000/day")


def run(rounds: int = 5, items: int = 500_000, users: int = 10_000, keys: int = 1_000_000) -> dict[str, Any]:
    chosen = [hash_user(f"user-{number}") - 2**63 for number in range(users)] * max(1, items // users)
    figures = []

    def compare(name: str, unit: str, measure: Callable[[], float], floor: Callable[[], float]) -> None:
        value, beside = medians(rounds, measure, floor)
        figures.append(Figure(name, value, beside, unit))

    fast, slow = (Limiter(RateLimit(rate), 2 * users) for rate in ("1000000/second", "1/hour"))
    cap = Cap(CapSettings(limit=5, window=Seconds(86_400.0)), 2 * users)
    compare("allow, all pass", "ns/item", lambda: _ns(fast, chosen), lambda: _bare_ns(chosen))
    compare("allow, most are refused", "ns/item", lambda: _ns(slow, chosen), lambda: _bare_ns(chosen))
    compare("cap, look and charge", "ns/item", lambda: _cap_ns(cap, chosen), lambda: _bare_ns(chosen))
    with disk_directory() as directory:
        places = (directory / f"{number}.db" for number in range(10**9))
        turns = max(1, items // TURN)
        compare(
            "store the charges of a turn of 8192, power",
            "ms",
            lambda: _store_ms(next(places), turns),
            lambda: _bare_store_ms(next(places), turns),
        )
        for count in (keys // 10, keys):
            stored = Stored(next(places), count)
            compare(f"longest turn, {count} keys", "ms", stored.longest_ms, stored.median_ms)
            figures.append(Figure(f"on the disk, {count} keys", stored.bytes(), 16.0 * count, "bytes"))
            stored.charge(count // 5)
            compare(f"load {count} keys, {count // 5} more charges", "ms", stored.load_ms, stored.bare_load_ms)
            stored.close()
    return result("limiter", rounds, figures, items=len(chosen), users=users, keys=keys)


def _ns(limiter: Limiter, keys: list[int]) -> float:
    def work() -> None:
        allow = limiter.allow
        for at in range(0, len(keys), TURN):
            for key in keys[at : at + TURN]:
                allow(key, 1.0)
            limiter.charges.clear()

    return seconds(work) / len(keys) * 1e9


def _cap_ns(cap: Cap, keys: list[int]) -> float:
    def work() -> None:
        has_room, charge = cap.has_room, cap.charge
        for at in range(0, len(keys), TURN):
            for key in keys[at : at + TURN]:
                if has_room(key, 1.0):
                    charge(key, 1.0)
            cap.charges.clear()

    return seconds(work) / len(keys) * 1e9


def _bare_ns(keys: list[int]) -> float:
    due: dict[int, float] = {}

    def work() -> None:
        get = due.get
        for key in keys:
            due[key] = get(key, 0.0) + 1.0

    return seconds(work) / len(keys) * 1e9


def _journal(path: Path) -> Any:
    database = schema.connect(path, "power")
    database.execute("BEGIN")
    schema.create(database, 0, 1)
    database.execute("COMMIT")
    return database


def _keys(count: int) -> list[int]:
    draw = random.Random(count)
    return [draw.getrandbits(64) - 2**63 for _ in range(count)]


def _store_ms(path: Path, turns: int) -> float:
    """Per turn; a state now and then is part of it."""
    database, limits = _journal(path), Limits({"email": DAILY}, {}, 10**7)
    store, keys = LimitStore(path, database, limits), _keys(TURN)

    def work() -> None:
        for _ in range(turns):
            limits.rates["email"].charges.extend(keys)
            database.execute("BEGIN")
            store.save(NOW)
            database.execute("COMMIT")

    spent = seconds(work)
    database.close()
    return spent / turns * 1e3


def _bare_store_ms(path: Path, turns: int) -> float:
    """The same bytes as one blob."""
    database, blob = _journal(path), os.urandom(8 * TURN)

    def work() -> None:
        for number in range(turns):
            database.execute("BEGIN")
            database.execute("INSERT INTO limits VALUES (?, 'rate', 0, ?, NULL, 0)", (number, blob))
            database.execute("COMMIT")

    spent = seconds(work)
    database.close()
    return spent / turns * 1e3


class Stored:
    """A limit of which ``count`` keys are live, with its journal."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self.database = _journal(path)
        self.keys = _keys(count)
        self._turns: list[float] = []
        self._store = self._opened()
        self._store.limits.rates["email"].replay(self.keys, NOW.mono)

    def _opened(self) -> LimitStore:
        return LimitStore(self.path, self.database, Limits({"email": DAILY}, {}, 10**7))

    def longest_ms(self) -> float:
        """Of the turns, each with its charges, in which a whole state is written and the one before goes."""
        limiter = self._store.limits.rates["email"]
        charged = max(CHARGES_MAX, 2 * self.count) // TURN + 2
        self._turns = []
        for _ in range(charged + self.count // PART_TIMES + (charged + self.count // PART_TIMES) // OLD_ROWS):
            limiter.charges.extend(self.keys[:TURN])
            started = time.perf_counter()
            self.database.execute("BEGIN")
            self._store.save(NOW)
            self.database.execute("COMMIT")
            self._turns.append((time.perf_counter() - started) * 1e3)
        return max(self._turns)

    def median_ms(self) -> float:
        """Of the same turns: most have only charges to store."""
        return statistics.median(self._turns)

    def bytes(self) -> float:
        query = "SELECT sum(length(keys) + coalesce(length(times), 0)) FROM limits"
        return float(self.database.execute(query).fetchone()[0])

    def charge(self, count: int) -> None:
        """In turns of ten charges each."""
        limiter = self._store.limits.rates["email"]
        self.database.execute("BEGIN")
        for at in range(0, count, 10):
            limiter.charges.extend(self.keys[at : at + 10])
            self._store.save(NOW)
        self.database.execute("COMMIT")

    def load_ms(self) -> float:
        store = self._opened()
        spent = seconds(lambda: store.load(NOW))
        assert len(store.limits.rates["email"]) == self.count
        return spent * 1e3

    def bare_load_ms(self) -> float:
        """The dict alone, from arrays."""
        keys, times = array("q", self.keys), array("d", bytes(8 * self.count))
        return seconds(lambda: dict(zip(keys, times, strict=True))) * 1e3

    def close(self) -> None:
        self.database.close()


def main() -> None:
    chosen = options("bench.limiter", __doc__, 5, items=500_000, users=10_000, keys=1_000_000)
    show(run(chosen.rounds, chosen.items, chosen.users, chosen.keys), chosen.json)


if __name__ == "__main__":
    main()
