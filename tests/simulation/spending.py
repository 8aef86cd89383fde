"""What is charged to limits and caps, once for each delivery that they let pass, across all lives of a shard."""

from __future__ import annotations

import math
import sqlite3
from array import array
from collections import Counter, defaultdict

from shards import ledger
from tests.simulation.asking import signed
from tests.simulation.policies import Policies
from tests.simulation.stored import Change, Place, Stored, is_digest_item, plainly
from tests.simulation.windows import Windows
from tests.simulation.wire import Clock

ROUNDING_S = 0.1  # each start rounds what was stored up by a millisecond
VAGUE_S = 600.0  # all limits of a run are idle again by then
CHARGED = ("charged", "quiet_hours", "limit", "retry")


class Spending:
    """An exact model. After a jump of the wall clock a new life knows less of what was spent, and so does the model."""

    def __init__(self, stored: Stored, windows: Windows, policies: Policies, clock: Clock, users: list[str]) -> None:
        self.reached: Counter[str] = Counter()
        self._stored = stored
        self._policies = policies
        self._clock = clock
        self._users = users
        self._windows = windows
        self._charged: set[Place] = set()
        self._last_row = 0
        self._due_s: dict[tuple[str, str], float] = {}  # by limit and user: the theoretical arrival time of the next
        self._times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)  # by cap and user
        self._vague_until_s = 0.0
        self._skew_us = self._skew()
        self._was_set = False

    def _skew(self) -> int:
        return self._clock.wall_us - round(self._clock.mono * 1e6)

    def _look_at_clock(self) -> None:
        self._was_set = self._was_set or abs(self._skew() - self._skew_us) > 10_000

    def restart(self) -> None:
        """Times are stored by the wall clock: if that was ever set, they are not known well."""
        self._look_at_clock()
        if self._was_set:
            self._due_s.clear()
            self._times.clear()
            self._vague_until_s = self._clock.mono + VAGUE_S

    def read(self, database: sqlite3.Connection, due_ms: dict[Place, int]) -> None:
        """After ``stored`` has; ``due_ms`` are the timers."""
        self._look_at_clock()
        found: Counter[tuple[str, int]] = Counter()
        states: set[str] = set()
        for number, full_name, keys, times in plainly(database)(
            "SELECT id, name, keys, times FROM limits WHERE id > ? ORDER BY id", (self._last_row,)
        ).fetchall():
            self._last_row = number
            name = full_name.rpartition(" ")[0]
            if times is None:
                found.update((name, key) for key in array("q", keys))
            else:
                states.add(name)  # what was charged in the same turn may be gone with the rows before it
        certain: Counter[tuple[str, int]] = Counter()
        possible: Counter[tuple[str, int]] = Counter()
        passed: list[tuple[str, str, str, float]] = []
        limited: list[tuple[Place, int]] = []
        for change in self._stored.changed:
            place, _, new = change
            sent = self._stored.sent(place)
            channel = self._stored.channel_names[ledger.channel_of(new)]
            _, priority, category = sent.planned()
            names = self._policies.limits_of(category, channel)
            kind = self._kind(change)
            if kind == "limited":
                limited.append((place, new))
            for name in names:
                if kind == "charged":
                    certain[name, signed(sent.user_id)] += 1
                    passed.append((name, sent.user_id, priority, self._time_of(place, new, due_ms)))
                elif kind == "perhaps":
                    possible[name, signed(sent.user_id)] += 1
            if kind == "charged":
                self._charged.add(place)
                self.reached["charged"] += bool(names)
        for which in {*found, *certain}:
            if which[0] not in states:
                least, most = certain[which], certain[which] + possible[which]
                text = f"limit: {which} is charged {found[which]} times for {least} to {most} deliveries"
                assert least <= found[which] <= most, text
        uncertain = {(name, key) for name, key in possible}
        unseen = {which: found[which] - certain[which] for which in possible if which[0] not in states}
        if any(name in states for name, _ in possible):
            self._vague_until_s = self._clock.mono + VAGUE_S
        exempt = Counter(
            (name, user_id)
            for name, user_id, priority, at_s in passed
            if at_s == math.inf or self._is_exempt(name, priority)
        )
        for name, user_id, priority, at_s in sorted(passed, key=lambda one: (self._is_exempt(one[0], one[2]), one[3])):
            self._spend(name, user_id, priority, at_s, exempt[name, user_id] + unseen.get((name, signed(user_id)), 0))
        for name, key in possible:  # cancelled in the turn that charged it
            for user_id in self._users:
                if signed(user_id) == key:
                    for _ in range(unseen.get((name, key), 0)):
                        self._count(name, user_id)
        for place, word in limited:
            self._check_limited(place, word, uncertain)

    def _kind(self, change: Change) -> str:
        place, old, new = change
        outcome, reason = ledger.outcome_of(new), ledger.REASONS[ledger.reason_of(new)]
        carries_on = old is not None and is_digest_item(old) and place in self._windows.took_over
        if carries_on and outcome == ledger.PENDING and reason not in CHARGED:
            return ""  # it was not decided yet
        if place in self._stored.revived or carries_on:  # a replay is free, and what was charged to another is
            self._charged.add(place)
            return ""
        if self._windows.came_along(place):
            return ""
        if outcome == ledger.RATE_LIMITED:
            assert place not in self._charged, f"limit: {place} was charged, and is {reason}"
            return "limited"
        if place in self._charged:
            return ""
        if (outcome in ledger.OPEN and reason in CHARGED) or ledger.attempts_of(new) or outcome == ledger.DELIVERED:
            return "charged"
        return "perhaps" if outcome == ledger.CANCELLED else ""

    def _time_of(self, place: Place, word: int, due_ms: dict[Place, int]) -> float:
        """When it may pass, by the monotonic clock."""
        if place not in due_ms or ledger.REASONS[ledger.reason_of(word)] != "limit":
            return 0.0
        if due_ms[place] == (self._stored.sent(place).said or {}).get("expires_at"):
            return math.inf  # it expires before
        return self._clock.mono + max(0.0, due_ms[place] / 1000 - self._clock.wall_us / 1e6)

    def _is_exempt(self, name: str, priority: str) -> bool:
        kind, _, which = name.partition(":")
        limits = self._policies.caps if kind == "cap" else self._policies.rate_limits
        return priority in limits[which].exempt

    def _spend(self, name: str, user_id: str, priority: str, at_s: float, exempt: int) -> None:
        """``exempt`` others may have been charged before or after it, in the same turn."""
        kind, _, which = name.partition(":")
        now, is_vague = self._clock.mono, self._clock.mono < self._vague_until_s
        if kind == "cap":
            cap, times = self._policies.caps[which], self._times[name, user_id]
            times[:] = [at for at in times if at + cap.window > now + 1e-6]
            assert priority in cap.exempt or len(times) < cap.limit, f"cap: {len(times)} of {user_id} within {name}"
            self._count(name, user_id)
            return
        limit = self._policies.rate_limits[which]
        count, period_s = limit.parse()
        interval_s, due_s = period_s / count, max(now, self._due_s.get((name, user_id), now))
        ahead_s = interval_s * ((limit.burst or count) - 1)
        if at_s == math.inf:
            pass
        elif at_s:
            self.reached["delayed by a limit"] += 1
            wanted_s = max(now, due_s - ahead_s)
            assert is_vague or at_s <= wanted_s + exempt * interval_s + ROUNDING_S, (
                f"limit: {user_id} waits {at_s - wanted_s} s too long"
            )
            assert at_s >= wanted_s - ROUNDING_S, f"limit: {user_id} is delayed by {wanted_s - at_s} s too little"
        elif priority not in limit.exempt:
            assert due_s - now <= ahead_s + 1e-3, f"limit: {user_id} passes {name} {due_s - now - ahead_s} s early"
        self._count(name, user_id)

    def _count(self, name: str, user_id: str) -> None:
        kind, _, which = name.partition(":")
        if kind == "cap":
            self._times[name, user_id].append(self._clock.mono)
            return
        count, period_s = self._policies.rate_limits[which].parse()
        now = self._clock.mono
        self._due_s[name, user_id] = max(now, self._due_s.get((name, user_id), now)) + period_s / count

    def _check_limited(self, place: Place, word: int, uncertain: set[tuple[str, int]]) -> None:
        """It is, only if it has to be."""
        sent = self._stored.sent(place)
        channel = self._stored.channel_names[ledger.channel_of(word)]
        _, priority, category = sent.planned()
        now, reason = self._clock.mono, ledger.REASONS[ledger.reason_of(word)]
        self.reached[f"rate_limited by {reason}"] += 1
        names = [
            name for name in self._policies.limits_of(category, channel) if name.startswith("cap") == (reason == "cap")
        ]
        assert names, f"{place} on {channel} is rate_limited by no {reason}"
        if now < self._vague_until_s or any((name, signed(sent.user_id)) in uncertain for name in names):
            return
        for name in names:
            which = name.partition(":")[2]
            if reason == "cap":
                cap = self._policies.caps[which]
                inside = sum(at + cap.window > now - ROUNDING_S for at in self._times[name, sent.user_id])
                if priority not in cap.exempt and inside >= cap.limit:
                    return
            else:
                limit = self._policies.rate_limits[which]
                count, period_s = limit.parse()
                ahead_s = period_s / count * ((limit.burst or count) - 1)
                due_s = self._due_s.get((name, sent.user_id), 0.0)
                if priority not in limit.exempt and due_s - now > ahead_s - ROUNDING_S:
                    assert limit.overflow != "delay", f"{place} is rate_limited, and is to be delayed"
                    return
        raise AssertionError(f"{place} on {channel} is rate_limited by {names}, and was within")
