"""What the Python API sends when, and again, and gives up: without a socket, and with a clock that tests turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from dispatcher.api.errors import (
    DispatcherError,
    NotFoundError,
    OverloadedError,
    RejectedError,
    RequestError,
    UnavailableError,
)
from dispatcher.api.exchange import AT_ONCE, PATIENCE_S, SILENCE_S, UNDER_WAY, Exchange
from dispatcher.api.frames import FRAME_BYTES, FRAME_ITEMS, Call, Single
from dispatcher.api.results import Receipt
from shards.wire.encoding import pack
from shards.wire.errors import Error

TIMEOUT_S = 30.0


class Answers(list[tuple[bytes | None, DispatcherError | None]]):
    """A sink that keeps what it is told."""

    def __call__(self, _: Call, message: bytes | None, error: DispatcherError | None) -> None:
        self.append((message, error))

    @property
    def error(self) -> DispatcherError:
        ((_, error),) = self
        assert error is not None
        return error


class Receipts(list[Receipt | DispatcherError]):
    def __call__(self, receipt: Receipt | None, error: DispatcherError | None) -> None:
        found = receipt or error
        assert found is not None
        self.append(found)


class Wire:
    """An exchange, and its dispatcher."""

    def __init__(self, *, retries: bool = True) -> None:
        self.exchange = Exchange("tcp://there", lambda: "is it running?", retries=retries)
        self.now = 100.0

    def call(self, timeout_s: float = TIMEOUT_S) -> Answers:
        answers = Answers()
        number = self.exchange.number()
        self.exchange.add(Call(number, pack({"op": "ping", "seq": number}), timeout_s, answers), self.now)
        return answers

    def single(self, user_id: str = "ada", *, is_made: bool = True, size: int = 0) -> Receipts:
        receipts = Receipts()
        raw = msgspec.Raw(pack({"user_id": user_id, "body": "x" * size}))
        self.exchange.add_single(Single(raw, is_made, TIMEOUT_S, self.now + TIMEOUT_S, receipts))
        return receipts

    def sent(self) -> list[dict[str, Any]]:
        """What goes out now."""
        found = []
        while (call := self.exchange.outgoing()) is not None:
            self.exchange.sent(call, self.now)
            found.append(msgspec.msgpack.decode(call.message))
        return found

    def answer(self, request: dict[str, Any], **fields: Any) -> None:
        self.exchange.on_message(pack({"seq": request["seq"], "ok": "error" not in fields, **fields}), self.now)

    def refuse(self, request: dict[str, Any], code: str, **fields: Any) -> None:
        self.answer(request, error={"code": code, "message": "because", **fields})

    def accept(self, request: dict[str, Any], **fields: Any) -> None:
        ids: list[Any] = [f"id-{one['user_id']}" for one in request["notifications"]]
        whole = {"accepted": len(ids), "duplicates": 0, "ids": ids, "duplicate": [], "rejected": [], **fields}
        self.answer(request, **whole)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.exchange.on_time(self.now)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def users(frame: dict[str, Any]) -> list[str]:
    return [one["user_id"] for one in frame["notifications"]]


# --- one call -----------------------------------------------------------------------------------------------------


def test_a_call_is_sent_once_and_answered_once(wire: Wire) -> None:
    answers = wire.call()
    (request,) = wire.sent()
    assert not wire.sent()
    wire.answer(request, version="1")
    wire.answer(request, version="2")  # of its second copy
    ((message, error),) = answers
    assert message is not None
    assert (msgspec.msgpack.decode(message)["version"], error, len(wire.exchange)) == ("1", None, 0)


def test_answers_come_in_any_order(wire: Wire) -> None:
    first, second = wire.call(), wire.call()
    one, two = wire.sent()
    wire.answer(two)
    assert (len(first), len(second)) == (0, 1)
    wire.answer(one)
    assert len(first) == 1


@pytest.mark.parametrize(
    ("code", "kind"), [("not_found", NotFoundError), ("bad_value", RequestError), ("internal", RequestError)]
)
def test_a_refusal_is_final(wire: Wire, code: str, kind: type[DispatcherError]) -> None:
    answers = wire.call()
    wire.refuse(wire.sent()[0], code, field="id")
    assert type(answers.error) is kind
    assert (answers.error.code, answers.error.message, answers.error.field) == (code, "because", "id")


@pytest.mark.parametrize("code", ["overloaded", "unavailable"])
def test_it_is_sent_again_after_the_wait_that_was_asked_for(wire: Wire, code: str) -> None:
    answers = wire.call()
    (request,) = wire.sent()
    wire.refuse(request, code, retry_after_ms=500)
    wire.pass_time(0.499)
    assert not wire.sent()
    wire.pass_time(0.001)
    assert wire.sent() == [request]
    wire.answer(request)
    assert len(answers) == 1


def test_without_a_wait_in_the_answer_it_takes_a_moment(wire: Wire) -> None:
    wire.call()
    (request,) = wire.sent()
    wire.refuse(request, "unavailable")
    assert wire.exchange.wait_s(wire.now) == pytest.approx(PATIENCE_S)


@pytest.mark.parametrize(("code", "kind"), [("overloaded", OverloadedError), ("unavailable", UnavailableError)])
def test_at_the_deadline_the_last_answer_counts(wire: Wire, code: str, kind: type[DispatcherError]) -> None:
    answers = wire.call(timeout_s=1.0)
    while not answers:
        for request in wire.sent():
            wire.refuse(request, code, retry_after_ms=300)
        wire.pass_time(0.25)
    assert type(answers.error) is kind
    assert answers.error.message == "because"


def test_only_where_every_try_was_refused_it_is_known_that_nothing_was_taken(wire: Wire) -> None:
    answers = wire.call(timeout_s=1.0)
    wire.sent()
    wire.exchange.on_lost()  # and with it the answer, perhaps
    while not answers:
        for request in wire.sent():
            wire.refuse(request, "overloaded", retry_after_ms=300)
        wire.pass_time(0.25)
    assert type(answers.error) is UnavailableError


def test_silence_has_it_sent_again_and_given_up_at_the_deadline(wire: Wire) -> None:
    answers = wire.call()
    copies = [*wire.sent()]
    waits = []
    while not answers:
        wait_s = wire.exchange.wait_s(wire.now)
        assert wait_s is not None
        waits.append(wait_s)
        wire.pass_time(wait_s)
        copies += wire.sent()
    assert copies == [copies[0]] * 5
    assert waits == pytest.approx([SILENCE_S] * 4 + [TIMEOUT_S - 4 * SILENCE_S])
    assert isinstance(answers.error, TimeoutError)
    assert "no answer from tcp://there within 30 s; is it running?" in answers.error.message
    assert wire.exchange.wait_s(wire.now) is None


def test_a_lost_connection_has_all_that_is_unanswered_sent_again_in_order(wire: Wire) -> None:
    for _ in range(3):
        wire.call()
    requests = wire.sent()
    wire.answer(requests[1])
    wire.exchange.on_lost()
    wire.exchange.on_lost()
    assert wire.sent() == [requests[0], requests[2]]


def test_what_could_not_be_sent_yet_is_sent_once(wire: Wire) -> None:
    wire.call()
    wire.exchange.on_lost()
    assert len(wire.sent()) == 1


def test_what_was_given_up_is_not_sent_any_more(wire: Wire) -> None:
    wire.call(timeout_s=1.0)
    wire.pass_time(1.0)
    assert not wire.sent()


def test_without_retries_there_is_one_try(wire: Wire) -> None:
    wire = Wire(retries=False)
    refused, silent = wire.call(), wire.call(timeout_s=20.0)
    request, _ = wire.sent()
    wire.refuse(request, "overloaded", retry_after_ms=10)
    assert isinstance(refused.error, OverloadedError)
    wire.exchange.on_lost()
    wire.pass_time(SILENCE_S)
    assert not wire.sent()
    wire.pass_time(20.0)
    assert isinstance(silent.error, UnavailableError)


@pytest.mark.parametrize(
    "message",
    [b"\x01", b"\x80", b"{}", pack({"ok": False}), pack({"ok": "yes"}), b"\x81\xa5error\xa2\xff\xff", b"\x91" * 2000],
)
def test_what_no_dispatcher_sends_is_told_apart(wire: Wire, message: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        wire.exchange.on_message(message, wire.now)


def test_the_end_tells_everybody(wire: Wire) -> None:
    answers, receipts, waiting = wire.call(), wire.single(), [wire.single() for _ in range(5)]
    wire.sent()
    wire.exchange.end_all(RequestError(Error("internal", "the end")))
    assert isinstance(answers.error, RequestError)
    assert all(isinstance(one[0], RequestError) for one in [receipts, *waiting])
    assert len(wire.exchange) == 0


# --- gathering ----------------------------------------------------------------------------------------------------


def test_the_first_goes_at_once_and_what_comes_meanwhile_goes_together(wire: Wire) -> None:
    wire.single("a")
    (first,) = wire.sent()
    wire.single("b")
    (second,) = wire.sent()
    for name in "cdef":
        wire.single(name)
    assert (users(first), users(second), wire.sent()) == (["a"], ["b"], [])
    assert AT_ONCE == 2
    wire.accept(first)
    (third,) = wire.sent()
    assert users(third) == ["c", "d", "e", "f"]


def test_each_gets_its_own_receipt(wire: Wire) -> None:
    held = [wire.single(f"{at}") for at in range(AT_ONCE)]
    frames = wire.sent()
    found = {name: wire.single(name) for name in "abcde"}
    for frame in frames:
        wire.accept(frame)
    (frame,) = wire.sent()
    wire.accept(
        frame,
        ids=["id-a", None, "id-c", "id-d", ["id-e1", None]],
        duplicate=[{"index": 2, "mismatch": True}],
        rejected=[
            {"index": 1, "error": {"code": "unknown_key", "message": "no", "field": "titel"}},
            {"index": 4, "error": {"code": "bad_value", "message": "empty", "field": "recipients"}},
        ],
    )
    assert found["a"] == [Receipt("id-a", ["id-a"])]
    (refused,) = found["b"]
    assert isinstance(refused, RejectedError)
    assert (refused.code, refused.field) == ("unknown_key", "titel")
    assert found["c"] == [Receipt("id-c", ["id-c"], duplicate=True, mismatch=True)]
    (partly,) = found["e"]
    assert isinstance(partly, Receipt)
    assert (partly.id, partly.ids, [one.index for one in partly.rejected]) == ("id-e1", ["id-e1", None], [1])
    assert all(len(one) == 1 for one in held)


def test_full_frames_go_up_to_a_bound(wire: Wire) -> None:
    for at in range((UNDER_WAY + 2) * FRAME_ITEMS):
        wire.single(f"{at}")
    frames = wire.sent()
    assert [len(frame["notifications"]) for frame in frames] == [FRAME_ITEMS] * UNDER_WAY
    wire.accept(frames[0])
    assert len(wire.sent()) == 1


def test_a_frame_has_a_bound_of_bytes(wire: Wire) -> None:
    for at in range(5):
        wire.single(f"{at}", size=FRAME_BYTES // 2)
    frames = []
    while more := wire.sent():
        for frame in more:
            wire.accept(frame)
        frames += more
    assert [len(frame["notifications"]) for frame in frames] == [1] * 5


def test_nobody_waits_longer_to_be_gathered_than_the_timeout(wire: Wire) -> None:
    for _ in range(AT_ONCE):
        wire.single()
    wire.sent()
    wire.pass_time(TIMEOUT_S - 1)
    late = wire.single()
    wire.pass_time(1.0)
    assert not late
    assert len(wire.sent()) == 1  # those before it were given up
    waiting = wire.single("b"), wire.single("c")
    wire.sent()
    wire.pass_time(TIMEOUT_S)
    assert isinstance(waiting[0][0], UnavailableError)
    assert isinstance(waiting[1][0], UnavailableError)


# --- keys that were made ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_made", "repeats", "duplicate"), [(True, True, False), (False, True, True), (True, False, True)]
)
def test_a_notification_that_was_sent_again_is_no_duplicate_of_itself(
    wire: Wire, is_made: bool, repeats: bool, duplicate: bool
) -> None:
    receipts = wire.single(is_made=is_made)
    (frame,) = wire.sent()
    if repeats:
        wire.exchange.on_lost()
        assert wire.sent() == [frame]
    wire.accept(frame, accepted=0, duplicates=1, duplicate=[{"index": 0, "mismatch": False}])
    assert receipts == [Receipt("id-ada", ["id-ada"], duplicate=duplicate)]


# --- one for all --------------------------------------------------------------------------------------------------


def exhaust(wire: Wire, is_bad: Callable[[list[str]], bool]) -> int:
    """Answer until nothing comes any more; how many frames there were."""
    frames = 0
    while sent := wire.sent():
        for frame in sent:
            frames += 1
            if is_bad(users(frame)):
                wire.refuse(frame, "too_large")
            else:
                wire.accept(frame)
    return frames


def test_a_frame_that_is_refused_as_a_whole_is_halved_until_who_is_to_blame_is_alone(wire: Wire) -> None:
    held = [wire.single("held") for _ in range(AT_ONCE)]
    first = wire.sent()
    found = [wire.single("bad" if at == 77 else f"{at}") for at in range(400)]
    for frame in first:
        wire.accept(frame)
    assert exhaust(wire, lambda names: "bad" in names) <= 2 * 10
    for at, (outcome,) in enumerate(found):
        if at == 77:
            assert isinstance(outcome, RejectedError)
            assert outcome.code == "too_large"
        else:
            assert outcome == Receipt(f"id-{at}", [f"id-{at}"])
    assert all(isinstance(one[0], Receipt) for one in held)
    wire.single("next")
    assert [users(frame) for frame in wire.sent()] == [["next"]]  # no frame is thought to be under way still


def test_a_frame_that_is_too_much_for_the_dispatcher_goes_in_parts(wire: Wire) -> None:
    for _ in range(AT_ONCE):
        wire.single("held")
    first = wire.sent()
    found = [wire.single(f"{at}") for at in range(FRAME_ITEMS)]
    for frame in first:
        wire.accept(frame)
    exhaust(wire, lambda names: len(names) > 100)
    assert [one[0] for one in found] == [Receipt(f"id-{at}", [f"id-{at}"]) for at in range(FRAME_ITEMS)]


def test_nothing_is_due_where_nothing_is_under_way(wire: Wire) -> None:
    assert wire.exchange.wait_s(wire.now) is None
    wire.single()
    wire.accept(wire.sent()[0])
    wire.pass_time(math.ceil(TIMEOUT_S))
    assert wire.exchange.wait_s(wire.now) is None
