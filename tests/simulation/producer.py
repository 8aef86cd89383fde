"""Frames of every kind that a router forwards: mixed encodings, fan-out, repetitions, bad entries, a hot user."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec

from shards.wire.errors import Error
from shards.wire.link import SUBMIT
from tests.simulation.wire import Clock

CATEGORIES = {  # with the default routing and the simulation's own: channels, priority
    "transaction": (("email", "push", "inapp"), "high"),
    "marketing": (("email", "sms", "inapp"), "low"),
    "security": (("email", "sms", "push"), "critical"),
    "system": (("inapp",), "normal"),
    "social": (("email", "push", "inapp"), "normal"),
    "news": (("email", "sms", "push"), "low"),
}

UNJUDGEABLE = b"unjudgeable"  # in a frame that brings judging down
POISON = "poison"  # the title of what brings a process down that attempts it


@dataclass(frozen=True)
class Sent:
    """One position of a frame, as its producer meant it; ``said`` is None for what must be rejected."""

    user_id: str
    key: str | None
    said: dict[str, Any] | None

    @property
    def is_poison(self) -> bool:
        return self.said is not None and self.said["title"].startswith(POISON)

    def planned(self) -> tuple[tuple[str, ...], str, str]:
        """Channels, priority and category that its deliveries must have."""
        assert self.said is not None
        category = self.said["category"]
        channels, priority = CATEGORIES[category]
        return tuple(self.said.get("channels", channels)), self.said.get("priority", priority), category


@dataclass(frozen=True)
class Submission:
    source: int
    fanned: bool
    body: bytes
    positions: tuple[Sent, ...]
    error: Error | None = None

    @property
    def is_unjudgeable(self) -> bool:
        return UNJUDGEABLE in self.body


class Producer:
    def __init__(self, random: Random, clock: Clock, users: list[str]) -> None:
        self._random = random
        self._clock = clock
        self._users = users
        self._hot = random.choice((0.0, 0.0, 0.9))  # the share of the first user
        self._poison = random.choice((0.0, 0.01))
        self._unjudgeable = random.choice((0.0, 0.005))
        self._made = 0
        self._keyed: list[tuple[str, str, dict[str, Any]]] = []

    def frame(self) -> Submission:
        random = self._random
        self._made += 1
        if random.random() < 0.03:
            raw = b"\xc1 no document %d" % self._made
            return Submission(2, False, raw, (), Error("bad_encoding", "not decodable"))
        encode = msgspec.json.encode if random.random() < 0.3 else msgspec.msgpack.encode
        plain, fanned = random.random() < 0.4, random.random() < 0.2
        entries: list[object] = []
        positions: list[Sent] = []
        for _ in range(random.choice((1, 1, 2, 3, 8, 20))):
            if fanned and random.random() < 0.5:
                names = random.sample(self._users, random.randint(1, 3))
                said = {"category": "system", "title": "to all"}
                entries.append((names, {"recipients": names, **said}))
                positions += [Sent(name, None, said) for name in names]
            else:
                user_id, key, said = self._plain()
                valid = plain or self._complicate(said)
                has_key = plain or random.random() > 0.15
                positions.append(Sent(user_id, key if valid and has_key else None, said if valid else None))
                if valid and has_key:
                    self._keyed.append((user_id, key, said))
                entries.append({"user_id": user_id, **({"idempotency_key": key} if has_key else {}), **said})
        return Submission(SUBMIT if random.random() < 0.7 else 1, fanned, encode(entries), tuple(positions))

    def _plain(self) -> tuple[str, str, dict[str, Any]]:
        random = self._random
        self._made += 1
        if self._keyed and random.random() < 0.1:
            user_id, key, said = random.choice(self._keyed)
            if random.random() < 0.5 and set(said) <= {"title", "category", "priority"}:
                return user_id, key, dict(said)
        else:
            user_id = self._users[0] if random.random() < self._hot else random.choice(self._users)
            key = f"key-{self._made}"
        draw = random.random()
        kind = "number"
        if draw < self._poison:
            kind = POISON
        elif draw > 1 - self._unjudgeable:
            kind = UNJUDGEABLE.decode()
        said = {"title": f"{kind} {self._made}", "category": random.choice(list(CATEGORIES))}
        if random.random() < 0.3:
            said["priority"] = random.choice(("low", "normal", "high", "critical"))
        if said["category"] == "social" and random.random() < 0.5:
            said["payload"] = {"thread": random.choice(("a", "b"))}
        return user_id, key, said

    def _complicate(self, said: dict[str, Any]) -> bool:
        """Something that needs a look of its own; whether it stays valid."""
        random = self._random
        draw = random.random()
        if draw < 0.15:
            said.update([random.choice((("category", "nonsense"), ("colour", "red"), ("priority", "9")))])
            return False
        if draw < 0.35:
            said["expires_at"] = self._clock.wall_us // 1000 + random.choice((-1_000, 500, 30_000, 10**7))
        if 0.35 < draw < 0.6:
            ahead_ms = random.choice((-1_000, 1, 400, 5_000, 60_000, 3_600_000, 20 * 86_400_000))
            said["send_at"] = self._clock.wall_us // 1000 + ahead_ms
            if random.random() < 0.3:
                said["expires_at"] = said["send_at"] + random.choice((-200, 0, 200, 30_000))
        if draw > 0.8 or draw < 0.1:
            said["channels"] = random.sample(["email", "sms", "push", "inapp", "webhook"], random.randint(1, 3))
        return True
