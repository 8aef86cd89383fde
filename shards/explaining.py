"""Why a notification would reach a user, or not: every decision that it would meet, in order, and nothing done.

The parts that decide are asked the questions that they answer without a charge. A decision that ends a delivery, or
has it wait, is the last one of its channel before the outcome.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeGuard

from shards import ledger, validation
from shards.book import has_expired
from shards.broadcasts import UnknownTopicError
from shards.changes import Now
from shards.core import Core
from shards.deferrals import waits_until_ms
from shards.digests import Digest, composed
from shards.findings import DEFERRED, ENDS, LIMITED, STEP_OF_REASON, Finding, instant, rejected
from shards.judging import NOBODY
from shards.people import User
from shards.rules import Look, Rule
from shards.template_parts import TemplateError
from shards.wire.encoding import pack
from shards.wire.errors import RequestError
from shards.wire.ids import hash_user
from shards.wire.notification import PRIORITIES, Notification

LOOKS_MAX = 50  # rules that are told of, of those that did not match


class Case(NamedTuple):
    """A notification to one user at one moment."""

    user: User
    notification: Notification
    rule: Rule
    now: Now
    planned: set[int]  # the channels
    charged: Counter[str]  # to caps, by the deliveries that were looked at

    @property
    def now_ms(self) -> int:
        return self.now.wall_us // 1000

    @property
    def expires_ms(self) -> int | None:
        given = self.notification.expires_at
        return None if given is None else validation.instant_ms("expires_at", given)

    def next_at(self, mono: float) -> dict[str, Any]:
        """When a limit has room again; it may be that this is not known."""
        if mono == math.inf:
            return {}
        return instant("next_at", math.ceil(self.now.wall_us / 1000 + (mono - self.now.mono) * 1000))


class Explainer:
    def __init__(self, core: Core) -> None:
        self._core = core

    def explain(self, document: dict[str, Any], now: Now) -> list[dict[str, Any]]:
        """Decisions on a notification as its producer would send it. What names recipients concerns those that are
        this shard's, each with decisions of their own, which name them."""
        core = self._core
        recipients = document.get("recipients")
        others = (document.get("user_id"), document.get("topic"))
        if not _are_texts(recipients) or others != (None, None):
            (item,) = validation.decode_items(pack([document]), False)
            return [finding.document() for finding in self._item(item, now)]
        shard, shards = core.settings.shard, core.settings.shards
        mine = [name for name in dict.fromkeys(recipients) if hash_user(name) % shards == shard]
        return [
            finding.document() | {"user_id": item.user_id if isinstance(item, validation.RejectedItem) else item[0]}
            for item in validation.decode_items(pack([(mine, document)]), True)
            for finding in self._item(item, now)
        ]

    def explain_topic(self, document: dict[str, Any], id_: str | None, now: Now) -> dict[str, Any]:
        """Decisions on what goes to a topic, under ``id_`` if it has a key, before its users are known.

        With how many of these the shard has, and names that are near to one that it does not know.
        """
        (item,) = validation.decode_items(pack([document]), False)
        if isinstance(item, validation.RejectedItem):
            return {"decisions": [rejected(item.error).document()], "users": 0, "near": []}
        try:
            findings, users = self._to_topic(item[1], id_, now)
        except RequestError as refused:
            near = refused.near if isinstance(refused, UnknownTopicError) else []
            return {"decisions": [rejected(refused.error).document()], "users": 0, "near": near}
        return {"decisions": [finding.document() for finding in findings], "users": users, "near": []}

    def _to_topic(self, notification: Notification, id_: str | None, now: Now) -> tuple[list[Finding], int]:
        judge = self._core.judge
        accepted = Finding("accept", "pass", detail={"topic": notification.topic})
        if id_ is not None and (known := judge.original_broadcast(0, id_, notification)):
            detail = {"id": known.id, "mismatch": known.mismatch}
            return [accepted, Finding("duplicate", "block", "duplicate", detail)], 0
        looks: list[Look] = []
        rule, key = judge.check_content(notification, NOBODY, now.wall_us // 1000, looks)
        users = self._core.broadcasts.check(notification.topic or "")
        case = Case(NOBODY, notification, rule, now, set(), Counter())
        findings = [
            accepted,
            Finding("duplicate", "pass", detail={"key": key}) if key else Finding("duplicate", "skip", "no_key"),
            *self._rules(case, looks),
            self._priority(case),
            _expiry(case),
        ]
        return findings if findings[-1].result in ENDS else [*findings, _schedule(case)], users

    def _item(self, item: validation.Item | validation.RejectedItem, now: Now) -> Iterator[Finding]:
        if isinstance(item, validation.RejectedItem):
            yield rejected(item.error)
            return
        user_id, notification = item
        looks: list[Look] = []
        try:
            user, decision, _, key = self._core.judge.check(user_id, notification, now.wall_us // 1000, looks)
        except RequestError as error:
            yield rejected(error.error)
            return
        yield Finding("accept", "pass")
        case = Case(user, notification, decision.rule, now, set(decision.rule.channels), Counter())
        duplicate = self._duplicate(case, key)
        yield duplicate
        if duplicate.result == "block":
            return
        yield from self._rules(case, looks)
        yield self._priority(case)
        for step in (_expiry, _schedule):
            finding = step(case)
            yield finding
            if finding.result in ENDS:
                for channel in case.rule.channels:
                    yield _outcome(finding._replace(channel=self._core.channel_names[channel]))
                return
        for channel in case.rule.channels:
            yield from self._delivery(case, channel)

    def _delivery(self, case: Case, channel: int) -> Iterator[Finding]:
        for finding in self._steps(case, channel):
            yield finding
            if finding.result in ENDS:
                yield _outcome(finding)
                return
            if finding.result == "move":
                yield from self._delivery(case, self._core.inapp)
                return
        name, why = self._core.channel_names[channel], None
        wait = self._core.waits_for(channel, case.user, case.now)
        if wait is not None:
            why = wait.why
            yield Finding("channel", "defer", why, wait.document(), channel=name)
        yield Finding("outcome", ledger.OUTCOMES[ledger.PENDING], why, channel=name)

    def _steps(self, case: Case, channel: int) -> Iterator[Finding]:
        name = self._core.channel_names[channel]
        for step in (self._verdict, self._digest, self._caps, self._limit, self._quiet_hours, self._template):
            for finding in step(case, channel):
                yield finding._replace(channel=name)

    # --- the steps of a notification ---------------------------------------------------------------------------

    def _duplicate(self, case: Case, key: str | None) -> Finding:
        if key is None:
            return Finding("duplicate", "skip", "no_key")
        is_given = key in (case.notification.idempotency_key, case.notification.id)
        detail = {"key": key} if is_given else {"content_key": case.rule.content_key}
        found = self._core.judge.original(case.user, case.notification, key)
        if found is None:
            return Finding("duplicate", "pass", detail=detail)
        return Finding("duplicate", "block", "duplicate", {**detail, "id": found.id, "mismatch": found.mismatch})

    def _rules(self, case: Case, looks: list[Look]) -> Iterator[Finding]:
        """The configured rules that were looked at in vain, then where the channels come from."""
        rules, rule = self._core.routing.rules, case.rule
        for look in looks[:LOOKS_MAX]:
            if look.number == rule.number:
                break
            reason = "nothing_to_decide" if look.matched else "unanswerable" if look.problem else "not_true"
            vain = self._of_rule(look.number) | {"when": rules[look.number - 1].when}
            yield Finding("rule", "skip", reason, vain | ({"problem": look.problem} if look.problem else {}))
        if case.notification.channels is not None:
            source = "notification"
        elif rule.number and rules[rule.number - 1].channels is not None:
            source = "rule"
        else:
            source = "category" if rule.explicit else "default_routing"
        detail = {
            "category": rule.category,
            "channels": [self._core.channel_names[channel] for channel in rule.channels],
            "override_preferences": rule.override,
            "config_version": self._core.settings.version,
        }
        yield Finding("rule", "pass", source, (self._of_rule(rule.number) if rule.number else {}) | detail)

    def _of_rule(self, number: int) -> dict[str, Any]:
        rule = self._core.routing.rules[number - 1]
        return {"rule": rule.name, "number": number, "line": rule.line}

    def _priority(self, case: Case) -> Finding:
        ruled = self._core.routing.rules[case.rule.number - 1].priority if case.rule.number else None
        source = "notification" if case.notification.priority is not None else "rule" if ruled else "category"
        return Finding("priority", "pass", source, {"priority": PRIORITIES[case.rule.priority]})

    # --- the steps of a delivery -------------------------------------------------------------------------------

    def _verdict(self, case: Case, channel: int) -> Iterator[Finding]:
        """Preference, channel and contact: they are decided together."""
        core, rule = self._core, case.rule
        name = core.channel_names[channel]
        outcome, reason = core.people.verdict(case.user.choices, rule.category, channel, rule.override, rule.explicit)
        why = ledger.REASONS[reason]
        blocks = STEP_OF_REASON.get(why)
        if rule.override:
            yield Finding("preference", "skip", "override_preferences")
        elif blocks == "preference":
            key = case.user.choices.blocks(rule.category, name)
            yield Finding("preference", "block", why, {"key": key}, outcome=ledger.OUTCOMES[outcome])
            return
        else:
            yield Finding("preference", "pass")
        if blocks == "channel":
            table = {"table": f"channels.{name}"}
            yield Finding("channel", "block", why, table, outcome=ledger.OUTCOMES[outcome])
            return
        yield Finding("channel", "pass")
        if blocks == "contact":
            yield Finding("contact", "block", why, outcome=ledger.OUTCOMES[outcome])
        elif case.user.choices.has_contact(name):
            yield Finding("contact", "pass")
        else:
            yield Finding("contact", "skip", "none_stored")  # and a simulated provider needs none

    def _digest(self, case: Case, channel: int, when: Literal["always", "overflow"] = "always") -> Iterator[Finding]:
        core, category, user_id = self._core, case.rule.category, case.user.user_id
        name = core.digest_of(category, channel, case.rule.priority, when)
        if name is None:
            return
        key = core.digests.key(name, case.notification)
        window = core.digests.open(user_id, core.channel_names[channel], category, name, key)
        detail: dict[str, Any] = {"digest": name, "key": key, "items": len(window.places) if window else 0}
        if core.digests.leads(name, window):
            yield Finding("digest", "pass", "leading", detail)
            return
        if window is not None:
            detail |= instant("opened_at", window.opened_ms)
        detail |= instant("until", core.digests.due_ms(name, window, case.expires_ms, case.now_ms))
        detail |= self._rendered(case, channel, self._gathered(case, channel, name, key, window))[1]
        yield Finding("digest", "defer", "digest", detail, outcome=DEFERRED)

    def _gathered(self, case: Case, channel: int, name: str, key: str, window: Digest | None) -> Notification:
        """What the digest would say with this item as its last."""
        core, user_id, category = self._core, case.user.user_id, case.rule.category
        items = core.digest_items(window) if window else []
        digest = window or core.digests.fresh(("", user_id, core.channel_names[channel], category, name, key))
        return composed(digest, [*items, (case.notification.id or "", case.notification)])

    def _caps(self, case: Case, channel: int) -> Iterator[Finding]:
        core, key, mono = self._core, case.user.signed_hash, case.now.mono
        covering = core.caps_of(case.rule.category, channel)
        for name, cap in core.limits.caps.items():
            if cap not in covering:
                continue
            settings = core.settings.caps[name]
            remaining = max(0, cap.remaining(key, mono) - case.charged[name])
            detail = {"cap": name, "limit": settings.limit, "window": str(settings.window), "remaining": remaining}
            if remaining:
                yield Finding("cap", "pass", detail=detail)
            elif PRIORITIES[case.rule.priority] in cap.exempt:
                yield Finding("cap", "pass", "exempt", detail)
            else:
                if not case.charged[name]:
                    detail |= case.next_at(cap.next_at(key, mono))
                yield Finding("cap", "block", "cap", detail, outcome=LIMITED)

    def _limit(self, case: Case, channel: int) -> Iterator[Finding]:
        core, user, rule = self._core, case.user, case.rule
        limiter = core.limiters.get(channel)
        if limiter is None:
            self._charge(case, channel)
            return
        limit = core.settings.rate_limits[core.channel_names[channel]]
        remaining = limiter.remaining(user.signed_hash, case.now.mono)
        detail: dict[str, Any] = {"rate": limit.rate, "remaining": remaining}
        if remaining or PRIORITIES[rule.priority] in limiter.exempt:
            yield Finding("limit", "pass", None if remaining else "exempt", detail)
            self._charge(case, channel)
            return
        way, due_ms = core.overflow(user, rule.category, channel, rule.priority, case.planned, False, case.now)
        detail["overflow"] = way
        match way:
            case "delay":
                self._charge(case, channel)
                detail |= instant("until", waits_until_ms(due_ms, case.expires_ms))
                yield Finding("limit", "defer", "limit", detail, outcome=DEFERRED)
            case "digest":
                yield Finding("limit", "pass", "overflow", detail)
                yield from self._digest(case, channel, "overflow")
            case "inapp":
                case.planned.add(core.inapp)
                yield Finding("limit", "move", "overflow", detail)
            case "drop":
                detail |= case.next_at(limiter.next_at(user.signed_hash, case.now.mono))
                yield Finding("limit", "block", "limit", detail, outcome=LIMITED)

    def _charge(self, case: Case, channel: int) -> None:
        """What this delivery would take, its notification's others find taken."""
        covering = self._core.caps_of(case.rule.category, channel)
        case.charged.update(name for name, cap in self._core.limits.caps.items() if cap in covering)

    def _quiet_hours(self, case: Case, channel: int) -> Iterator[Finding]:
        """Nothing of a user who has none."""
        written = case.user.choices.quiet_window
        if written is None:
            return
        window, zone = written
        detail = {"start": window.start, "end": window.end, "days": window.days, "zone": zone}
        if not self._core.is_quieted(case.rule.override, channel, case.rule.priority):
            yield Finding("quiet_hours", "skip", "not_quieted", detail)
            return
        until_ms = self._core.quiet_until_ms(case.user, case.rule, channel, case.rule.priority, case.now)
        if until_ms is None:
            yield Finding("quiet_hours", "pass", detail=detail)
            return
        detail |= instant("until", waits_until_ms(until_ms, case.expires_ms))
        yield Finding("quiet_hours", "defer", "quiet_hours", detail, outcome=DEFERRED)

    def _template(self, case: Case, channel: int) -> Iterator[Finding]:
        """Rendered as it would be now; nothing of a notification that names none."""
        if case.notification.template is None:
            return
        can_be, detail = self._rendered(case, channel, case.notification)
        if can_be:
            yield Finding("template", "pass", detail=detail)
        else:
            yield Finding("template", "block", "template", detail, outcome=ledger.OUTCOMES[ledger.DEAD])

    def _rendered(self, case: Case, channel: int, said: Notification) -> tuple[bool, dict[str, Any]]:
        """Whether it can be, and from which parts, or why not; nothing where there are no templates at all."""
        engine, locale, name = self._core.templates, case.user.choices.locale, self._core.channel_names[channel]
        if not engine.names:
            return True, {}
        detail: dict[str, Any] = {"template": said.template, "locale": locale}
        try:
            engine.say(said, name, case.user.user_id, PRIORITIES[case.rule.priority], locale)
            return True, detail | {"parts": dict(engine.keys(said.template or "", name, locale))}
        except TemplateError as error:
            return False, detail | {"message": str(error)}


def _expiry(case: Case) -> Finding:
    expires_ms = case.expires_ms
    if expires_ms is None:
        return Finding("expiry", "skip", "not_set")
    detail = instant("expires_at", expires_ms)
    if has_expired(expires_ms, case.now):
        return Finding("expiry", "block", "expires_at", detail, outcome=ledger.OUTCOMES[ledger.EXPIRED])
    return Finding("expiry", "pass", detail=detail)


def _schedule(case: Case) -> Finding:
    if case.notification.send_at is None:
        return Finding("schedule", "skip", "not_set")
    send_ms = validation.instant_ms("send_at", case.notification.send_at)
    detail = instant("send_at", send_ms)
    if send_ms <= case.now_ms:
        return Finding("schedule", "pass", "past", detail)
    detail |= instant("until", waits_until_ms(send_ms, case.expires_ms))
    return Finding("schedule", "defer", "send_at", detail, outcome=DEFERRED)


def _outcome(finding: Finding) -> Finding:
    """What a decision that is the last one means for its delivery."""
    until = {key: value for key, value in (finding.detail or {}).items() if key.startswith("until")}
    return Finding("outcome", finding.outcome, finding.reason, until, finding.channel)


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(one, str) for one in value) and bool(value)
