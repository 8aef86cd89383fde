"""How decisions are shown to people."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from dispatcher.report import cancelled, decisions
from dispatcher.terminal import relative

HOUR_MS = 3_600_000


def decision(step: str, result: str, reason: str | None = None, channel: str | None = None, **detail: Any) -> Any:
    return {"step": step, "channel": channel, "result": result, "reason": reason, "detail": detail}


@pytest.mark.parametrize(
    ("milliseconds", "told"),
    [
        (0, "now"),
        (999, "now"),
        (-999, "now"),
        (1_000, "in 1 s"),
        (-61_000, "1 min 1 s ago"),
        (60_000, "in 1 min"),
        (9 * HOUR_MS + 46 * 60_000 + 5_000, "in 9 h 46 min"),
        (HOUR_MS + 5_000, "in 1 h"),
        (-49 * HOUR_MS, "2 d 1 h ago"),
        (400 * 24 * HOUR_MS, "in 400 d"),
    ],
)
def test_how_far_a_time_is(milliseconds: int, told: str) -> None:
    assert relative(10**12 + milliseconds, 10**12) == told


def test_each_decision_is_a_line_under_its_channel() -> None:
    shown = decisions(
        [
            decision("accept", "pass"),
            decision("rule", "pass", "category", category="system", channels=["email", "inapp"], override=False),
            decision("limit", "block", "limit", "email", rate="2/hour", remaining=0, next_at=None),
            decision("outcome", "rate_limited", "limit", "email"),
            decision("quiet_hours", "defer", "quiet_hours", "sms", until=0, until_rfc3339="1970-01-01T00:00:00.000Z"),
            decision("outcome", "pending", None, "inapp"),
        ]
    )
    lines = shown.splitlines()
    assert lines[:5] == [
        "✓ accept",
        "✓ rule         category: category system, channels email inapp, override no",
        "email",
        "  ✗ limit        rate 2/hour, remaining 0",
        "  → outcome      RATE_LIMITED (limit)",
    ]
    assert lines[6].startswith("  … quiet_hours  until 19")
    assert lines[6].endswith(" ago)")
    assert lines[-1] == "  → outcome      PENDING"


def test_text_from_outside_does_not_control_the_terminal() -> None:
    shown = decisions([decision("accept", "rejected", "unknown_key", message="\x1b[2J\n") | {"user_id": "a\x1bb"}])
    assert shown == "to a\\x1bb\n✗ accept  unknown_key: message \\x1b[2J\\n"


def test_where_marks_cannot_be_shown_there_are_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(sys, "stdout", Ascii())
    shown = decisions([decision(*pair) for pair in (("a", "pass"), ("a", "skip"), ("a", "block"), ("a", "defer"))])
    assert shown == "+ a\n- a\nx a\n~ a"


def test_how_many_were_cancelled() -> None:
    assert cancelled({"cancelled": 1}) == "cancelled 1 delivery"
    assert cancelled({"cancelled": 2}) == "cancelled 2 deliveries"
    assert "not tried again" in cancelled({"cancelled": 0})
