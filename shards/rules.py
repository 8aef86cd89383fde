"""Routing: which channels and which priority a notification gets, from its category and its own wishes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from shards import ledger
from shards.wire import PRIORITIES, PRIORITY_NUMBERS, Notification, RequestError

NAME_SHOWN = 80  # characters of a name that is not known; the search for its neighbours takes longer than linear time
RULES_CACHED_MAX = 10_000  # distinct (category, priority, channels) of producers' own wishes


class Category(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A business class of notifications. ``override_preferences`` delivers whatever the user switched off."""

    channels: tuple[str, ...]
    priority: str = "normal"
    override_preferences: bool = False

    def __post_init__(self) -> None:
        if self.priority not in PRIORITIES:
            raise ValueError(f"priority {self.priority!r} is not one of {', '.join(PRIORITIES)}")
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise ValueError("channels must name at least one channel, each once")


DEFAULT_CATEGORIES: Mapping[str, Category] = {
    "transaction": Category(channels=("email", "push", "inapp"), priority="high"),
    "marketing": Category(channels=("email", "inapp"), priority="low"),
    "security": Category(channels=("email", "sms", "push"), priority="critical", override_preferences=True),
    "system": Category(channels=("inapp",), priority="normal"),
}


class Rule:
    """What one kind of notification is routed by: its planned channels, in order, and its priority."""

    __slots__ = ("category", "channels", "explicit", "override", "pending", "priority", "width")

    def __init__(self, category: str, channels: tuple[int, ...], priority: int, override: bool, explicit: bool) -> None:
        self.category = category
        self.channels = channels
        self.priority = priority
        self.override = override
        self.explicit = explicit  # a producer or a configured category named the channels
        self.width = len(channels)
        self.pending = tuple(ledger.word(channel, priority) for channel in channels)


class Asked(Protocol):
    """What a decision needs to know of how a notification was routed."""

    @property
    def category(self) -> str: ...
    @property
    def override(self) -> bool: ...
    @property
    def explicit(self) -> bool: ...


class Stored(NamedTuple):
    """The same of one that was journaled, by the configuration of today."""

    category: str
    override: bool
    explicit: bool


class Routing:
    """Resolves notifications to rules; ``channel_numbers`` are the journal's numbers of the channels."""

    def __init__(self, configured: Mapping[str, Category], channel_numbers: Mapping[str, int]) -> None:
        self.categories = {**DEFAULT_CATEGORIES, **configured}
        self._configured = frozenset(
            name
            for name, category in configured.items()
            if name not in DEFAULT_CATEGORIES or category.channels != DEFAULT_CATEGORIES[name].channels
        )
        self._numbers = channel_numbers
        self._wished: dict[tuple[str, str | int | None, tuple[str, ...]], Rule] = {}
        self.plain: dict[tuple[str, str | int | None], Rule] = {}  # without channels of its own: the hot look-up
        for name, category in self.categories.items():
            for priority in (None, *PRIORITY_NUMBERS):
                self.plain[name, priority] = self._rule(name, category, priority, None)

    def resolve(self, notification: Notification) -> Rule:
        """The rule of a notification; ``RequestError`` names what is unknown, and the nearest that is known."""
        category = self.categories.get(notification.category)
        if category is None:
            raise RequestError(
                "unknown_category", unknown("category", notification.category, self.categories), "category"
            )
        if notification.priority not in PRIORITY_NUMBERS and notification.priority is not None:
            raise RequestError(
                "bad_value",
                f"priority {notification.priority!r:.80} is not one of {', '.join(PRIORITIES)} or 0 to 3",
                "priority",
            )
        if notification.channels is None:
            return self.plain[notification.category, notification.priority]
        channels = tuple(notification.channels)
        key = (notification.category, notification.priority, channels)
        rule = self._wished.get(key)
        if rule is None:
            for channel in channels:
                if channel not in self._numbers:
                    raise RequestError("unknown_channel", unknown("channel", channel, self._numbers), "channels")
            if len(set(channels)) != len(channels):
                raise RequestError("bad_value", "channels names a channel twice; name each once", "channels")
            if len(self._wished) >= RULES_CACHED_MAX:
                self._wished.clear()
            rule = self._wished[key] = self._rule(notification.category, category, notification.priority, channels)
        return rule

    def asked(self, notification: Notification) -> Asked:
        """Of a journaled notification, which may be of a category that is no more."""
        category = self.categories.get(notification.category)
        return Stored(
            notification.category,
            category is not None and category.override_preferences,
            notification.channels is not None or notification.category in self._configured,
        )

    def _rule(
        self, name: str, category: Category, priority: str | int | None, channels: tuple[str, ...] | None
    ) -> Rule:
        return Rule(
            name,
            tuple(self._numbers[channel] for channel in channels or category.channels),
            PRIORITY_NUMBERS[category.priority if priority is None else priority],
            category.override_preferences,
            channels is not None or name in self._configured,
        )


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not known: it proposes the nearest ones, or lists what there is."""
    names, name = sorted(known), name[:NAME_SHOWN]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"
