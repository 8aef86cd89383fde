"""``explain`` and the decisions of ``status``, of a running service."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract.test_operations import outcomes
from tests.support.service import RunningDispatcher, wait_until

HOUR_MS = 3_600_000


def decisions_of(service: RunningDispatcher, **notification: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.request("explain", notification={"title": "hello", **notification})[
        "decisions"
    ]
    return found


def foretold(decisions: list[dict[str, Any]]) -> dict[str, tuple[str, str | None]]:
    """By channel, the outcome and its reason."""
    return {one["channel"]: (one["result"], one["reason"]) for one in decisions if one["step"] == "outcome"}


def step(decisions: list[dict[str, Any]], name: str, channel: str | None = None) -> dict[str, Any]:
    (found,) = [one for one in decisions if (one["step"], one["channel"]) == (name, channel)]
    return found


def test_every_decision_has_the_same_keys(service: RunningDispatcher, user: str) -> None:
    for as_json in (True, False):
        request = {"op": "explain", "notification": {"user_id": user, "title": "t", "category": "transaction"}}
        answer = service.client.exchange(request, as_json=as_json)
        assert answer.keys() == {"ok", "decisions"}
        assert all(
            decision.keys() == {"step", "channel", "result", "reason", "detail"} for decision in answer["decisions"]
        )


def test_what_is_foretold_happens(service: RunningDispatcher, user: str) -> None:
    preferences = {"channels": {"sms": False}, "categories": {"marketing": {"inapp": False}}}
    service.request("user.put", user_id=user, user={"preferences": preferences})
    ends = {"pending": "delivered"}
    told: dict[str, tuple[str, str | None]] = {}
    for notification in (
        {"category": "transaction"},
        {"category": "marketing"},
        {"category": "security"},
        {"category": "billing"},
        {"channels": ["email", "push", "system"]},
        {"channels": ["system"]},
        {"channels": ["system"]},
        {"expires_at": 5},
    ):
        told = foretold(decisions_of(service, user_id=user, **notification))
        id_ = service.client.submit({"user_id": user, "title": "hello", **notification})["ids"][0]
        assert outcomes(service, id_) == {
            channel: (ends.get(outcome, outcome), reason) for channel, (outcome, reason) in told.items()
        }
    assert told == {"inapp": ("expired", "expires_at")}


def test_explaining_does_nothing(service: RunningDispatcher, user: str) -> None:
    before = service.settled_stats()
    notification = {"user_id": user, "channels": ["system"], "idempotency_key": "k"}
    for _ in range(5):
        decisions = decisions_of(service, **notification)
        assert step(decisions, "duplicate")["result"] == "pass"
        assert step(decisions, "limit", "system")["detail"]["remaining"] == 2
    after = service.settled_stats()
    for key in ("accepted", "duplicates", "rejected", "planned", "idempotency_window_s"):
        assert after[key] == before[key]
    answer = service.client.submit({"title": "hello", **notification})
    assert (answer["accepted"], answer["duplicates"]) == (1, 0)
    duplicate = step(decisions_of(service, **notification), "duplicate")
    assert (duplicate["result"], duplicate["detail"]["id"]) == ("block", answer["ids"][0])


@pytest.mark.parametrize(
    ("notification", "code", "field"),
    [
        ({}, "bad_value", "user_id"),
        ({"user_id": 5, "title": "t"}, "bad_value", "user_id"),
        ({"user_id": "", "title": "t"}, "bad_value", "user_id"),
        ({"user_id": "u"}, "bad_value", "title"),
        ({"user_id": "u", "title": "t", "titel": 1}, "unknown_key", "titel"),
        ({"user_id": "u", "title": "t", "category": "sytem"}, "unknown_category", "category"),
        ({"user_id": "u", "title": "t", "channels": ["fax"]}, "unknown_channel", "channels"),
        ({"user_id": "u", "topic": "t", "title": "t"}, "bad_value", "user_id"),
        ({"recipients": ["u"], "topic": "t", "title": "t"}, "bad_value", "user_id"),
        ({"user_id": "u", "recipients": ["v"], "title": "t"}, "bad_value", "user_id"),
        ({"recipients": [], "title": "t"}, "bad_value", "recipients"),
        ({"recipients": [""], "title": "t"}, "bad_value", "user_id"),
        ({"recipients": [5], "title": "t"}, "bad_value", "recipients[0]"),
        ({"topic": "nobody is here", "title": "t"}, "unknown_topic", "topic"),
        ({"topic": 5, "title": "t"}, "bad_value", "topic"),
        ({"user_id": "u", "payload": {"message": "m", "n": float("nan")}}, "bad_value", "payload"),
        ({"user_id": "u", "title": "t", "payload": {"n": b"\x00"}}, "bad_value", "payload"),
        ({"user_id": "u", "title": "t", "send_at": "soon"}, "bad_value", "send_at"),
    ],
)
def test_what_is_wrong_with_a_notification_is_a_decision(
    service: RunningDispatcher, notification: dict[str, Any], code: str, field: str
) -> None:
    (decision,) = service.request("explain", notification=notification)["decisions"]
    assert (decision["step"], decision["result"], decision["reason"]) == ("accept", "rejected", code)
    assert decision["detail"]["field"] == field
    assert decision["detail"]["message"]
    if "recipients" not in notification and "topic" not in notification:
        (rejection,) = service.client.submit(notification)["rejected"]
        assert rejection["error"] == {"code": code, **decision["detail"]}


def test_what_is_nested_beyond_measure_is_refused(service: RunningDispatcher) -> None:
    payload: dict[str, Any] = {}
    for _ in range(40):
        payload = {"a": payload}
    (decision,) = decisions_of(service, user_id="u", payload=payload)
    assert (decision["result"], decision["reason"]) == ("rejected", "too_deep")
    for _ in range(200):
        payload = {"a": [payload]}
    error = service.client.refused("explain", notification={"user_id": "u", "title": "t", "payload": payload})
    assert (error["code"], error["field"]) == ("too_deep", "notification")


def test_recipients_are_explained_in_their_order(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    names = [new_user() for _ in range(25)]
    service.request("user.put", user_id=names[3], user={"preferences": {"channels": {"email": False}}})
    answer = service.request(
        "explain", notification={"recipients": [*names, names[0]], "title": "t", "channels": ["email"]}
    )
    told = [(one["user_id"], one["result"]) for one in answer["decisions"] if one["step"] == "outcome"]
    assert told == [(name, "suppressed" if name == names[3] else "pending") for name in names[:20]]
    assert answer["more"] == 5


def test_a_topic_is_explained_by_its_routing_and_its_users(
    service: RunningDispatcher, new_user: Callable[[], str]
) -> None:
    topic = f"releases-{new_user()}"
    for _ in range(6):
        service.request("topic.subscribe", topic=topic, user_id=new_user())
    notification = {"topic": topic, "title": "t", "category": "transaction", "idempotency_key": "k"}
    decisions = service.request("explain", notification=notification)["decisions"]
    assert step(decisions, "accept")["detail"] == {"topic": topic, "users": 6}
    assert step(decisions, "rule")["detail"]["channels"] == ["email", "push", "inapp"]
    id_ = service.client.submit(notification)["ids"][0]
    duplicate = step(service.request("explain", notification=notification)["decisions"], "duplicate")
    assert (duplicate["result"], duplicate["detail"]) == ("block", {"id": id_, "mismatch": False})
    (rejected,) = service.request("explain", notification={**notification, "topic": topic[:-1]})["decisions"]
    assert topic in rejected["detail"]["message"]


# --- what has happened ----------------------------------------------------------------------------------------------


def test_status_says_how_it_came_about(service: RunningDispatcher, user: str) -> None:
    service.request("user.put", user_id=user, user={"preferences": {"channels": {"email": False}}})
    channels = ["email", "inapp", "webhook", "push"]
    id_ = service.client.submit({"user_id": user, "title": "t", "channels": channels, "id": "k", "priority": "high"})[
        "ids"
    ][0]
    outcomes(service, id_)
    decisions = service.request("status", id=id_)["decisions"]
    assert [(one["step"], one["channel"], one["result"], one["reason"]) for one in decisions] == [
        ("accept", None, "pass", None),
        ("duplicate", None, "pass", None),
        ("rule", None, "pass", "notification"),
        ("priority", None, "pass", "notification"),
        ("preference", "email", "block", "preference"),
        ("outcome", "email", "suppressed", "preference"),
        ("outcome", "inapp", "delivered", None),
        ("outcome", "webhook", "dead", "max_retries"),
        ("channel", "push", "block", "channel_not_configured"),
        ("outcome", "push", "dead", "channel_not_configured"),
    ]
    assert step(decisions, "duplicate")["detail"] == {"key": "k"}
    assert step(decisions, "priority")["detail"] == {"priority": "high"}
    died = step(decisions, "outcome", "webhook")["detail"]
    assert (died["attempts"], died["error_class"]) == (1, "transient")
    assert died["last_error"]
    assert died["died_at_rfc3339"].endswith("Z")


CONFIG = """
[retry]
base = "1h"
max = "1h"
jitter = "none"
[channels.email]
provider = "simulated"
[channels.webhook]
provider = "simulated"
failure_rate = 1.0
[channels.system]
provider = "simulated"
[rate_limits]
system = { rate = "1/day", overflow = "delay" }
[caps.few]
limit = 1
window = "1d"
categories = ["marketing"]
[digests.daily]
template = "daily"
window = "1h"
categories = ["transaction"]
channels = ["email"]
[[rules]]
name = "large orders"
when = "payload.total > 100"
categories = ["system"]
channels = ["email"]
"""


@pytest.fixture(scope="module")
def waiting() -> Iterator[RunningDispatcher]:
    """Here much waits."""
    with RunningDispatcher(textwrap.dedent(CONFIG), shards=1) as running:
        yield running


def told_of(service: RunningDispatcher, user: str, **notification: Any) -> tuple[Any, Any]:
    """The decisions before it is submitted, and those of its status once each delivery has been decided."""
    before = decisions_of(service, user_id=user, **notification)
    id_ = service.client.submit({"title": "hello", "user_id": user, **notification})["ids"][0]

    def decided() -> Any:
        status = service.request("status", id=id_)
        open_yet = any(one["outcome"] == "pending" for one in status["deliveries"])
        return None if open_yet else status["decisions"]

    return before, wait_until(decided, what="the decisions")


@pytest.mark.parametrize(
    ("name", "channel", "notification"),
    [
        ("schedule", "inapp", {}),
        ("digest", "email", {"category": "transaction", "channels": ["email"]}),
        ("quiet_hours", "email", {"channels": ["email"], "type": "warning"}),
    ],
)
def test_what_waits_says_for_what(
    waiting: RunningDispatcher, user: str, name: str, channel: str, notification: dict[str, Any]
) -> None:
    if name == "quiet_hours":
        window = {"start": "00:00", "end": "23:59"}
        waiting.request("user.put", user_id=user, user={"preferences": {"quiet_hours": window}})
    if name == "schedule":
        notification = {"send_at": int(time.time() * 1000) + HOUR_MS}
    before, after = told_of(waiting, user, **notification)
    foreseen = [one for one in before if one["result"] == "defer"]
    kept = [one for one in after if one["result"] == "defer"]
    assert [one["step"] for one in foreseen] == [one["step"] for one in kept] == [name]
    assert abs(foreseen[0]["detail"]["until"] - kept[0]["detail"]["until"]) < HOUR_MS / 2
    assert step(after, "outcome", channel)["result"] == step(before, "outcome", channel)["result"] == "deferred"


def test_a_limit_that_delays_and_a_cap_are_told_of(waiting: RunningDispatcher, user: str) -> None:
    told_of(waiting, user, channels=["system"])
    before, after = told_of(waiting, user, channels=["system"])
    for decisions in (before, after):
        assert step(decisions, "limit", "system")["result"] == "defer"
        assert step(decisions, "outcome", "system")["reason"] == "limit"
    before, after = told_of(waiting, user, category="marketing")
    blocked = step(before, "cap", "inapp")
    assert (blocked["result"], blocked["detail"]["cap"], blocked["detail"]["remaining"]) == ("block", "few", 0)
    for decisions in (before, after):
        assert step(decisions, "cap", "inapp")["result"] == "block"
        assert step(decisions, "outcome", "inapp")["reason"] == "cap"


def test_a_rule_is_named_by_both(waiting: RunningDispatcher, user: str) -> None:
    before, after = told_of(waiting, user, payload={"total": 101})
    line = CONFIG.splitlines().index("[[rules]]") + 1
    for decisions in (before, after):
        detail = step(decisions, "rule")["detail"]
        assert (detail["rule"], detail["number"], detail["config_version"]) == ("large orders", 1, 1)
        assert detail["line"] > line - 1
    (looked_at, _) = [
        one for one in decisions_of(waiting, user_id=user, payload={"total": 99}) if one["step"] == "rule"
    ]
    assert (looked_at["result"], looked_at["reason"]) == ("skip", "not_true")
    assert looked_at["detail"]["when"] == "payload.total > 100"


def test_what_waits_for_a_retry_and_what_is_cancelled_say_so(waiting: RunningDispatcher, user: str) -> None:
    _, after = told_of(waiting, user, channels=["webhook"], idempotency_key="k")
    retrying = step(after, "outcome", "webhook")
    assert (retrying["result"], retrying["detail"]["attempts"]) == ("retrying", 1)
    assert retrying["detail"]["until"] > 0
    assert waiting.request("cancel", user_id=user, idempotency_key="k")["cancelled"] == 1
    decisions = waiting.request("status", user_id=user, idempotency_key="k")["decisions"]
    assert step(decisions, "outcome", "webhook")["result"] == "cancelled"
