"""What a run configures beside its channels: limits, caps and digests, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal

from shards.caps import CapSettings
from shards.digests import DigestSettings
from shards.limiter import RateLimit
from shards.rules import Category
from shards.units import Seconds

CATEGORIES = {
    "marketing": Category(channels=("email", "sms", "inapp"), priority="low"),
    "social": Category(channels=("email", "push", "inapp"), priority="normal"),
    "news": Category(channels=("email", "sms", "push"), priority="low"),
}
OVERFLOWS: tuple[Literal["drop", "delay", "inapp", "digest"], ...] = ("drop", "delay", "inapp", "digest")


@dataclass(frozen=True)
class Policies:
    rate_limits: dict[str, RateLimit] = field(default_factory=dict)
    caps: dict[str, CapSettings] = field(default_factory=dict)
    digests: dict[str, DigestSettings] = field(default_factory=dict)

    def digest_of(self, category: str, channel: str, priority: str, when: str = "always") -> DigestSettings | None:
        """The one that takes such deliveries."""
        if priority == "critical":
            return None
        return next((one for one in self.digests.values() if one.when == when and one.covers(category, channel)), None)

    def limits_of(self, category: str, channel: str) -> list[str]:
        """The names, as the journal has them, of all that such deliveries are charged to."""
        caps = [
            f"cap:{name}"
            for name, cap in self.caps.items()
            if category in (cap.categories or [category]) and channel in (cap.channels or [channel])
        ]
        return caps + ([f"rate:{channel}"] if channel in self.rate_limits else [])


def draw(random: Random) -> Policies:
    rate_limits = {"sms": RateLimit("6/minute", burst=2, overflow=random.choice(OVERFLOWS), exempt=("critical",))}
    for channel in ("email", "push", "inapp"):
        if random.random() < 0.3:
            overflow = "drop" if channel == "inapp" else random.choice(OVERFLOWS)
            rate_limits[channel] = RateLimit("10/minute", burst=random.choice((1, 5)), overflow=overflow)
    caps = {}
    if random.random() < 0.5:
        caps["few"] = CapSettings(3, Seconds(120.0), categories=("marketing", "news"), exempt=("critical",))
    if random.random() < 0.2:
        caps["all"] = CapSettings(20, Seconds(60.0), channels=("email", "sms"))
    digests = {}
    if random.random() < 0.8:
        digests["social"] = DigestSettings(
            "social",
            Seconds(random.choice((2.0, 20.0, 600.0))),
            categories=("social",),
            channels=random.choice(((), ("email", "push"))),
            key=random.choice((None, "thread")),
            leading=random.random() < 0.4,
            items_max=random.choice((2, 4, 100)),
        )
    if random.random() < 0.8:
        digests["rest"] = DigestSettings(
            "rest", Seconds(random.choice((5.0, 60.0))), items_max=random.choice((3, 100)), when="overflow"
        )
    return Policies(rate_limits, caps, digests)
