"""What became of every delivery: one 32-bit word each, kept per frame.

    bits  0-7   channel (the shard's number for it, fixed for the life of the journal)
    bits  8-11  outcome
    bits 12-13  priority
    bits 16-23  reason
    bits 24-31  attempts

The word says all that is needed to go on after a crash; texts and times of the exceptional live beside it, in the
frame's notes.
"""

from __future__ import annotations

from array import array

OUTCOMES = (
    "pending",
    "retrying",
    "deferred",
    "delivered",
    "dead",
    "suppressed",
    "rate_limited",
    "expired",
    "cancelled",
)
PENDING, RETRYING, DEFERRED, DELIVERED, DEAD, SUPPRESSED, RATE_LIMITED, EXPIRED, CANCELLED = range(len(OUTCOMES))
OPEN = (PENDING, RETRYING, DEFERRED)
FINAL = tuple(range(DELIVERED, len(OUTCOMES)))

# Append only: the numbers are in the journals of running installations.
REASONS = (
    "",
    "preference",
    "no_contact",
    "channel_not_configured",
    "limit",
    "max_retries",
    "permanent",
    "expires_at",
    "rejected",
    "unroutable",
    "poison",
    "send_at",
    "quiet_hours",
    "cap",
    "digest",
    "charged",
    "cancelled",
    "overflow",
    "bad_address",
    "ambiguous",
    "template",
    "endpoint",
    "retry",
)
REASON = {name: number for number, name in enumerate(REASONS)}

# of a delivery that is open
CHARGED = frozenset({REASON[name] for name in ("charged", "quiet_hours", "limit", "endpoint", "retry")})

OUTCOME_SHIFT, PRIORITY_SHIFT, REASON_SHIFT, ATTEMPTS_SHIFT = 8, 12, 16, 24
REASON_MASK = 0xFF << REASON_SHIFT
_WITHDRAWN = REASON["cancelled"] << REASON_SHIFT
PLAN = 0xFF | 0xF << OUTCOME_SHIFT | 3 << PRIORITY_SHIFT  # channel, outcome and priority
KEEP = 0xFF | 3 << PRIORITY_SHIFT | 0xFF << ATTEMPTS_SHIFT  # all but outcome and reason
ONE_ATTEMPT = 1 << ATTEMPTS_SHIFT
DELIVERED_AT_ATTEMPT = (DELIVERED << OUTCOME_SHIFT) + ONE_ATTEMPT

NUMBERS = 0xFF + 1  # of channels
LANE_BITS = 60  # what fits a positive SQLite integer; above 15 channels bits are shared, which only costs a look


def word(channel: int, priority: int, outcome: int = PENDING, reason: int = 0, attempts: int = 0) -> int:
    return (
        channel
        | outcome << OUTCOME_SHIFT
        | priority << PRIORITY_SHIFT
        | reason << REASON_SHIFT
        | attempts << ATTEMPTS_SHIFT
    )


def outcome_of(value: int) -> int:
    return value >> OUTCOME_SHIFT & 0xF


def channel_of(value: int) -> int:
    return value & 0xFF


def priority_of(value: int) -> int:
    return value >> PRIORITY_SHIFT & 3


def reason_of(value: int) -> int:
    return value >> REASON_SHIFT & 0xFF


def attempts_of(value: int) -> int:
    return value >> ATTEMPTS_SHIFT


def is_withdrawn(value: int) -> bool:
    """Whether it was cancelled, which may have to wait for the end of an attempt."""
    return value & REASON_MASK == _WITHDRAWN


def lane_of(channel: int, priority: int) -> int:
    """The number of a channel's lane for a priority."""
    return channel << 2 | priority


def lane_of_word(value: int) -> int:
    return lane_of(channel_of(value), priority_of(value))


def lane_bit(lane: int) -> int:
    """The lane's bit in a frame's mask of the lanes that it has pending deliveries for."""
    return 1 << lane % LANE_BITS


def words(blob: bytes) -> array[int]:
    """A frame's words as they are stored."""
    slots = array("I")
    slots.frombytes(blob)
    return slots
