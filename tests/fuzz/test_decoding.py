"""What decodes bytes from outside raises what it says, whatever the bytes are, and accounts for every notification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.api.answers import read_document, read_head
from dispatcher.router.gathering import Gatherer
from dispatcher.router.repair import repair
from dispatcher.router.requests import as_list, decode_request, seq_of
from dispatcher.router.splitter import Limits, split
from dispatcher.settings import SettingsError, load
from shards.preferences import parse_document
from shards.validation import decode_items, instant_ms, readable
from shards.wire.encoding import encode_answer, is_json, pack
from shards.wire.errors import Error, RequestError
from shards.wire.ids import parse_id
from shards.wire.link import Data
from tests.fuzz.documents import NASTY, OPERATIONS, encoded, mapped, mutilated, notification, spoiled
from tests.unit.test_judging import Side, essence

SHARDS = 2
BATCH_MAX = 200
FANOUT_BYTES_MAX = 100_000
LIMITS = Limits(SHARDS, BATCH_MAX, FANOUT_BYTES_MAX, lambda: "b-1")
SETTINGS = (Path(__file__).parents[2] / "config" / "dispatcher.toml").read_text(encoding="utf-8")
fuzz = settings(max_examples=300, suppress_health_check=list(HealthCheck))
chance = st.integers(0, 2**32).map(Random)


def a_list(random: Random) -> tuple[bytes, bool]:
    """Notifications, some of them spoiled."""
    as_json = random.random() < 0.5
    entries = [notification(random) for _ in range(random.choice((0, 1, 3, 8)))]
    for at in range(len(entries)):
        for _ in range(random.choice((0, 0, 1, 2))):
            entries[at] = spoiled(random, entries[at])
    message = encoded(entries, as_json, random)
    return (mutilated(random, message) if random.random() < 0.3 else message), as_json


def a_request(random: Random) -> bytes:
    request = mapped(random.choice(OPERATIONS))
    for _ in range(random.choice((0, 1, 2))):
        request = spoiled(random, request)
    message = encoded(request, random.random() < 0.5, random)
    return mutilated(random, message) if random.random() < 0.5 else message


def refusal(decode: Callable[..., object], *given: Any) -> Error | None:
    """The error that comes out, if one does."""
    try:
        decode(*given)
    except RequestError as refused:
        return refused.error
    return None


def unrefused(message: bytes) -> bytes:
    """A list as ``ingest`` reads it: mended, where it needs that."""
    if refusal(split, as_list(message, is_json(message)), LIMITS):
        message = repair(message)
    return as_list(message, is_json(message))


@fuzz
@given(chance.map(a_request) | st.binary(max_size=30))
def test_a_request_is_one_or_refused(message: bytes) -> None:
    seq_of(message)
    for body in (message, repair(message)):
        error = refusal(decode_request, body, is_json(body))
        if error is None:
            pack(decode_request(body, is_json(body)).seq)
        else:
            assert 0 < len(error.message) <= 400
            encode_answer({"ok": False, "error": error}, True)


@fuzz
@given(chance.map(a_list))
def test_every_notification_of_a_list_is_accounted_for(made: tuple[bytes, bool]) -> None:
    message = unrefused(made[0])
    as_json = is_json(message)
    try:
        done = split(message, LIMITS)
    except RequestError:
        return
    placed = [position for piece in done.pieces for position in piece.positions]
    assert len(set(placed)) == done.positions - len(done.errors)
    assert len(placed) - len(set(placed)) == len(done.topics) * (SHARDS - 1)
    by_columns, by_entries = Side(), Side()
    for seq, piece in enumerate(done.pieces, 1):
        gatherer = Gatherer(piece.shard, as_json, 0)
        (frame,) = [*gatherer.add(piece, None), *gatherer.flush()]
        items = decode_items(frame.body, frame.fanned)
        assert len(items) == len(piece.positions)
        if frame.fanned:
            data = Data(1, 0, 1, seq, 0, 0, True, frame.body)
            judged = by_columns.judge.judge(data, seq, now_ms=0)
        else:
            slow = by_entries.entries(frame.body, seq)
            judged = by_columns.columns(frame.body, seq) or by_columns.entries(frame.body, seq)
            assert essence(judged) == essence(slow)
        assert len(judged.decisions) == len(items)
        for user_id, raw in judged.raw.values():
            orjson.loads(readable(raw))
            assert isinstance(user_id, str)


@fuzz
@given(chance.map(lambda random: a_list(random)[0]) | st.binary(max_size=50))
def test_any_bytes_can_be_shown(raw: bytes) -> None:
    shown = orjson.loads(readable(raw))
    encode_answer({"items": [{"notification": shown}]}, True)
    assert repair(repair(raw)) == repair(raw)


@fuzz
@given(st.text(max_size=40) | st.from_regex(r"[0-9a-f]{8}-[0-9a-fx+_ -]{1,20}-[0-9a-f]{1,40}-[0-9a-f]{1,4}"))
def test_an_id_is_ours_or_not_found(text: str) -> None:
    error = refusal(parse_id, text)
    assert error is None or error.code == "not_found"


@fuzz
@given(st.text(max_size=40) | st.integers() | st.from_regex(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)"))
def test_a_time_is_one_or_refused(value: str | int) -> None:
    error = refusal(instant_ms, "send_at", value)
    assert error is None or (error.code, error.field) == ("bad_value", "send_at")


@fuzz
@given(chance)
def test_a_users_document_is_one_or_refused(random: Random) -> None:
    document = mapped(next(one["user"] for one in OPERATIONS if "user" in one))
    for _ in range(random.choice((1, 2, 3))):
        document = spoiled(random, document)
    try:
        given_ = msgspec.msgpack.decode(encoded(document, False, random))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return  # no request
    error = refusal(parse_document, given_)
    assert error is None or (error.field or "").startswith("user")


@fuzz
@given(chance)
def test_an_answer_is_one_or_none_of_a_dispatchers(random: Random) -> None:
    answer = mapped({"ok": False, "seq": 1, "error": {"code": "too_many", "message": "m", "field": "f"}})
    for _ in range(random.choice((0, 1, 2))):
        answer = spoiled(random, answer)
    message = encoded(answer, False, random)
    try:
        message = mutilated(random, message) if random.random() < 0.5 else message
        head, document = read_head(message), read_document(message)
    except msgspec.MsgspecError:
        return
    assert head.ok or head.error is not None
    assert "ok" not in document


@fuzz
@given(chance)
def test_settings_are_right_or_refused_by_name(random: Random) -> None:
    lines = [line.lstrip("# ") if random.random() < 0.1 else line for line in SETTINGS.splitlines()]
    for _ in range(random.choice((0, 1, 1, 3))):
        at = random.randrange(len(lines))
        key, equals, _ = lines[at].partition("=")
        values = (
            "",
            "-1",
            "0",
            "1e400",
            "nan",
            '"x"',
            "[" * 2_000,
            "2026-01-31T08:00:00Z",
            "{}",
            "[[]]",
            str(10**30),
            "'5s'",
        )
        lines[at] = (
            f"{key}{equals}{random.choice(values)}"
            if equals and random.random() < 0.8
            else lines[random.randrange(len(lines))]
        )
    environment = {
        f"DISPATCHER_{name}": str(random.choice(NASTY))
        for name in (
            "SHARDS",
            "RETRY__BASE",
            "LIMITS__BATCH",
            "CHANNELS__EMAIL__SEED",
            "__",
            "RETRY",
            "A__B__C",
            "RETRY__",
        )
        if random.random() < 0.1
    }
    refused_by_name(lines, environment)


def refused_by_name(lines: list[str], environment: dict[str, str]) -> None:
    path = Path("/dev/null")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dispatcher.settings._read", lambda _: "\n".join(lines))
        try:
            load(path, environment, {})
        except SettingsError:
            pass


@fuzz
@given(st.binary(max_size=200))
def test_a_settings_file_of_any_bytes_is_refused(content: bytes) -> None:
    text: Any = content.decode("utf-8", "replace")
    refused_by_name([text], {})
