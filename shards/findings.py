"""Decisions as they are told: by an explanation before they are taken, and by ``status`` afterwards.

result   pass     the step lets it through, and ``detail`` says by how much
         skip     the step does not concern it; ``reason`` says why
         block    it ends here
         defer    it waits until a time
         move     it goes on in-app, and is decided anew there
         rejected, of ``accept``: it is not acceptable; ``reason`` is the error's code
         an outcome, of ``outcome``: what would follow, or did
"""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple

from shards import ledger
from shards.wire.errors import Error

STEPS = (
    "accept", "duplicate", "rule", "priority", "expiry", "schedule", "preference", "channel", "contact", "digest",
    "cap", "limit", "quiet_hours", "template", "outcome",
)  # fmt: skip
DEFERRED = ledger.OUTCOMES[ledger.DEFERRED]
LIMITED = ledger.OUTCOMES[ledger.RATE_LIMITED]
CALENDAR_END_MS = 253_402_300_800_000  # of the year 9999
ENDS = frozenset({"block", "defer"})
# The step that gives an open or final delivery this reason.
STEP_OF_REASON = {
    "expires_at": "expiry",
    "send_at": "schedule",
    "preference": "preference",
    "channel_not_configured": "channel",
    "no_contact": "contact",
    "bad_address": "contact",
    "endpoint": "limit",
    "digest": "digest",
    "cap": "cap",
    "limit": "limit",
    "overflow": "limit",
    "quiet_hours": "quiet_hours",
    "template": "template",
}


class Finding(NamedTuple):
    """One decision; ``channel`` is None of those that concern the whole notification.

    ``outcome`` is what the delivery has then, where the decision ends it or has it wait.
    """

    step: str
    result: str
    reason: str | None = None
    detail: dict[str, Any] | None = None
    channel: str | None = None
    outcome: str = ""

    def document(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "channel": self.channel,
            "result": self.result,
            "reason": self.reason,
            "detail": self.detail or {},
        }


def instant(name: str, at_ms: int) -> dict[str, Any]:
    """A time for programs, in milliseconds, and beside it for people, where the calendar has it."""
    if at_ms >= CALENDAR_END_MS:
        return {name: at_ms}
    at = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(milliseconds=at_ms)
    return {name: at_ms, f"{name}_rfc3339": at.isoformat(timespec="milliseconds").replace("+00:00", "Z")}


def rejected(error: Error) -> Finding:
    return Finding("accept", "rejected", error.code, {"message": error.message, "field": error.field})
