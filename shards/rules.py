"""Routing: which channels and which priority a notification gets.

Its own wishes come first, then the first of the configured rules that matches, then its category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from shards import conditions, ledger
from shards.conditions import Conditions
from shards.content_keys import names_of
from shards.nearest import unknown
from shards.wire.errors import RequestError
from shards.wire.notification import PRIORITIES, PRIORITY_NUMBERS, Notification

RULES_MAX = 1_000
RULES_CACHED_MAX = 10_000  # distinct (category, priority, channels, rule) beside the plain ones


class Category(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A business class of notifications.

    ``override_preferences`` delivers whatever the user switched off. What ``extends`` names has given what this one did
    not set itself. ``unsubscribable`` is for e-mail headers. ``content_key`` stands in for a missing key.
    """

    channels: tuple[str, ...]
    priority: str = "normal"
    override_preferences: bool = False
    unsubscribable: bool = False
    content_key: str = ""
    extends: str = ""

    def __post_init__(self) -> None:
        _check_wishes(self.channels, self.priority)
        if self.content_key:
            try:
                names_of(self.content_key)
            except ValueError as error:
                raise ValueError(f"content_key: {error}") from None


class RuleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of ``[[rules]]``: what it decides of notifications in ``categories`` (any) of which ``when`` is true."""

    name: str
    when: str | None = None
    categories: tuple[str, ...] | None = None
    channels: tuple[str, ...] | None = None
    priority: str | None = None

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 255:
            raise ValueError("name must have 1 to 255 characters")
        if self.categories is not None and not self.categories:
            raise ValueError("categories is empty; leave it out to look at all of them")
        if self.channels is None and self.priority is None:
            raise ValueError("it decides nothing; give it channels, priority, or both")
        _check_wishes(self.channels, self.priority)
        if self.when is not None:
            try:
                conditions.check(self.when)
            except ValueError as error:
                raise ValueError(f"when: {error}") from None


class PlacedRule(RuleSettings, frozen=True, forbid_unknown_fields=True):
    """A rule with the line where the file has it, which no file says itself."""

    line: int | None = None


def _check_wishes(channels: tuple[str, ...] | None, priority: str | None) -> None:
    if priority is not None and priority not in PRIORITIES:
        raise ValueError(f"priority {priority!r} is not one of {', '.join(PRIORITIES)}")
    if channels is not None and (not channels or len(set(channels)) != len(channels)):
        raise ValueError("channels must name at least one channel, each once")


DEFAULT_CATEGORIES: Mapping[str, Category] = {
    "transaction": Category(channels=("email", "push", "inapp"), priority="high"),
    "marketing": Category(channels=("email", "inapp"), priority="low"),
    "security": Category(channels=("email", "sms", "push"), priority="critical", override_preferences=True),
    "system": Category(channels=("inapp",), priority="normal"),
}


def is_default(name: str, category: Category) -> bool:
    """Whether its channels are those of the default routing."""
    return name in DEFAULT_CATEGORIES and category.channels == DEFAULT_CATEGORIES[name].channels


class Rule:
    """What one kind of notification is routed by: its planned channels, in order, and its priority."""

    __slots__ = (
        "category",
        "channels",
        "content_key",
        "explicit",
        "number",
        "override",
        "pending",
        "priority",
        "width",
    )

    def __init__(
        self,
        category: str,
        channels: tuple[int, ...],
        priority: int,
        override: bool,
        explicit: bool,
        number: int = 0,
        content_key: str = "",
    ) -> None:
        self.category = category
        self.channels = channels
        self.priority = priority
        self.override = override
        self.explicit = explicit  # a producer, a configured rule or a configured category named the channels
        self.number = number  # of the configured rule that decided something, from 1 on; 0 if none did
        self.content_key = content_key
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


class Look(NamedTuple):
    """At a configured rule, by its number: whether it matched, and why that could not be answered."""

    number: int
    matched: bool
    problem: str


Own = tuple[str, str | int | None, tuple[str, ...] | None, int]  # category, priority, channels, and the rule's number


class Routing:
    """Resolves notifications to rules; ``channel_numbers`` are the journal's numbers of the channels."""

    def __init__(
        self,
        configured: Mapping[str, Category],
        channel_numbers: Mapping[str, int],
        rules: Sequence[PlacedRule] = (),
    ) -> None:
        self.categories = {**DEFAULT_CATEGORIES, **configured}
        self._configured = frozenset(name for name, category in configured.items() if not is_default(name, category))
        self._numbers = channel_numbers
        self.rules = tuple(rules)
        self.conditions = Conditions([rule.when for rule in rules])
        self._rules_of = {
            name: [at for at, rule in enumerate(rules) if rule.categories is None or name in rule.categories]
            for name in self.categories
        }
        self.has_content_keys = any(one.content_key for one in self.categories.values())
        self._unsubscribable = frozenset(name for name, one in self.categories.items() if one.unsubscribable)
        self._made: dict[Own, Rule] = {}
        # the hot look-up: without channels of its own, and of a category that no rule looks at
        self.plain: dict[tuple[str, str | int | None], Rule] = {
            (name, priority): self._make((name, priority, None, 0))
            for name in self.categories
            for priority in (None, *PRIORITY_NUMBERS)
            if not self._rules_of[name]
        }

    def is_default(self, category: str) -> bool:
        """Whether the built-in routing names its channels, and no configuration."""
        return category not in self._configured

    def is_unsubscribable(self, category: str) -> bool:
        """Whether its mails say how to unsubscribe; one that is not configured any more does not."""
        return category in self._unsubscribable

    def resolve(
        self,
        notification: Notification,
        user_id: str = "",
        now_ms: int = 0,
        locale: str = "",
        zone: str = "UTC",
        looks: list[Look] | None = None,
    ) -> Rule:
        """The rule of a notification; ``RequestError`` names what is unknown, and the nearest that is known.

        The rest is for conditions: the user, the wall clock, the user's locale and the name of their time zone. With
        ``looks``, which learns what was looked at, nothing is counted.
        """
        if notification.channels is None:
            plain = self.plain.get((notification.category, notification.priority))
            if plain is not None:
                return plain
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
        channels = None if notification.channels is None else tuple(notification.channels)
        number = 0
        if self._rules_of[notification.category] and (channels is None or notification.priority is None):
            priority = PRIORITIES[PRIORITY_NUMBERS[_first(notification.priority, category.priority)]]
            number = self._match(notification, priority, user_id, locale, zone, now_ms, looks)
        key = (notification.category, notification.priority, channels, number)
        rule = self._made.get(key)
        if rule is None:
            self._check_channels(channels or ())
            if len(self._made) >= RULES_CACHED_MAX:
                self._made.clear()
            rule = self._made[key] = self._make(key)
        return rule

    def asked(self, notification: Notification) -> Asked:
        """Of a journaled notification, which may be of a category that is no more."""
        category = self.categories.get(notification.category)
        return Stored(
            notification.category,
            category is not None and category.override_preferences,
            notification.channels is not None or notification.category in self._configured,
        )

    def failures(self) -> dict[str, int]:
        """By rule, how often its condition could not be answered, where that was so."""
        return {rule.name: count for rule, count in zip(self.rules, self.conditions.failures, strict=True) if count}

    def describe(self) -> list[tuple[str, int | None, str | None]]:
        """The name, line and condition of each configured rule, in their order: what their numbers mean."""
        return [(rule.name, rule.line, rule.when) for rule in self.rules]

    def _check_channels(self, channels: tuple[str, ...]) -> None:
        for channel in channels:
            if channel not in self._numbers:
                raise RequestError("unknown_channel", unknown("channel", channel, self._numbers), "channels")
        if len(set(channels)) != len(channels):
            raise RequestError("bad_value", "channels names a channel twice; name each once", "channels")

    def _match(
        self,
        notification: Notification,
        priority: str,
        user_id: str,
        locale: str,
        zone: str,
        now_ms: int,
        looks: list[Look] | None,
    ) -> int:
        """The number of the rule that matches first; 0 if none does, or if it is left nothing to decide."""
        told = False
        for at in self._rules_of[notification.category]:
            rule = self.rules[at]
            if rule.when is not None and not told:
                self.conditions.tell(notification, priority, user_id, locale, zone, now_ms)
                told = True
            if looks is None:
                holds = self.conditions.hold(at)
            else:
                holds, problem = self.conditions.answer(at)
                looks.append(Look(at + 1, holds, problem))
            if holds:
                decides = (notification.channels is None and rule.channels is not None) or (
                    notification.priority is None and rule.priority is not None
                )
                return at + 1 if decides else 0
        return 0

    def _make(self, own: Own) -> Rule:
        name, priority, channels, number = own
        category = self.categories[name]
        rule = self.rules[number - 1] if number else None
        ruled = rule.channels if rule else None
        return Rule(
            name,
            tuple(self._numbers[channel] for channel in channels or ruled or category.channels),
            PRIORITY_NUMBERS[_first(priority, rule.priority if rule else None, category.priority)],
            category.override_preferences,
            channels is not None or ruled is not None or name in self._configured,
            number,
            category.content_key,
        )


def _first(*values: str | int | None) -> str | int:
    """The first that is given: a priority may be 0."""
    return next(value for value in values if value is not None)
