"""Suspects are tried alone, the least suspected first; an attempt that ends acquits."""

from __future__ import annotations

from array import array

from shards.frames import Entry, Frame
from shards.people import NO_DECISION, Decisions, User
from shards.preferences import ALLOW_ALL
from shards.suspects import Suspects

NOBODY = User("ann", 0, ALLOW_ALL, Decisions(lambda _key, _choices: NO_DECISION, ALLOW_ALL))
EMAIL, SMS = 0, 1


def entry(seq: int, slot: int = 0) -> Entry:
    return Frame(seq, 0, array("I", [0]), b"\1"), slot, 0, NOBODY, None


def test_one_of_a_channel_at_a_time() -> None:
    suspects = Suspects({(1, 0): 1, (2, 0): 1, (3, 0): 1})
    first, second, other = entry(1), entry(2), entry(3)
    suspects.wait(EMAIL, first)
    suspects.wait(EMAIL, second)
    suspects.wait(SMS, other)
    assert suspects.next(EMAIL) is first
    assert suspects.next(EMAIL) is None
    assert suspects.next(SMS) is other
    assert suspects.acquit(EMAIL, first[0], 0)
    assert suspects.next(EMAIL) is second
    assert (1, 0) not in suspects
    assert len(suspects) == 2


def test_the_least_suspected_goes_first() -> None:
    suspects = Suspects({(1, 0): 2, (2, 0): 1})
    guilty, likely_not = entry(1), entry(2)
    suspects.wait(EMAIL, guilty)
    suspects.wait(EMAIL, likely_not)
    assert suspects.next(EMAIL) is likely_not


def test_somebody_else_s_end_acquits_nobody() -> None:
    suspects = Suspects({(1, 0): 1, (2, 0): 1})
    first = entry(1)
    suspects.wait(EMAIL, first)
    suspects.next(EMAIL)
    assert not suspects.acquit(EMAIL, entry(9)[0], 0)
    assert (1, 0) in suspects
