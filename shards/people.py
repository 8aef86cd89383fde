"""Recipients as the shard needs them: for each rule, a decision that all users who chose alike share."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping

import msgspec

from shards import ledger
from shards.channels.base import Recipient
from shards.health import Health, without
from shards.limiter import Limiter
from shards.preferences import ALLOW_ALL, Choices, UserDocument
from shards.rules import Routing, Rule
from shards.validation import check_user_id
from shards.wire.ids import hash_user
from shards.wire.notification import PRIORITIES

RECIPIENTS_MAX = 10_000  # whose contacts are kept at hand
NOBODY = UserDocument()

Key = Rule | tuple[str, str | int | None]  # a rule, or the (category, priority) that names a plain one


class Decision:
    """What a rule means for users who chose alike: the words of its slots, and what is to be sent."""

    __slots__ = ("doomed", "effects", "mask", "rule", "sends", "settled", "special", "template", "width")

    def __init__(
        self,
        rule: Rule,
        verdicts: list[tuple[int, int]],
        limiters: Mapping[int, Limiter],
        special: tuple[int, ...] = (),
    ) -> None:
        words = []
        sends: list[tuple[int, int, Limiter | None, bool]] = []
        self.mask = 0
        for offset, (channel, (outcome, reason)) in enumerate(zip(rule.channels, verdicts, strict=True)):
            limiter = limiters.get(channel)
            if outcome == ledger.PENDING and limiter is not None and offset not in special:
                reason = ledger.REASON["charged"]
            words.append(ledger.word(channel, rule.priority, outcome, reason))
            if outcome == ledger.PENDING and offset in special:
                self.mask |= ledger.lane_bit(ledger.lane_of(channel, rule.priority))
            elif outcome == ledger.PENDING:
                exempt = limiter is not None and PRIORITIES[rule.priority] in limiter.exempt
                lane = ledger.lane_of(channel, rule.priority)
                sends.append((offset, lane, limiter, exempt))
                self.mask |= ledger.lane_bit(lane)
        self.rule = rule
        self.width = rule.width
        self.template = array("I", words).tobytes()
        self.sends = tuple(sends)
        self.doomed = tuple(at for at, (outcome, _) in enumerate(verdicts) if outcome == ledger.DEAD)
        self.special = special  # of the offsets: those that are decided one by one
        self.settled = len(words) - len(sends) - len(special)
        self.effects = tuple((ledger.channel_of(value), ledger.outcome_of(value)) for value in words)


NO_RULE = Rule("", (), 0, False, False)  # of a duplicate or a rejection: nothing is planned
NO_DECISION = Decision(NO_RULE, [], {})


class Decisions(dict[Key, Decision]):
    """Made when first asked for; ``KeyError`` for a category or priority that is not known."""

    def __init__(self, make: Callable[[Key, Choices], Decision], choices: Choices) -> None:
        super().__init__()
        self._make = make
        self._choices = choices

    def __missing__(self, key: Key) -> Decision:
        decision = self[key] = self._make(key, self._choices)
        return decision


class User:
    """A recipient: ``decisions`` is shared, like the choices, by all who chose alike. ``zone`` names a time zone."""

    __slots__ = ("choices", "decisions", "hash", "signed_hash", "user_id", "zone")

    def __init__(self, user_id: str, user_hash: int, choices: Choices, decisions: Decisions, zone: str = "UTC") -> None:
        self.user_id = user_id
        self.hash = user_hash
        self.signed_hash = user_hash - 2**64 if user_hash >= 2**63 else user_hash  # as SQLite and array("q") hold it
        self.choices = choices
        self.decisions = decisions
        self.zone = zone


class People:
    """The cache of recipients, over the documents that ``load`` reads; bounded by ``users_max``."""

    def __init__(
        self,
        routing: Routing,
        channel_names: list[str],
        configured: frozenset[int],
        limiters: Mapping[int, Limiter],
        load: Callable[[str], UserDocument | None],
        users_max: int,
        default_zone: str = "UTC",
        strict: frozenset[int] = frozenset(),
        health_of: Callable[[str], Mapping[tuple[str, str], Health]] = lambda _user_id: {},
        needs_a_look: Callable[[Rule, int, Choices], bool] = lambda _rule, _channel, _choices: False,
    ) -> None:
        """``strict`` are the channels whose provider is real: there, who has no contacts at all has none to use."""
        self._needs_a_look = needs_a_look
        self.known: dict[str, User] = {}
        self._routing = routing
        self._channel_names = channel_names
        self._configured = configured
        self._limiters = limiters
        self._load = load
        self._users_max = users_max
        self._default_zone = default_zone
        self._strict = strict
        self._health_of = health_of
        self._recipients: dict[str, Recipient] = {}
        self._alike: dict[object, tuple[Choices, Decisions]] = {}

    def user(self, user_id: str) -> User:
        """The recipient, from the cache or their document; ``RequestError`` if it is no user id."""
        user = self.known.get(user_id)
        if user is not None:
            return user
        check_user_id(user_id)
        if len(self.known) >= self._users_max:
            self.known.clear()
            self._alike.clear()
        document, dead = self._document(user_id)
        choices = ALLOW_ALL if document is None else Choices(document, self._default_zone, dead)
        choices, decisions = self._alike.setdefault(choices.key, (choices, Decisions(self._decide, choices)))
        zone = (document.timezone if document else None) or self._default_zone
        user = self.known[user_id] = User(user_id, hash_user(user_id), choices, decisions, zone)
        return user

    def _document(self, user_id: str) -> tuple[UserDocument | None, frozenset[str]]:
        """Without the contacts that do not work, and the channels of which none is left."""
        document = self._load(user_id)
        if document is None or not (health := self._health_of(user_id)):
            return document, frozenset()
        contacts, dead = without(
            document.contacts, lambda channel, text: (channel, text) in health and health[channel, text].state == "dead"
        )
        return msgspec.structs.replace(document, contacts=contacts), dead

    def recipient(self, user: User) -> Recipient:
        """Whom a channel is to reach."""
        found = self._recipients.get(user.user_id)
        if found is None:
            if len(self._recipients) >= RECIPIENTS_MAX:
                self._recipients.clear()
            document = self._document(user.user_id)[0] or NOBODY
            found = Recipient(user.user_id, document.contacts, document.locale, user.zone)
            self._recipients[user.user_id] = found
        return found

    def is_configured(self, channel: int) -> bool:
        return channel in self._configured

    def forget(self, user_id: str) -> None:
        """The user's document has changed."""
        self.known.pop(user_id, None)
        self._recipients.pop(user_id, None)

    def _decide(self, key: Key, choices: Choices) -> Decision:
        rule = key if isinstance(key, Rule) else self._routing.plain[key]
        verdicts = [
            self.verdict(choices, rule.category, channel, rule.override, rule.explicit) for channel in rule.channels
        ]
        special = tuple(
            at
            for at, (channel, (outcome, _)) in enumerate(zip(rule.channels, verdicts, strict=True))
            if outcome == ledger.PENDING and self._needs_a_look(rule, channel, choices)
        )
        return Decision(rule, verdicts, self._limiters, special)

    def verdict(self, choices: Choices, category: str, channel: int, override: bool, explicit: bool) -> tuple[int, int]:
        """The outcome and reason of a delivery as far as preferences, configuration and contacts go."""
        name = self._channel_names[channel]
        if not override and choices.block(category, name):
            return ledger.SUPPRESSED, ledger.REASON["preference"]
        if channel not in self._configured:
            return ledger.DEAD if explicit else ledger.SUPPRESSED, ledger.REASON["channel_not_configured"]
        if name in choices.dead:
            return ledger.SUPPRESSED, ledger.REASON["bad_address"]
        if not choices.has_contact(name) and (choices.has_contacts or channel in self._strict):
            return ledger.SUPPRESSED, ledger.REASON["no_contact"]
        return ledger.PENDING, 0
