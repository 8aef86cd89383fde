"""The idempotency set."""

from __future__ import annotations

from shards.dedupe import NO_DIGEST, IdempotencySet


def test_a_key_is_of_its_user() -> None:
    keys = IdempotencySet(1)
    assert keys.digest("ann", "k") != keys.digest("bob", "k")
    assert keys.digest("ann", "k") == keys.digests(["ann"], ["k"])[0]


def test_user_and_key_do_not_run_together() -> None:
    keys = IdempotencySet(1)
    assert keys.digest("ab", "c") != keys.digest("a", "bc")


def test_the_secret_changes_every_digest() -> None:
    assert IdempotencySet(1).digest("ann", "k") != IdempotencySet(2).digest("ann", "k")


def test_claim_says_who_was_first() -> None:
    keys = IdempotencySet(1)
    first, second, third = keys.digests(["a", "b", "c"], ["k", "k", "k"])
    assert keys.claim([first, second], 7) == [7, 7]
    assert keys.claim([second, third], 8) == [7, 8]
    assert keys.find(first) == 7
    assert len(keys) == 3


def test_a_frames_digests_are_learned_and_forgotten() -> None:
    keys = IdempotencySet(1)
    blob = keys.digest("a", "k") + NO_DIGEST + keys.digest("b", "k")
    keys.add_frame(4, blob)
    assert len(keys) == 2
    keys.forget_frame(4, blob)
    assert len(keys) == 0


def test_forgetting_leaves_what_a_later_frame_claimed() -> None:
    keys = IdempotencySet(1)
    digest = keys.digest("a", "k")
    keys.add_frame(4, digest)
    keys.add(digest, 9)
    keys.forget_frame(4, digest)
    assert keys.find(digest) == 9
