"""What is explained is what then happens, and explaining does nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards import ledger
from shards.caps import CapSettings
from shards.changes import Now
from shards.core import Core
from shards.counters import ChannelCounters, Counters
from shards.deferrals import Timer
from shards.digests import Digest, DigestSettings
from shards.explaining import Explainer
from shards.findings import CALENDAR_END_MS, STEP_OF_REASON, STEPS, instant
from shards.limiter import RateLimit
from shards.preferences import UserDocument, parse_document
from shards.retry import RetryPolicy
from shards.rules import Category, PlacedRule
from shards.settings import Bounds, Idempotency, Priorities, Retention, ShardSettings
from shards.stored import StoredFrame
from shards.units import Seconds
from shards.wire.encoding import pack
from shards.wire.link import SUBMIT, Data, Verdict
from shards.wire.notification import CHANNELS, Notification
from tests.support.simulated import simulated
from tests.support.topics import NoTopics

NOW_MS = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC, a Tuesday
MORNING_MS = NOW_MS + 35_200_000  # 08:00 on Wednesday
HOUR_MS = 3_600_000
NOW = Now(1_000.0, NOW_MS * 1000)
NAMES = [*CHANNELS, "pager"]
SETTINGS = ShardSettings(
    shard=0,
    shards=1,
    path="",
    durability="process",
    incarnation=1,
    secret=1,
    categories={
        "billing": Category(channels=("sms", "email"), priority="high"),
        "alert": Category(channels=("email", "webhook"), override_preferences=True),
        "news": Category(channels=("inapp", "system"), priority="low"),
        "order": Category(channels=("inapp",), content_key="{user_id}:{title}"),
    },
    rate_limits={
        "email": RateLimit("2/hour", exempt=("critical",)),
        "webhook": RateLimit("1/hour", overflow="delay"),
        "system": RateLimit("1/hour", overflow="inapp"),
        "pager": RateLimit("1/hour", overflow="inapp"),
        "push": RateLimit("1/hour", overflow="digest"),
    },
    caps={
        "all": CapSettings(8, Seconds(86_400.0), exempt=("critical",)),
        "spam": CapSettings(1, Seconds(3600.0), categories=("marketing", "transaction")),
    },
    retry=RetryPolicy(),
    priorities=Priorities(),
    idempotency=Idempotency(),
    retention=Retention(),
    bounds=Bounds(),
    channels={name: simulated() for name in ("email", "webhook", "system", "push", "pager")},
    rules=(
        PlacedRule("large", "payload.total > 100", categories=("order",), channels=("email", "sms"), line=7),
        PlacedRule("gold", 'metadata.tier == "gold"', categories=("order",), priority="high", line=11),
    ),
    version=3,
    digests={
        "daily": DigestSettings("digest", Seconds(3600.0), categories=("news",), channels=("inapp",), items_max=3),
        "first": DigestSettings("digest", Seconds(60.0), categories=("news",), leading=True),
        "over": DigestSettings("digest", categories=("system", "news"), when="overflow"),
    },
)
QUIET: dict[str, Any] = {
    "channels": {"webhook": False},
    "categories": {"marketing": False, "billing": {"email": False}},
}

Outcomes = dict[str, tuple[str, str, int | None]]  # by channel: outcome, reason, and until when it is deferred


class OneTopic(NoTopics):
    """Three users are subscribed to releases."""

    def users(self, topic: str) -> int:
        return 3 if topic == "releases" else 0

    def near(self, topic: str, count: int) -> list[str]:
        return ["releases"]


class Memory:
    """Nothing is on disk but the users."""

    def __init__(self, documents: dict[str, UserDocument]) -> None:
        self.frames = self.waiting = self.users = self.health = self
        self._documents = documents
        self.health_of = self.failing = lambda *_: ()
        self.windows: dict[str, Digest] = {}
        self.topics = OneTopic()

    def get(self, of: Any) -> Any:
        """A user, or a frame."""
        return self._documents.get(of)

    def open(self, lane: int, after: int, count: int) -> Iterator[StoredFrame]:
        return iter(())

    def content(self, seq: int) -> tuple[bytes, bool, bytes | None] | None:
        return None

    def origin(self, seq: int) -> tuple[str, int]:
        return "gen", seq

    def seq_of(self, generation: str, old: int) -> int | None:
        return old

    def timers(self, lane: int, now_ms: int, count: int) -> list[Timer]:
        return []

    def due_after(self, lane: int, timers: list[Timer]) -> int | None:
        return None

    def first_dues(self) -> dict[int, int]:
        return {}

    deferred = first_windows = first_dues

    def due_windows(self, lane: int, now_ms: int, count: int) -> list[Digest]:
        return []

    def window_due_after(self, lane: int, now_ms: int) -> int | None:
        return None

    def open_window(self, window: str) -> Digest | None:
        return self.windows.get(window)

    def digests_holding(self, _prefix: str, _place: int) -> list[Digest]:
        return []

    def digests_at(self, _places: Sequence[int]) -> list[Digest]:
        return []

    def digests_of(self, seq: int) -> list[Digest]:
        return []


class Side:
    """A core, and what is asked of it."""

    def __init__(self, documents: dict[str, dict[str, Any]]) -> None:
        counters = Counters(channels=[ChannelCounters() for _ in NAMES])
        stored = {user_id: parse_document(document) for user_id, document in documents.items()}
        self.memory = Memory(stored)
        self.core = Core(SETTINGS, NAMES, self.memory, counters, lambda: 0.5)
        self.explainer = Explainer(self.core)
        self._seq = 0

    def explain(self, notification: dict[str, Any], now: Now = NOW) -> list[dict[str, Any]]:
        return self.explainer.explain(notification, now)

    def submit(self, notification: dict[str, Any], now: Now = NOW) -> tuple[Verdict | None, Outcomes]:
        """The verdict, and by channel what the delivery has then."""
        self._seq += 1
        names = notification.get("recipients")
        entries = [(names, notification)] if names is not None else [notification]
        body = pack(entries)
        verdict = self.core.receive(
            Data(1, 0, 1, self._seq, SUBMIT, now.wall_us, names is not None, body), self._seq, now
        )
        frame = self.core.frames[self._seq]
        found: Outcomes = {}
        for slot, word in enumerate(frame.slots):
            outcome = ledger.outcome_of(word)
            reason = "" if outcome == ledger.PENDING else ledger.REASONS[ledger.reason_of(word)]
            until_ms = frame.notes[slot][0] if outcome == ledger.DEFERRED else None
            found[NAMES[ledger.channel_of(word)]] = ledger.OUTCOMES[outcome], reason, until_ms
        for digest in self.core.digests.changed.values():
            assert digest is not None
            self.memory.windows[digest.window] = digest
        self.core.committed()
        return verdict, found

    def state(self) -> Any:
        """All that decides what will be answered."""
        core = self.core
        return (
            {seq: (frame.slots.tobytes(), frame.open, dict(frame.notes)) for seq, frame in core.frames.items()},
            {name: (len(cap), list(cap.charges), str(cap._states)) for name, cap in core.limits.named.items()},
            [dict(table) for table in core.idempotency._tables],
            pack(core.counters),
            list(core.queued),
            core.routing.failures(),
            bool(core.changes),
            dict(core.deferrals.counts),
            core.deferrals.dues.items(),
            core.windows.items(),
            pack(self.memory.windows),
        )


def explained(decisions: list[dict[str, Any]]) -> Outcomes:
    """As ``Side.submit`` has it."""
    return {
        decision["channel"]: (decision["result"], decision["reason"] or "", decision["detail"].get("until"))
        for decision in decisions
        if decision["step"] == "outcome"
    }


def of_step(decisions: list[dict[str, Any]], step: str, channel: str | None = None) -> dict[str, Any]:
    (found,) = [one for one in decisions if one["step"] == step and channel in (None, one["channel"])]
    return found


# --- each step ------------------------------------------------------------------------------------------------------

NIGHT = {"start": "22:00", "end": "08:00"}
USERS: dict[str, Any] = {
    "quiet": {"preferences": QUIET},
    "asleep": {"preferences": {"quiet_hours": NIGHT}},
    "awake": {"preferences": {"quiet_hours": NIGHT | {"days": ["mon"]}}, "timezone": "Europe/Paris"},
    "phone": {"contacts": {"phone": "+33612345678"}},
    "mail": {"contacts": {"email": "ada@example.org"}},
}
STEP_CASES: list[tuple[dict[str, Any], str, str | None, str, str | None, dict[str, Any]]] = [
    # notification, step, channel, result, reason, part of the detail
    ({"title": "t", "titel": "t"}, "accept", None, "rejected", "unknown_key", {"field": "titel"}),
    ({"title": "t", "category": "bilin"}, "accept", None, "rejected", "unknown_category", {"field": "category"}),
    ({"title": "t", "user_id": ""}, "accept", None, "rejected", "bad_value", {"field": "user_id"}),
    ({"title": "t", "payload": {"n": float("nan")}}, "accept", None, "rejected", "bad_value", {"field": "payload"}),
    ({"title": "t", "priority": 7}, "accept", None, "rejected", "bad_value", {"field": "priority"}),
    ({}, "accept", None, "rejected", "bad_value", {"field": "title"}),
    ({"title": "t"}, "accept", None, "pass", None, {}),
    ({"title": "t"}, "duplicate", None, "skip", "no_key", {}),
    ({"title": "t", "idempotency_key": "new"}, "duplicate", None, "pass", None, {"key": "new"}),
    ({"title": "t", "id": "new"}, "duplicate", None, "pass", None, {"key": "new"}),
    ({"title": "t"}, "rule", None, "pass", "default_routing", {"category": "system", "channels": ["inapp"]}),
    ({"title": "t", "category": "billing"}, "rule", None, "pass", "category", {"channels": ["sms", "email"]}),
    ({"title": "t", "channels": ["email"]}, "rule", None, "pass", "notification", {"channels": ["email"]}),
    ({"title": "t"}, "rule", None, "pass", "default_routing", {"config_version": 3}),
    (
        {"title": "t", "category": "order", "payload": {"total": 101}},
        "rule", None, "pass", "rule", {"rule": "large", "number": 1, "line": 7, "channels": ["email", "sms"]},
    ),
    ({"title": "t", "category": "order", "payload": {"total": 101}}, "priority", None, "pass", "category", {}),
    (
        {"title": "t", "category": "order", "metadata": {"tier": "gold"}},
        "priority", None, "pass", "rule", {"priority": "high"},
    ),
    (
        {"title": "t", "category": "order", "metadata": {"tier": "gold"}, "priority": "low"},
        "priority", None, "pass", "notification", {"priority": "low"},
    ),
    ({"title": "new", "category": "order"}, "duplicate", None, "pass", None, {"content_key": "{user_id}:{title}"}),
    ({"title": "t", "category": "alert"}, "rule", None, "pass", "category", {"override_preferences": True}),
    ({"title": "t", "category": "billing"}, "priority", None, "pass", "category", {"priority": "high"}),
    ({"title": "t", "priority": 0}, "priority", None, "pass", "notification", {"priority": "low"}),
    ({"title": "t"}, "schedule", None, "skip", "not_set", {}),
    ({"title": "t", "send_at": 1}, "schedule", None, "pass", "past", instant("send_at", 1)),
    ({"title": "t"}, "expiry", None, "skip", "not_set", {}),
    ({"title": "t", "expires_at": NOW_MS + 1}, "expiry", None, "pass", None, instant("expires_at", NOW_MS + 1)),
    ({"title": "t", "expires_at": NOW_MS}, "expiry", None, "block", "expires_at", instant("expires_at", NOW_MS)),
    ({"title": "t", "expires_at": NOW_MS}, "outcome", "inapp", "expired", "expires_at", {}),
    ({"title": "t"}, "preference", "inapp", "pass", None, {}),
    ({"title": "t", "channels": ["webhook"]}, "preference", None, "block", "preference", {"key": "channels.webhook"}),
    (
        {"title": "t", "category": "marketing", "channels": ["inapp"]},
        "preference", "inapp", "block", "preference", {"key": "categories.marketing"},
    ),
    (
        {"title": "t", "category": "billing", "channels": ["email"]},
        "preference", "email", "block", "preference", {"key": "categories.billing.email"},
    ),
    ({"title": "t", "category": "billing"}, "outcome", "email", "suppressed", "preference", {}),
    ({"title": "t", "category": "alert"}, "preference", "webhook", "skip", "override_preferences", {}),
    (
        {"title": "t", "category": "billing"},
        "channel", "sms", "block", "channel_not_configured", {"table": "channels.sms"},
    ),
    ({"title": "t", "category": "billing"}, "outcome", "sms", "dead", "channel_not_configured", {}),
    ({"title": "t", "category": "security"}, "outcome", "sms", "suppressed", "channel_not_configured", {}),
    ({"title": "t", "send_at": NOW_MS + 5}, "schedule", None, "defer", "send_at", instant("until", NOW_MS + 5)),
    ({"title": "t", "send_at": NOW_MS + 5}, "outcome", "inapp", "deferred", "send_at", instant("until", NOW_MS + 5)),
    (
        {"title": "t", "send_at": NOW_MS + 5, "expires_at": NOW_MS + 3},
        "schedule", None, "defer", "send_at", instant("until", NOW_MS + 3),
    ),
    ({"title": "t", "send_at": NOW_MS + 5, "expires_at": NOW_MS}, "outcome", "inapp", "expired", "expires_at", {}),
    ({"title": "t", "user_id": "phone", "channels": ["email"]}, "contact", "email", "block", "no_contact", {}),
    ({"title": "t", "user_id": "mail", "channels": ["email"]}, "contact", "email", "pass", None, {}),
    ({"title": "t", "channels": ["email"]}, "contact", "email", "skip", "none_stored", {}),
    ({"title": "t", "channels": ["system"]}, "contact", "system", "pass", None, {}),
    (
        {"title": "t", "category": "news"},
        "digest", "inapp", "defer", "digest", {"digest": "daily", "items": 0, "until": NOW_MS + HOUR_MS},
    ),
    ({"title": "t", "category": "news"}, "outcome", "inapp", "deferred", "digest", {"until": NOW_MS + HOUR_MS}),
    (
        {"title": "t", "category": "news", "expires_at": NOW_MS + 60_000},
        "digest", "inapp", "defer", "digest", {"until": NOW_MS + 59_000},
    ),
    ({"title": "t", "category": "news"}, "digest", "system", "pass", "leading", {"digest": "first"}),
    (
        {"title": "t", "user_id": "asleep", "channels": ["email"]},
        "quiet_hours", "email", "defer", "quiet_hours", NIGHT | {"zone": "UTC"} | instant("until", MORNING_MS),
    ),
    ({"title": "t", "user_id": "asleep", "channels": ["email"]}, "limit", "email", "pass", None, {"remaining": 2}),
    (
        {"title": "t", "user_id": "asleep", "channels": ["email"]},
        "outcome", "email", "deferred", "quiet_hours", instant("until", MORNING_MS),
    ),
    (
        {"title": "t", "user_id": "asleep", "channels": ["email"], "priority": "critical"},
        "quiet_hours", "email", "skip", "not_quieted", NIGHT,
    ),
    ({"title": "t", "user_id": "asleep"}, "quiet_hours", "inapp", "skip", "not_quieted", {}),
    (
        {"title": "t", "user_id": "awake", "channels": ["email"]},
        "quiet_hours", "email", "pass", None, {"days": ("mon",), "zone": "Europe/Paris"},
    ),
    ({"title": "t", "channels": ["email"]}, "limit", "email", "pass", None, {"rate": "2/hour", "remaining": 2}),
    ({"title": "t", "channels": ["email"]}, "outcome", "email", "pending", None, {}),
]  # fmt: skip


@pytest.mark.parametrize(("notification", "step", "channel", "result", "reason", "detail"), STEP_CASES)
def test_each_step(
    notification: dict[str, Any],
    step: str,
    channel: str | None,
    result: str,
    reason: str | None,
    detail: dict[str, Any],
) -> None:
    found = of_step(Side(USERS).explain({"user_id": "quiet", **notification}), step, channel)
    assert (found["result"], found["reason"]) == (result, reason)
    assert found["detail"].items() >= detail.items()


def test_a_duplicate_is_named_with_its_original() -> None:
    side = Side({})
    first = {"user_id": "ann", "title": "one", "idempotency_key": "k"}
    side.submit(first)
    decisions = side.explain(first)
    verdict, _ = side.submit(first)
    assert verdict is not None
    id_ = verdict.duplicates[0].id
    assert [(one["step"], one["result"]) for one in decisions] == [("accept", "pass"), ("duplicate", "block")]
    assert decisions[-1]["detail"] == {"key": "k", "id": id_, "mismatch": False}
    assert of_step(side.explain({**first, "title": "two"}), "duplicate")["detail"]["mismatch"]
    assert of_step(side.explain({**first, "user_id": "bob"}), "duplicate")["result"] == "pass"


def test_each_rule_that_was_looked_at_is_told_of() -> None:
    side = Side({})
    order = {"user_id": "ann", "title": "t", "category": "order"}
    found = [
        (one["result"], one["reason"], one["detail"].get("rule"), one["detail"].get("line"))
        for one in side.explain({**order, "payload": {"total": 9}, "metadata": {"tier": "gold"}, "priority": 1})
        if one["step"] == "rule"
    ]
    assert found == [
        ("skip", "not_true", "large", 7), ("skip", "nothing_to_decide", "gold", 11), ("pass", "category", None, None),
    ]  # fmt: skip
    (first, second, _) = [one for one in side.explain({**order, "payload": {"total": "9"}}) if one["step"] == "rule"]
    assert (first["reason"], second["reason"]) == ("unanswerable", "unanswerable")
    assert first["detail"]["problem"]
    assert first["detail"]["when"] == "payload.total > 100"
    assert side.core.routing.failures() == {}
    side.submit(order)
    assert side.core.routing.failures() == {"large": 1, "gold": 1}


def test_what_is_left_of_a_limit_and_who_is_exempt() -> None:
    side = Side({})
    hello = {"user_id": "ann", "title": "t", "channels": ["email"]}
    for remaining in (2, 1):
        assert of_step(side.explain(hello), "limit")["detail"]["remaining"] == remaining
        side.submit(hello)
    blocked = of_step(side.explain(hello), "limit")
    assert (blocked["result"], blocked["reason"]) == ("block", "limit")
    assert explained(side.explain(hello)) == {"email": ("rate_limited", "limit", None)}
    exempt = of_step(side.explain({**hello, "priority": "critical"}), "limit")
    assert (exempt["result"], exempt["reason"], exempt["detail"]["remaining"]) == ("pass", "exempt", 0)


def test_a_digest_is_followed_until_it_is_full() -> None:
    side = Side({})
    item = {"user_id": "ann", "title": "t", "category": "news"}
    for items, until_ms in ((0, HOUR_MS), (1, HOUR_MS), (2, 0)):
        joins = of_step(side.explain(item), "digest", "inapp")
        assert (joins["result"], joins["detail"]["items"]) == ("defer", items)
        assert joins["detail"]["until"] == NOW_MS + until_ms
        side.submit(item)
    assert of_step(side.explain(item), "digest", "inapp")["detail"]["items"] == 0
    assert of_step(side.explain(item), "digest", "system")["detail"] | {"until": 0} == {
        "digest": "first", "key": "", "items": 2, **instant("opened_at", NOW_MS), "until": 0,
        "until_rfc3339": instant("until", NOW_MS + 60_000)["until_rfc3339"],
    }  # fmt: skip


def test_what_exceeds_a_limit_goes_where_its_overflow_says() -> None:
    side = Side({})
    to_all = {"user_id": "ann", "title": "t", "channels": ["webhook", "system", "push"]}
    assert {one["result"] for one in side.explain(to_all) if one["step"] == "limit"} == {"pass"}
    side.submit(to_all)
    decisions = side.explain(to_all)
    delayed = of_step(decisions, "limit", "webhook")
    assert (delayed["result"], delayed["detail"]["overflow"]) == ("defer", "delay")
    assert delayed["detail"]["until"] == NOW_MS + HOUR_MS
    moved = of_step(decisions, "limit", "system")
    assert (moved["result"], moved["detail"]["overflow"]) == ("move", "inapp")
    assert of_step(decisions, "limit", "push")["detail"]["overflow"] == "digest"
    assert of_step(decisions, "digest", "push")["detail"]["digest"] == "over"
    assert [one["channel"] for one in decisions if one["step"] == "outcome"] == ["webhook", "inapp", "push"]
    assert explained(decisions) == side.submit(to_all)[1]
    planned_anyway = {**to_all, "channels": ["inapp", "system"]}
    dropped = of_step(side.explain(planned_anyway), "limit", "system")
    assert (dropped["result"], dropped["detail"]["overflow"]) == ("block", "drop")
    assert dropped["detail"]["next_at"] == NOW_MS + HOUR_MS
    assert explained(side.explain(planned_anyway)) == side.submit(planned_anyway)[1]


def test_deliveries_of_one_notification_share_what_is_left_of_a_cap() -> None:
    side = Side({})
    offer = {"user_id": "ann", "title": "t", "category": "marketing"}
    decisions = side.explain(offer)
    caps = [(one["channel"], one["detail"]["cap"], one["result"]) for one in decisions if one["step"] == "cap"]
    assert caps == [
        ("email", "all", "pass"), ("email", "spam", "pass"), ("inapp", "all", "pass"), ("inapp", "spam", "block"),
    ]  # fmt: skip
    assert explained(decisions)["inapp"] == ("rate_limited", "cap", None)
    side.submit(offer)
    decisions = side.explain(offer)
    assert explained(decisions)["email"] == ("rate_limited", "cap", None)
    assert [one["detail"] for one in decisions if one["result"] == "block"] == 2 * [
        {"cap": "spam", "limit": 1, "window": "1h", "remaining": 0, **instant("next_at", NOW_MS + HOUR_MS)}
    ]


def test_recipients_are_explained_one_by_one() -> None:
    side = Side(USERS)
    decisions = side.explain({"recipients": ["ann", "quiet", "ann"], "title": "t", "channels": ["webhook"]})
    outcomes = [(one["user_id"], one["result"]) for one in decisions if one["step"] == "outcome"]
    assert outcomes == [("ann", "pending"), ("quiet", "suppressed")]
    decisions = side.explain({"recipients": ["ann", "quiet"], "titel": "t"})
    assert [(one["user_id"], one["reason"]) for one in decisions] == [("ann", "unknown_key"), ("quiet", "unknown_key")]


@pytest.mark.parametrize("recipients", [[], "ann", [1], {"ann": 1}])
def test_recipients_that_are_none_are_a_rejection(recipients: Any) -> None:
    (decision,) = Side({}).explain({"recipients": recipients, "title": "t"})
    assert (decision["step"], decision["result"], decision["reason"]) == ("accept", "rejected", "bad_value")
    assert decision["detail"]["field"].startswith("recipients")


def test_of_a_topic_are_explained_the_routing_and_how_many_it_reaches() -> None:
    side = Side({})
    news = {"topic": "releases", "title": "t", "category": "alert", "id": "k"}
    told = side.explainer.explain_topic(news, "b-1", NOW)
    assert told["users"] == 3
    decisions = told["decisions"]
    assert [one["step"] for one in decisions] == ["accept", "duplicate", "rule", "priority", "expiry", "schedule"]
    assert decisions[2]["detail"]["channels"] == ["email", "webhook"]
    side.core.broadcasts.accept("b-1", Notification(topic="releases", title="t", category="alert", id="k"), NOW_MS)
    decisions = side.explainer.explain_topic(news, "b-1", NOW)["decisions"]
    assert decisions[-1] | {"detail": {}} == {
        "step": "duplicate", "channel": None, "result": "block", "reason": "duplicate", "detail": {},
    }  # fmt: skip
    assert decisions[-1]["detail"] == {"id": "b-1", "mismatch": False}
    assert side.explainer.explain_topic(news | {"title": "u"}, "b-1", NOW)["decisions"][-1]["detail"]["mismatch"]


@pytest.mark.parametrize(
    ("change", "code"),
    [({"topic": "release"}, "unknown_topic"), ({"titel": "t"}, "unknown_key"), ({"category": "x"}, "unknown_category")],
)
def test_what_cannot_go_to_a_topic_is_rejected(change: dict[str, Any], code: str) -> None:
    told = Side({}).explainer.explain_topic({"topic": "releases", "title": "t", **change}, None, NOW)
    (decision,) = told["decisions"]
    assert (decision["step"], decision["result"], decision["reason"], told["users"]) == ("accept", "rejected", code, 0)
    assert told["near"] == (["releases"] if code == "unknown_topic" else [])


def test_a_time_beyond_the_calendar_is_told_as_a_number() -> None:
    found = of_step(Side({}).explain({"user_id": "ann", "title": "t", "expires_at": 2**53 - 1}), "expiry")
    assert found["detail"] == {"expires_at": 2**53 - 1}
    assert instant("at", CALENDAR_END_MS - 1)["at_rfc3339"] == "9999-12-31T23:59:59.999Z"
    assert instant("at", CALENDAR_END_MS) == {"at": CALENDAR_END_MS}


def test_the_vocabulary_is_closed() -> None:
    assert set(STEP_OF_REASON.values()) <= set(STEPS)
    assert set(STEP_OF_REASON) <= set(ledger.REASONS)


# --- any notification -----------------------------------------------------------------------------------------------

switches = st.dictionaries(st.sampled_from(CHANNELS), st.booleans(), max_size=3)
categories = st.sampled_from([*SETTINGS.categories, "transaction", "marketing", "security", "system"])
documents = st.fixed_dictionaries(
    {},
    optional={
        "preferences": st.fixed_dictionaries(
            {},
            optional={
                "channels": switches,
                "categories": st.dictionaries(categories, st.booleans() | switches, max_size=2),
                "quiet_hours": st.sampled_from([NIGHT, NIGHT | {"days": ["mon"]}, {"start": "01:00", "end": "02:00"}]),
            },
        ),
        "contacts": st.sampled_from([{"email": "ada@example.org"}, {"phone": "+33612345678"}]),
        "timezone": st.sampled_from(["Asia/Tokyo", "Europe/Paris"]),
    },
)
times = st.integers(NOW_MS - 3, NOW_MS + 3)
notifications = st.fixed_dictionaries(
    {"user_id": st.sampled_from(["ann", "bob", "a\0b"])},
    optional={
        "title": st.sampled_from(["one", "two"]),
        "payload": st.just({"total": 200}) | st.just({"message": "m", "total": "x"}),
        "metadata": st.just({"tier": "gold"}),
        "category": categories | st.just("nonsense"),
        "priority": st.sampled_from(["low", "critical", 2, "urgent"]),
        "channels": st.lists(st.sampled_from([*CHANNELS, "fax"]), max_size=3),
        "idempotency_key": st.sampled_from(["k1", "k2", ""]),
        "expires_at": times,
        "send_at": times,
        "titel": st.just("t"),
    },
)
valid = st.fixed_dictionaries(
    {"user_id": st.just("ann"), "title": st.sampled_from(["one", "two", "three"])},
    optional={
        "category": st.sampled_from(["news", "order", "billing", "alert", "marketing"]),
        "priority": st.sampled_from(["low", "critical"]),
        "channels": st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True),
        "payload": st.just({"total": 200}),
        "metadata": st.just({"tier": "gold"}),
        "expires_at": st.sampled_from([NOW_MS, NOW_MS + 3, NOW_MS + 1_500, NOW_MS + 90_000]),
        "send_at": times,
    },
)
series = st.lists(notifications, min_size=1, max_size=6) | st.lists(valid, min_size=1, max_size=12)
people = st.fixed_dictionaries({"ann": documents, "bob": documents})


ASLEEP = {"ann": USERS["asleep"]}
NEWS = {"user_id": "ann", "title": "t", "category": "news"}
PAGED = {"user_id": "ann", "title": "t", "channels": ["system", "pager"]}


@settings(max_examples=100)
@given(people, series)
@example(ASLEEP, [{"user_id": "ann", "title": "t", "channels": ["email", "push"], "expires_at": NOW_MS + 5}])
@example(ASLEEP, [{"user_id": "ann", "title": "t", "category": "alert"}])
@example({}, [NEWS, {**NEWS, "expires_at": NOW_MS + 90_000}, {**NEWS, "expires_at": NOW_MS + 500}])
@example({}, [PAGED, PAGED, {**PAGED, "expires_at": NOW_MS + 5}])
def test_what_is_explained_is_what_happens(documents: dict[str, Any], series: list[dict[str, Any]]) -> None:
    side = Side(documents)
    for notification in series:
        decisions = side.explain(notification)
        verdict, outcomes = side.submit(notification)
        assert explained(decisions) == outcomes
        last = decisions[-1]
        if verdict is None:
            assert last["step"] == "outcome"
        elif verdict.rejected:
            error = verdict.rejected[0].error
            assert (last["step"], last["result"], last["reason"]) == ("accept", "rejected", error.code)
            assert last["detail"] == {"message": error.message, "field": error.field}
        else:
            duplicate = verdict.duplicates[0]
            assert (last["step"], last["result"]) == ("duplicate", "block")
            assert (last["detail"]["id"], last["detail"]["mismatch"]) == (duplicate.id, duplicate.mismatch)
        assert {one["step"] for one in decisions} <= set(STEPS)


@settings(max_examples=60)
@given(people, series)
def test_explaining_changes_nothing(documents: dict[str, Any], series: list[dict[str, Any]]) -> None:
    asked, twin = Side(documents), Side(documents)
    for at, notification in enumerate(series):
        asked.explain(notification)
        if at % 3:
            assert asked.submit(notification) == twin.submit(notification)
        assert asked.state() == twin.state()
