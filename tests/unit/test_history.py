"""What is told of the past is what is stored of it."""

from __future__ import annotations

from typing import Any

import pytest

from shards import ledger
from shards.changes import Note
from shards.findings import Finding, instant
from shards.history import Delivery, Routed, decided
from shards.wire.notification import Notification
from shards.wire.outbox import DeadLetter

NOTHING: Note = (None, "", "")
NO_RULE = Routed(3, 0, None, None)


def delivery(outcome: int, reason: str = "", attempts: int = 0, note: Note = NOTHING, **more: Any) -> Delivery:
    return Delivery("email", ledger.word(0, 2, outcome, ledger.REASON[reason], attempts), note, 7, **more)


def told(one: Delivery, routed: Routed = NO_RULE, *, by_default: bool = False, **notification: Any) -> list[Finding]:
    return list(
        decided(Notification(user_id="ann", title="t", **notification), 5, routed, [one], by_default=by_default)
    )


LETTER = DeadLetter("id", "ann", "email", "system", "max_retries", "transient", "no", 3, 11, b"{}")


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (delivery(ledger.PENDING), [("outcome", "pending", None, {})]),
        (delivery(ledger.PENDING, "charged"), [("outcome", "pending", None, {})]),
        (delivery(ledger.DELIVERED, attempts=2), [("outcome", "delivered", None, {"attempts": 2})]),
        (
            delivery(ledger.DEFERRED, "quiet_hours", note=(9, "quiet_hours", "")),
            [
                ("quiet_hours", "defer", "quiet_hours", instant("until", 9)),
                ("outcome", "deferred", "quiet_hours", instant("until", 9)),
            ],
        ),
        (
            delivery(ledger.RATE_LIMITED, "cap"),
            [("cap", "block", "cap", {}), ("outcome", "rate_limited", "cap", {})],
        ),
        (
            delivery(ledger.RETRYING, "", 1, (9, "transient", "refused")),
            [
                (
                    "outcome", "retrying", None,
                    {**instant("until", 9), "attempts": 1, "error_class": "transient", "last_error": "refused"},
                )
            ],
        ),
        (
            delivery(ledger.DEAD, "max_retries", 3, (None, "transient", "no"), letter=LETTER),
            [
                (
                    "outcome", "dead", "max_retries",
                    {"attempts": 3, "error_class": "transient", "last_error": "no", **instant("died_at", 11)},
                )
            ],
        ),
        (
            delivery(ledger.DEAD, "max_retries", 3, (None, "transient", "no")),  # its letter was purged
            [
                (
                    "outcome", "dead", "max_retries",
                    {"attempts": 3, "error_class": "transient", "last_error": "no"},
                )
            ],
        ),
        (delivery(ledger.CANCELLED, "cancelled"), [("outcome", "cancelled", "cancelled", {})]),
    ],
)  # fmt: skip
def test_each_delivery_has_what_decided_it_and_its_outcome(one: Delivery, expected: list[Any]) -> None:
    found = [finding for finding in told(one) if finding.channel == "email"]
    assert [(each.step, each.result, each.reason, each.detail or {}) for each in found] == expected


@pytest.mark.parametrize(
    ("one", "steps"),
    [
        (delivery(ledger.DELIVERED, attempts=1), {"expiry", "schedule"}),  # it was in time, and due
        (delivery(ledger.DEFERRED, "send_at", note=(9, "send_at", "")), set()),
        (delivery(ledger.CANCELLED, "cancelled"), set()),  # before it was due, or after: nobody knows
        (delivery(ledger.EXPIRED, "expires_at", 1), {"schedule"}),
    ],
)
def test_only_what_is_known_of_times_is_told(one: Delivery, steps: set[str]) -> None:
    found = told(one, send_at=1, expires_at=9)
    assert {each.step for each in found if each.channel is None} - {"accept", "rule", "priority"} == steps


@pytest.mark.parametrize(
    ("routed", "notification", "sources", "detail"),
    [
        (NO_RULE, {}, ("category", "category"), {"config_version": 3}),
        (Routed(0, 0, None, None), {}, ("category", "category"), {}),
        (NO_RULE, {"channels": ["email"], "priority": 1}, ("notification", "notification"), {"config_version": 3}),
        (
            Routed(3, 2, "large", 7), {"priority": 1}, (None, "notification"),
            {"rule": "large", "number": 2, "line": 7, "config_version": 3},
        ),
    ],
)  # fmt: skip
def test_what_routed_it_is_told_by_the_configuration_of_then(
    routed: Routed, notification: dict[str, Any], sources: tuple[str | None, str | None], detail: dict[str, Any]
) -> None:
    rule, priority = [each for each in told(delivery(ledger.PENDING), routed, **notification) if each.channel is None][
        1:3
    ]
    assert (rule.reason, priority.reason) == sources
    assert rule.detail == {"category": "system", **detail}
    assert priority.detail == {"priority": "high"}


@pytest.mark.parametrize(
    ("routed", "channels", "source"),
    [(NO_RULE, None, "default_routing"), (NO_RULE, ["email"], "notification"), (Routed(3, 2, "large", 7), None, None)],
)
def test_the_routing_without_a_configuration_is_called_so(
    routed: Routed, channels: list[str] | None, source: str | None
) -> None:
    (rule,) = [
        one for one in told(delivery(ledger.PENDING), routed, by_default=True, channels=channels) if one.step == "rule"
    ]
    assert rule.reason == source
