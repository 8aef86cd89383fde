"""A workload whose every outcome is known beforehand: seeded events, and what must become of each delivery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import xxhash

PLAIN_USERS = 50  # of these nothing is stored: every channel is on
CHOOSY_USERS = 50
SWITCHED_OFF = ("email", "push")  # by the choosy ones
OVERRIDES = frozenset({"security"})  # delivered whatever the user switched off
EVENT_CATEGORIES = ("transaction", "marketing", "security", "system")
CHANNELS = {
    "transaction": ("email", "push", "inapp"),
    "marketing": ("email", "inapp"),
    "security": ("email", "sms", "push"),
    "system": ("inapp",),
}
TITLES = {category: f"A {category} notification" for category in EVENT_CATEGORIES}


class Workload:
    """Events are numbered by producer; an event's number decides its user and its category."""

    def __init__(self, seed: int, failure_rate: float, max_retries: int) -> None:
        self.seed = seed
        self.users = [f"user-{number}" for number in range(PLAIN_USERS + CHOOSY_USERS)]
        self._threshold = int(failure_rate * 2**64)
        self._max_retries = max_retries

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is stored of the choosy users."""
        for user in self.users[PLAIN_USERS:]:
            yield user, {"preferences": {"channels": dict.fromkeys(SWITCHED_OFF, False)}}

    def key(self, producer: int, event: int) -> str:
        return f"{self.seed}-{producer}-{event}"

    def place(self, producer: int, event: int) -> tuple[int, str]:
        """``(number of the user, category)``."""
        draw = xxhash.xxh3_64_intdigest(f"{producer}:{event}".encode(), self.seed)
        return draw % len(self.users), EVENT_CATEGORIES[draw >> 32 & 3]

    def notification(self, producer: int, event: int) -> dict[str, Any]:
        user, category = self.place(producer, event)
        return {
            "user_id": self.users[user],
            "category": category,
            "title": TITLES[category],
            "payload": {"event": event},
            "idempotency_key": self.key(producer, event),
        }

    def deliveries(self, producer: int, event: int) -> dict[str, tuple[str, int]]:
        """``(outcome, attempts)`` by channel, as they must be in the end."""
        user, category = self.place(producer, event)
        deliveries = {}
        for channel in CHANNELS[category]:
            if user >= PLAIN_USERS and channel in SWITCHED_OFF and category not in OVERRIDES:
                deliveries[channel] = ("suppressed", 0)
            elif channel == "inapp":
                deliveries[channel] = ("delivered", 1)
            else:
                deliveries[channel] = self._fate(self.key(producer, event), channel)
        return deliveries

    def _fate(self, key: str, channel: str) -> tuple[str, int]:
        """A simulated attempt fails by the hash of seed, key, channel and attempt."""
        for attempt in range(self._max_retries + 1):
            if xxhash.xxh3_64_intdigest(f"{key}:{channel}:{attempt}".encode(), self.seed) >= self._threshold:
                return "delivered", attempt + 1
        return "dead", self._max_retries + 1


class Expected:
    """What all acknowledged events come to, added one by one."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.accepted = self.planned = self.attempts = 0
        self.outcomes: Counter[str] = Counter()
        self.dead: Counter[tuple[str, str]] = Counter()  # (key, channel)
        self.inbox: Counter[tuple[str, str]] = Counter()  # (user, key)

    def add(self, producer: int, event: int) -> None:
        workload = self._workload
        key = workload.key(producer, event)
        self.accepted += 1
        for channel, (outcome, attempts) in workload.deliveries(producer, event).items():
            self.planned += 1
            self.attempts += attempts
            self.outcomes[outcome] += 1
            if outcome == "dead":
                self.dead[key, channel] += 1
            elif channel == "inapp":
                self.inbox[workload.users[workload.place(producer, event)[0]], key] += 1
