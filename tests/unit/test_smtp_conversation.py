"""A mail over one connection, with the server's bytes put in one by one, and cut off after any of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shards.channels.mail_message import Mail
from shards.channels.smtp_conversation import Conversation, LostError, RefusedError, Reply

MAIL = Mail("no-reply@shop.example", "ada@example.org", b"Subject: Hi\r\n\r\nHi\r\n", utf8=False)
AGREED = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go on\r\n"
TAKEN = b"250-2.0.0 Ok\r\n250 2.0.0 queued\r\n"


class Wire(asyncio.Transport):
    """To a server that only says what the test says. ``written`` is what reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self._is_closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It holds nothing back."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """The test knows it."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._is_closing
        self.written += data

    def is_closing(self) -> bool:
        return self._is_closing

    def abort(self) -> None:
        self._is_closing = True


async def sent(*said: bytes, extensions: tuple[str, ...] = ("pipelining",), cut: bool = False) -> tuple[Any, Wire]:
    """What came of a mail beside a server that says these, one after the other; with ``cut`` it hangs up then."""
    wire = Wire()
    conversation = Conversation(wire, dict.fromkeys(extensions, ""))
    sending = asyncio.create_task(conversation.send(MAIL, asyncio.get_running_loop().time() + 30))
    for data in said:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        conversation.data_received(data)
    if cut:
        conversation.eof_received()
    (outcome,) = await asyncio.gather(sending, return_exceptions=True)
    assert conversation.is_open == (isinstance(outcome, Reply) and not cut)
    return outcome, wire


def test_a_mail_is_taken_when_the_last_line_of_the_answer_is_there() -> None:
    outcome, wire = asyncio.run(sent(AGREED, TAKEN))
    assert outcome == Reply(250, "2.0.0 Ok 2.0.0 queued")
    assert wire.written.endswith(b"\r\nHi\r\n.\r\n")


@pytest.mark.parametrize("slowly", [False, True])
def test_a_connection_may_break_after_any_byte(slowly: bool) -> None:
    whole = AGREED + TAKEN
    for length in range(len(whole)):
        parts = [whole[: min(length, len(AGREED))], whole[len(AGREED) : length]]
        given = [bytes([byte]) for byte in whole[:length]] if slowly else [part for part in parts if part]
        outcome, wire = asyncio.run(sent(*given, cut=True))
        assert isinstance(outcome, LostError), length
        assert not outcome.stale
        assert outcome.sent == wire.written.endswith(b".\r\n") == (length > len(AGREED))


def test_what_breaks_with_the_agreement_has_sent_nothing() -> None:
    outcome, wire = asyncio.run(sent(AGREED, cut=True))
    assert isinstance(outcome, LostError)
    assert not outcome.sent
    assert wire.written.endswith(b"DATA\r\n")


@pytest.mark.parametrize("answer", [b"354 go on\r\n", b"150 wait\r\n", b"999 what\r\n", b"000 what\r\n"])
def test_no_other_answer_is_a_yes(answer: bytes) -> None:
    outcome, _ = asyncio.run(sent(AGREED, answer))
    assert isinstance(outcome, LostError)
    assert outcome.sent
    assert "makes no sense" in outcome.why


def test_a_server_that_closes_need_not_hang_up() -> None:
    outcome, _ = asyncio.run(sent(b"250 2.1.0 Ok\r\n421 4.7.0 too many\r\n"))
    assert isinstance(outcome, RefusedError)
    assert (outcome.command, outcome.reply.code) == ("RCPT", 421)


@pytest.mark.parametrize("more", [b"250 injected\r\n", b"250-", b"2"])
def test_what_was_not_asked_for_is_no_answer_to_what_follows(more: bytes) -> None:
    outcome, wire = asyncio.run(sent(AGREED + more))
    assert isinstance(outcome, LostError)
    assert not outcome.sent
    assert wire.written.endswith(b"DATA\r\n")


def test_a_mail_that_was_taken_is_taken_whatever_follows() -> None:
    async def work() -> None:
        wire = Wire()
        conversation = Conversation(wire, {"pipelining": ""})
        sending = asyncio.create_task(conversation.send(MAIL, asyncio.get_running_loop().time() + 30))
        for data in (AGREED, TAKEN + b"421 4.3.2 going down\r\n"):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            conversation.data_received(data)
        assert (await sending).code == 250
        assert not conversation.is_open

    asyncio.run(work())


@pytest.mark.parametrize("size", ["9" * 5_000, "0", "what", "-1", ""])
def test_a_size_that_says_nothing_bounds_nothing(size: str) -> None:
    async def work() -> None:
        assert not Conversation(Wire(), {"size": size}).objection(MAIL)
        assert "at most 5" in Conversation(Wire(), {"size": "5"}).objection(MAIL)

    asyncio.run(work())
