"""One word per delivery."""

from __future__ import annotations

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from shards import ledger


@settings(max_examples=100)
@given(st.integers(0, 255), st.integers(0, 3), st.sampled_from(range(9)), st.integers(0, 255), st.integers(0, 255))
def test_a_word_holds_all_of_it(channel: int, priority: int, outcome: int, reason: int, attempts: int) -> None:
    word = ledger.word(channel, priority, outcome, reason, attempts)
    assert word < 2**32
    assert ledger.channel_of(word) == channel
    assert ledger.priority_of(word) == priority
    assert ledger.outcome_of(word) == outcome
    assert ledger.reason_of(word) == reason
    assert ledger.attempts_of(word) == attempts
    assert word & ledger.KEEP == ledger.word(channel, priority, attempts=attempts)


def test_delivered_adds_an_attempt() -> None:
    word = ledger.word(3, 2, ledger.RETRYING, attempts=1) & ledger.KEEP
    assert word + ledger.DELIVERED_AT_ATTEMPT == ledger.word(3, 2, ledger.DELIVERED, attempts=2)


def test_every_outcome_is_open_or_final() -> None:
    assert sorted(ledger.OPEN + ledger.FINAL) == list(range(len(ledger.OUTCOMES)))


def test_lanes_have_bits_that_fit_sqlite() -> None:
    bits = {ledger.lane_bit(ledger.lane_of(channel, priority)) for channel in range(15) for priority in range(4)}
    assert len(bits) == 60
    assert max(bits) < 2**63
    assert ledger.lane_bit(ledger.lane_of(255, 3)) < 2**63


def test_reasons_keep_the_numbers_that_journals_hold() -> None:
    assert ledger.REASONS[:10] == (
        "", "preference", "no_contact", "channel_not_configured", "limit", "max_retries", "permanent", "expires_at",
        "rejected", "unroutable",
    )  # fmt: skip


def test_words_are_read_back() -> None:
    assert ledger.words(array("I", [1, 2**32 - 1]).tobytes()) == array("I", [1, 2**32 - 1])
