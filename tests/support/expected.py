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
DIGESTED = "social"  # goes into digests, in-app: with their channel's failures nobody would know what becomes of them
SCHEDULED, DIGEST, UNWANTED = range(3)  # kinds of events beside the plain ones
FAR_MS = 86_400_000
CHANNELS = {
    "transaction": ("email", "push", "inapp"),
    "marketing": ("email", "inapp"),
    "security": ("email", "sms", "push"),
    "system": ("inapp",),
}
TITLES = {category: f"A {category} notification" for category in EVENT_CATEGORIES}


class Workload:
    """Events are numbered by producer; an event's number decides its user and its category."""

    def __init__(self, seed: int, failure_rate: float, max_retries: int, start_ms: int = 0, spread_ms: int = 0) -> None:
        """With ``spread_ms`` some events are scheduled for within so long from the start, some wait in digests, and
        some, for the day after, are to be cancelled."""
        self.seed = seed
        self._start_ms = start_ms
        self._spread_ms = spread_ms
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

    def kind(self, producer: int, event: int) -> int | None:
        draw = xxhash.xxh3_64_intdigest(f"{producer}:{event}:kind".encode(), self.seed) % 20
        if not self._spread_ms or draw > 7:
            return None
        return SCHEDULED if draw < 4 else DIGEST if draw < 6 else UNWANTED

    def _send_at_ms(self, producer: int, event: int) -> int:
        draw = xxhash.xxh3_64_intdigest(f"{producer}:{event}:due".encode(), self.seed)
        is_far = self.kind(producer, event) == UNWANTED
        return self._start_ms + draw % self._spread_ms + (FAR_MS if is_far else 0)

    def notification(self, producer: int, event: int) -> dict[str, Any]:
        user, category = self.place(producer, event)
        notification = {
            "user_id": self.users[user],
            "category": category,
            "title": TITLES[category],
            "payload": {"event": event},
            "idempotency_key": self.key(producer, event),
        }
        match self.kind(producer, event):
            case None:
                return notification
            case kind if kind == DIGEST:
                return {**notification, "category": DIGESTED}
            case _:
                return {**notification, "send_at": self._send_at_ms(producer, event)}

    def deliveries(self, producer: int, event: int) -> dict[str, tuple[str, int]]:
        """``(outcome, attempts)`` by channel, as they must be in the end."""
        user, category = self.place(producer, event)
        kind = self.kind(producer, event)
        if kind == UNWANTED:
            return dict.fromkeys(CHANNELS[category], ("cancelled", 0))
        if kind == DIGEST:
            return {"inapp": ("delivered", 0)}  # but for one of each digest, which has the attempt
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
        self.accepted = self.planned = self.attempts = self.digested = 0
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
            elif workload.kind(producer, event) == DIGEST:
                self.digested += 1
            elif channel == "inapp" and outcome == "delivered":
                self.inbox[workload.users[workload.place(producer, event)[0]], key] += 1
