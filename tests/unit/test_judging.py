"""A frame judged by columns and entry by entry gets the same verdicts, decisions, keys and digests."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.broadcasts import Broadcasts, Room
from shards.changes import Changes
from shards.contents import Content, Contents
from shards.dead_letters import DeadLetters
from shards.dedupe import IdempotencySet
from shards.identifiers import Identifiers
from shards.judging import Judge, Judged
from shards.people import People
from shards.preferences import Preferences, UserDocument
from shards.rules import Category, PlacedRule, Routing
from shards.wire.link import Data
from shards.wire.notification import CHANNELS, MADE_KEY
from tests.support.topics import NoTopics

NUMBERS = {name: number for number, name in enumerate(CHANNELS)}
QUIET = UserDocument(preferences=Preferences(channels={"email": False}))

users = st.sampled_from(["ann", "bob", "quiet", "é" * 100, "", "x" * 257, "a\0b"])
keys = st.sampled_from(["k1", "k2", "k3", "k" * 63, "k" * 64, "k" * 255, "k" * 256, "", "a\0b", "ü" * 63])
payloads = st.dictionaries(
    st.sampled_from(["message", "count"]),
    st.one_of(st.text(max_size=3), st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none(), st.just([1, {"a": 2}])),
    max_size=2,
)
entries = st.fixed_dictionaries(
    {"user_id": users, "title": st.sampled_from(["one", "two"]), "idempotency_key": keys},
    optional={
        "category": st.sampled_from(["system", "transaction", "security", "nonsense"]),
        "type": st.sampled_from(["info", "error", "loud"]),
        "priority": st.sampled_from(["low", "critical", 2, "urgent", None]),
        "body": st.sampled_from([None, "text"]),
        "payload": st.none() | payloads,
        "metadata": st.sampled_from([None, {"a": "b"}]),
    },
)
plain_entries = st.fixed_dictionaries(
    {"user_id": st.sampled_from(["ann", "bob", "quiet"]), "title": st.sampled_from(["one", "two"])},
    optional={"category": st.sampled_from(["system", "transaction", "security"]), "body": st.just("text")},
).flatmap(lambda entry: st.sampled_from(["k1", "k2", "k3", "k4"]).map(lambda key: {**entry, "idempotency_key": key}))
frames = st.lists(plain_entries, max_size=6) | st.lists(entries, max_size=4)


class Native:
    """Every frame was numbered here."""

    def origin(self, seq: int) -> tuple[str, int]:
        return "gen", seq

    def seq_of(self, generation: str, old: int) -> int | None:
        return old


class Side:
    """A fresh judge; ``bodies`` stand for its journal."""

    def __init__(self, routing: Routing | None = None) -> None:
        self.bodies: dict[int, tuple[bytes, bool, bytes | None]] = {}
        routing = routing or Routing({}, NUMBERS)
        self.people = People(
            routing, list(CHANNELS), frozenset({0, 1, 3}), {}, {"quiet": QUIET}.get, users_max=2
        )  # webhook, push and system are not configured
        self.keys = IdempotencySet(5)
        letters = DeadLetters(Identifiers(Native()), list(CHANNELS), {}, Changes)
        broadcasts = Broadcasts(NoTopics(), Room([], {}), letters, Changes, 2)
        broadcasts.configure(routing, 30.0)
        self.judge = Judge(
            Identifiers(Native()), routing, self.people, self.keys, Contents(self.bodies.get), broadcasts, 60.0
        )

    def columns(self, body: bytes, seq: int) -> Judged | None:
        judged = self.judge._judge_columns(Content(body, False, None), seq)
        if judged is not None:
            self.bodies[seq] = body, False, judged.digests
        return judged

    def entries(self, body: bytes, seq: int) -> Judged:
        judged = self.judge._judge_entries(
            Data(1, 0, 1, seq, 0, 0, False, body), Content(body, False, None), seq, now_ms=0
        )
        self.bodies[seq] = body, False, judged.digests
        return judged


def essence(judged: Judged) -> dict[str, Any]:
    """All that a judgement says, comparable between two judges; the digests of a frame without keys are None."""
    planned = [bool(decision.width) for decision in judged.decisions]
    return {
        "decisions": [
            (d.template, d.width, d.rule.category, d.rule.priority, d.doomed, d.mask) for d in judged.decisions
        ],
        "users": [user.user_id for user, kept in zip(judged.users, planned, strict=True) if kept],
        "keys": [key for key, kept in zip(judged.keys, planned, strict=True) if kept],
        "digests": (judged.digests or b"").rstrip(b"\0"),
        "expiry": judged.expiry,
        "verdict": judged.verdict(),
        "raw": judged.raw,
    }


@settings(max_examples=300)
@given(st.lists(frames, min_size=1, max_size=3), st.booleans())
def test_columns_and_entries_agree(series: list[list[dict[str, Any]]], as_json: bool) -> None:
    encode = msgspec.json.encode if as_json else msgspec.msgpack.encode
    by_columns, by_entries = Side(), Side()
    for seq, frame in enumerate(series, 1):
        body = encode(frame)
        slow = by_entries.entries(body, seq)
        fast = by_columns.columns(body, seq)
        if fast is None:  # not plain: columns must have changed nothing
            fast = by_columns.entries(body, seq)
        assert essence(fast) == essence(slow)
    assert by_columns.keys._tables == by_entries.keys._tables


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_a_plain_frame_is_judged_by_columns(encode: Any) -> None:
    frame = [{"user_id": "ann", "title": "t", "idempotency_key": str(number)} for number in range(3)]
    assert Side().columns(encode(frame), 1) is not None


def test_a_frame_that_needs_a_look_leaves_no_keys() -> None:
    side = Side()
    frame = [
        {"user_id": "ann", "title": "t", "idempotency_key": "k1"},
        {"user_id": "", "title": "t", "idempotency_key": "k2"},
    ]
    assert side.columns(msgspec.msgpack.encode(frame), 1) is None
    assert len(side.keys) == 0


def test_a_repetition_names_the_original_and_whether_it_says_the_same() -> None:
    side = Side()
    first = {"user_id": "ann", "title": "one", "idempotency_key": "k"}
    side.columns(msgspec.msgpack.encode([first]), 1)
    judged = side.columns(msgspec.msgpack.encode([first, {**first, "title": "two"}]), 2)
    assert judged is not None
    same, other = judged.duplicates
    assert (same.index, same.mismatch, other.index, other.mismatch) == (0, False, 1, True)
    assert same.id == other.id
    assert same.id.endswith("-1-0")


# --- keys of content, and rules -----------------------------------------------------------------------------------

ORDERS = Category(("email",), content_key="{user_id}:{title}")


def test_without_a_key_the_content_is_one() -> None:
    side = Side(Routing({"orders": ORDERS}, NUMBERS))
    order = {"user_id": "ann", "category": "orders", "title": "one"}
    first = side.entries(
        msgspec.msgpack.encode([order, {**order, "title": "two"}, {**order, "user_id": "bob"}, order]), 1
    )
    assert [(found.index, found.mismatch) for found in first.duplicates] == [(3, False)]
    assert first.keys == [None, None, None, None]
    again = side.entries(msgspec.msgpack.encode([{**order, "body": "more"}, order, {**order, "id": "mine"}]), 2)
    changed, same = again.duplicates  # a producer's own id is what counts, and this one is new
    assert (changed.mismatch, same.mismatch, changed.id, changed.id) == (True, False, same.id, first.duplicates[0].id)
    assert again.keys[2] == "mine"


def test_a_category_without_content_keys_repeats_what_it_is_given() -> None:
    side = Side(Routing({"orders": ORDERS}, NUMBERS))
    assert not side.entries(msgspec.msgpack.encode([{"user_id": "ann", "title": "one"}] * 2), 1).duplicates


def test_a_producers_key_is_never_taken_for_content() -> None:
    side = Side(Routing({"orders": ORDERS}, NUMBERS))
    order = {"user_id": "ann", "category": "orders", "title": "one"}
    judged = side.entries(msgspec.msgpack.encode([order, {**order, "idempotency_key": "ann:one"}]), 1)
    assert not judged.duplicates


def test_a_key_that_a_client_made_says_nothing_of_the_content() -> None:
    side = Side(Routing({"orders": ORDERS}, NUMBERS))
    order = {"user_id": "ann", "category": "orders", "title": "one", "idempotency_key": f"{MADE_KEY}1"}
    other = {**order, "idempotency_key": f"{MADE_KEY}2"}
    judged = side.entries(msgspec.msgpack.encode([order, other, {**order, "category": "system"}]), 1)
    assert [(found.index, found.mismatch) for found in judged.duplicates] == [(1, False)]
    again = side.entries(
        msgspec.msgpack.encode([order, {**other, "category": "system"}, {**order, "category": "system"}]), 2
    )
    assert [found.index for found in again.duplicates] == [0, 2]


def test_a_frame_says_which_rules_decided() -> None:
    rules = (PlacedRule("a", when="title == 'one'", priority="low"), PlacedRule("b", channels=("sms",)))
    side = Side(Routing({}, NUMBERS, rules))
    keyed = {"user_id": "ann", "title": "one", "idempotency_key": "k"}
    assert side.columns(msgspec.msgpack.encode([keyed]), 1) is None
    judged = side.entries(msgspec.msgpack.encode([{"user_id": "ann", "title": "two"}, keyed, keyed, {}]), 1)
    assert judged.rules is not None
    assert list(judged.rules) == [2, 1, 0, 0]


def test_a_frame_that_no_rule_decided_has_no_list_of_them() -> None:
    side = Side(Routing({}, NUMBERS, (PlacedRule("a", when="title == 'one'", priority="low"),)))
    assert side.entries(msgspec.msgpack.encode([{"user_id": "ann", "title": "two"}]), 1).rules is None
