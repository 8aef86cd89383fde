"""E-mail beside servers that refuse, hang up, hang and drip, at each point of the conversation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shards.answers import Answers, ErrorClass
from shards.channels.base import Context, Delivery, SendError, Sent
from shards.channels.email import EmailChannel
from shards.channels.smtp_pool import Pool
from shards.channels.smtp_server import Server
from tests.support.deliveries import mail_to
from tests.support.service import wait_until
from tests.support.smtp import DRIP, DROP, EXTENSIONS, GARBAGE, GREETING, HANG, ScriptedServer
from tests.support.waiting import until

TEST_S = 60.0
HANGS_S = 2.0  # enough for a busy machine to come to the command that hangs
ONE_BY_ONE = tuple(one for one in EXTENSIONS if one != "PIPELINING")


@pytest.fixture(params=[EXTENSIONS, ONE_BY_ONE], ids=["pipelining", "one-by-one"])
def server(request: pytest.FixtureRequest) -> Iterator[ScriptedServer]:
    with ScriptedServer(request.param) as server:
        yield server


@asynccontextmanager
async def channel(
    server: ScriptedServer, context: Context | None = None, **settings: Any
) -> AsyncIterator[EmailChannel]:
    given = {"host": "127.0.0.1", "port": server.port, "tls": "none", "sender": "Shop <no-reply@shop.example>"}
    one = EmailChannel(EmailChannel.Settings(**{**given, **settings}), context or Context("email", timeout_s=30.0))
    try:
        yield one
    finally:
        await one.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TEST_S):
            await work()

    asyncio.run(bounded())


def outcome(server: ScriptedServer, delivery: Delivery | None = None, **settings: Any) -> Sent | SendError:
    """Of one send over a new connection; a second one must then arrive."""
    found: list[Sent | SendError] = []

    async def work() -> None:
        async with channel(server, **settings) as one:
            try:
                found.append(await one.send(delivery or mail_to()))
            except SendError as error:
                found.append(error)
            await one.send(mail_to(title="after"))

    run(work)
    assert server.mails[-1]["Subject"] == "after"
    return found[0]


def failure(server: ScriptedServer, delivery: Delivery | None = None, **settings: Any) -> SendError:
    found = outcome(server, delivery, **settings)
    assert isinstance(found, SendError), f"it was sent: {found}"
    assert len(server.received) == 1, "the mail that failed was taken"
    assert found.message.isprintable()
    assert len(found.message) <= 300
    return found


def test_a_mail_is_sent_and_the_servers_word_kept(server: ScriptedServer) -> None:
    assert outcome(server) == Sent("2.0.0 queued")
    assert server.mails[0]["Subject"] == "Order 17 has shipped"
    assert [line[:4] for line in server.commands[:7]] == ["EHLO", *["MAIL", "RCPT", "DATA"] * 2]


@pytest.mark.parametrize(
    ("command", "answer", "error_class"),
    [
        ("RCPT", "550 5.1.1 User unknown", "bad_address"),
        ("RCPT", "550-5.1.1 Nobody here\r\n550 5.1.1 of that name", "bad_address"),
        ("RCPT", "550 no such user", "bad_address"),
        ("RCPT", "553 5.1.3 bad syntax", "bad_address"),
        ("RCPT", "556 5.1.10 null MX", "bad_address"),
        ("RCPT", "450 4.1.1 User unknown", "bad_address"),
        ("RCPT", "550 5.2.1 disabled", "bad_address"),
        (".", "550 5.1.1 User unknown", "bad_address"),
        ("RCPT", "550 5.7.1 Not welcome", "permanent"),
        ("RCPT", "554 5.7.1 Relay access denied", "permanent"),
        ("RCPT", "552 5.2.2 Mailbox full", "permanent"),
        (".", "554 5.7.1 Spam", "permanent"),
        (".", "552 5.3.4 Too big", "permanent"),
        ("DATA", "554 no valid recipients", "permanent"),
        ("RCPT", "450 4.2.2 Mailbox full", "transient"),
        ("RCPT", "451 4.7.1 Greylisted", "transient"),
        ("MAIL", "451 4.3.0 Local error", "transient"),
        ("DATA", "451 try again", "transient"),
        (".", "452 4.3.1 Disk full", "transient"),
        ("RCPT", "452 4.5.3 Too many", "throttled"),
        ("MAIL", "421 4.7.28 Unusual rate", "throttled"),
        (".", "451 4.7.500 Server busy", "throttled"),
        (".", "454 Throttling failure: Maximum sending rate exceeded.", "throttled"),
        ("GREETING", "421 too many connections", "throttled"),
        ("GREETING", "554 5.7.1 your address is listed", "misconfigured"),
        ("GREETING", "451 later", "transient"),
        ("EHLO", "550 5.7.1 not you", "misconfigured"),
        ("MAIL", "550 5.1.8 sender domain unknown", "misconfigured"),
        ("MAIL", "553 not your address", "misconfigured"),
        ("MAIL", "550 5.1.0 sender rejected", "misconfigured"),
        ("MAIL", "530 5.7.0 Authentication required", "misconfigured"),
        ("MAIL", "552 5.3.4 Too big", "permanent"),
    ],
)
def test_a_refusal_means_what_the_table_says(
    server: ScriptedServer, command: str, answer: str, error_class: ErrorClass
) -> None:
    server.on(command, answer)
    error = failure(server)
    assert error.error_class == error_class
    assert error.bad == (("ada@example.org",) if error_class == "bad_address" else ())
    assert answer[:3] in error.message
    assert server.connections == (2 if answer.startswith("421") or command in ("GREETING", "EHLO", "MAIL") else 1)
    assert answer.rsplit(maxsplit=1)[-1] in error.message


@pytest.mark.parametrize("agrees", [False, True])
def test_each_recipient_has_an_outcome_of_its_own(server: ScriptedServer, agrees: bool) -> None:
    """Some servers agree to DATA after they have refused the only recipient."""
    server.on("RCPT", "250 ok", "550 5.1.1 unknown", "450 4.2.0 later", "250 ok")
    if agrees and "PIPELINING" in server.extensions:
        server.on("DATA", *["354 go on"] * 4)

    async def work() -> None:
        async with channel(server, connections=1) as one:
            await one.send(mail_to("a@example.org", title="a"))
            for name, error_class in (("b", "bad_address"), ("c", "transient")):
                with pytest.raises(SendError) as caught:
                    await one.send(mail_to(f"{name}@example.org", title=name))
                assert caught.value.error_class == error_class
            await one.send(mail_to("d@example.org", title="d"))

    run(work)
    assert [mail["Subject"] for mail in server.mails] == ["a", "d"]
    assert server.connections == 1


def test_a_connection_that_cannot_begin_anew_is_replaced(server: ScriptedServer) -> None:
    server.on("RCPT", "450 4.2.0 later")
    server.on("RSET", "500 what")

    async def work() -> None:
        async with channel(server, connections=1) as one:
            with pytest.raises(SendError):
                await one.send(mail_to())
            await one.send(mail_to(title="after"))

    run(work)
    assert [mail["Subject"] for mail in server.mails] == ["after"]
    assert server.connections == 2


def test_enough_mails_for_one_connection_are_not_enough_for_the_next(server: ScriptedServer) -> None:
    """As OpenSMTPD says it, which leaves the connection open."""
    server.on("MAIL", "250 ok", "452 4.3.0 Too many messages sent")

    async def work() -> None:
        async with channel(server, connections=1) as one:
            await one.send(mail_to())
            with pytest.raises(SendError):
                await one.send(mail_to())
            await one.send(mail_to())

    run(work)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("command", "error_class"),
    [
        ("GREETING", "transient"),
        ("EHLO", "transient"),
        ("MAIL", "transient"),
        ("RCPT", "transient"),
        ("DATA", "transient"),
        (".", "ambiguous"),
    ],
)
def test_a_connection_that_breaks(server: ScriptedServer, command: str, error_class: ErrorClass) -> None:
    server.on(command, DROP)
    assert failure(server).error_class == error_class


@pytest.mark.parametrize(
    ("command", "what", "error_class"),
    [("GREETING", HANG, "transient"), ("RCPT", DRIP, "transient"), (".", HANG, "ambiguous"), (".", DRIP, "ambiguous")],
)
def test_a_server_that_hangs_is_left_in_time(command: str, what: str, error_class: ErrorClass) -> None:
    async def work() -> None:
        with ScriptedServer() as server:
            server.on(command, what)
            async with channel(server, Context("email", timeout_s=HANGS_S)) as one:
                with pytest.raises(SendError) as caught:
                    await one.send(mail_to())
                assert caught.value.error_class == error_class
                assert not server.received
            async with channel(server) as one:
                await one.send(mail_to())

    run(work)


def test_a_connection_that_breaks_before_the_last_of_the_content_has_not_sent_it(server: ScriptedServer) -> None:
    server.on("CONTENT", DROP)
    assert failure(server, mail_to(text=("a line of text " * 5 + "\n") * 200_000)).error_class == "transient"


def test_a_great_mail_arrives_whole(server: ScriptedServer) -> None:
    text = ".\n..\n.dots\n" + "a line of text\n" * 100_000
    assert isinstance(outcome(server, mail_to(text=text)), Sent)
    assert server.received[0].endswith(text.replace("\n", "\r\n").encode())


@pytest.mark.parametrize("command", ["GREETING", "EHLO", "MAIL", "RCPT"])
@pytest.mark.parametrize("answer", [GARBAGE, "no SMTP at all", "25", "999 what", "354 what"])
def test_answers_that_are_none_break_the_connection(server: ScriptedServer, command: str, answer: str) -> None:
    server.on(command, answer)
    found: list[SendError] = []

    async def work() -> None:
        async with channel(server) as one:
            with pytest.raises(SendError) as caught:
                await one.send(mail_to())
            found.append(caught.value)
            await one.send(mail_to())

    run(work)
    assert found[0].error_class == "transient"
    assert re.search("not speak SMTP|not one of SMTP|makes no sense|over 16384 bytes", found[0].message)
    assert len(found[0].message) <= 300


# --- the pool --------------------------------------------------------------------------------------------------------


def test_a_connection_is_used_again(server: ScriptedServer) -> None:
    async def work() -> None:
        async with channel(server) as one:
            for _ in range(5):
                await one.send(mail_to())

    run(work)
    assert server.connections == 1


def test_no_more_connections_than_allowed(server: ScriptedServer) -> None:
    async def work() -> None:
        async with channel(server, connections=3) as one:
            await asyncio.gather(*(one.send(mail_to()) for _ in range(50)))

    run(work)
    assert len(server.received) == 50
    assert server.connections <= 3


def test_a_server_that_admits_fewer_connections_gets_all_mails_over_those(server: ScriptedServer) -> None:
    server.on("GREETING", GREETING, *["421 4.7.0 too many connections"] * 3, DROP)

    async def work() -> None:
        async with channel(server, connections=5) as one:
            await asyncio.gather(*(one.send(mail_to()) for _ in range(50)))

    run(work)
    assert len(server.received) == 50
    assert server.connections == 5


def test_a_server_that_admits_nobody_is_not_waited_for(server: ScriptedServer) -> None:
    server.on("GREETING", *["421 4.7.0 too many connections"] * 5)

    async def work() -> None:
        async with channel(server, connections=2) as one:
            for _ in range(2):
                found = await asyncio.gather(*(one.send(mail_to()) for _ in range(2)), return_exceptions=True)
                assert any(isinstance(error, SendError) and error.error_class == "throttled" for error in found)

    run(work)


def test_no_mail_is_begun_without_time_for_its_answer() -> None:
    async def work() -> None:
        with ScriptedServer() as server:
            server.on(".", HANG)
            async with channel(server, Context("email", timeout_s=HANGS_S), connections=1) as one:
                sending = asyncio.create_task(one.send(mail_to()))
                await until(lambda: not server.to_come("."))
                with pytest.raises(SendError, match="no connection") as caught:
                    await one.send(mail_to())
                assert caught.value.error_class == "transient"
                assert not sending.done()
                with pytest.raises(SendError, match="did not say"):
                    await sending
            assert [line[:4] for line in server.commands].count("MAIL") == 1

    run(work)


def test_a_worn_connection_is_replaced(server: ScriptedServer) -> None:
    async def work() -> None:
        async with channel(server, mails_per_connection=2) as one:
            for _ in range(5):
                await one.send(mail_to())

    run(work)
    assert server.connections == 3
    wait_until(lambda: server.commands.count("QUIT") == 3)


def test_an_idle_connection_is_ended(server: ScriptedServer) -> None:
    async def work() -> None:
        async with channel(server, idle=0.001) as one:
            await one.send(mail_to())
            await until(lambda: "QUIT" in server.commands)

    run(work)


@pytest.mark.parametrize("how", ["hang up", "421 4.4.2 idle for too long", "drop at the next", "421 at the next"])
def test_a_connection_that_broke_while_idle_is_no_failure(server: ScriptedServer, how: str) -> None:
    async def work() -> None:
        async with channel(server) as one:
            await asyncio.gather(*(one.send(mail_to()) for _ in range(3)))
            before = server.connections
            if how == "hang up":
                server.hang_up()
            elif how == "drop at the next":
                server.on("MAIL", DROP)
            elif how == "421 at the next":
                server.on("MAIL", "421 4.3.2 going down")
            else:
                server.tell_all(how)
            await one.send(mail_to(title="after"))
            assert server.connections == before + 1

    run(work)
    assert server.mails[-1]["Subject"] == "after"


def test_waiting_for_a_connection_has_an_end(server: ScriptedServer) -> None:
    async def work() -> None:
        settings = EmailChannel.Settings(host="127.0.0.1", port=server.port, tls="none", sender="no-reply@shop.example")
        pool = Pool(Server(settings, Context("email"), "shop.example").connect, 1, 30.0, 100)
        now = asyncio.get_running_loop().time
        async with pool.connection(now() + TEST_S):
            with pytest.raises(SendError, match="raise connections") as caught:
                async with pool.connection(now() + 0.01):
                    pytest.fail("there is but one")
        assert caught.value.error_class == "transient"
        async with pool.connection(now() + TEST_S) as conversation:
            assert conversation.is_open
        await pool.close()

    run(work)
    assert server.connections == 1


def test_a_send_that_is_given_up_leaves_the_channel_usable(server: ScriptedServer) -> None:
    server.on("RCPT", HANG)

    async def work() -> None:
        async with channel(server, connections=1) as one:
            sending = asyncio.create_task(one.send(mail_to()))
            await until(lambda: not server.to_come("RCPT"))
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await one.send(mail_to(title="after"))

    run(work)
    assert [mail["Subject"] for mail in server.mails] == ["after"]


# --- what is not sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "delivery",
    [mail_to(title="a\r\nBcc: eve@example.org"), mail_to("ada@example.org\r\nRCPT TO:<eve@example.org>")],
)
def test_what_has_line_breaks_in_it_never_reaches_the_server(server: ScriptedServer, delivery: Delivery) -> None:
    async def work() -> None:
        async with channel(server) as one:
            with pytest.raises(SendError):
                await one.send(delivery)

    run(work)
    assert not server.connections


def test_an_international_address_needs_a_server_for_it() -> None:
    delivery = mail_to("\u00fcser@example.org")
    with ScriptedServer() as server:
        assert isinstance(outcome(server, delivery), Sent)
        assert server.commands[1].endswith("SMTPUTF8")
    with ScriptedServer(("PIPELINING",)) as server:
        error = failure(server, delivery)
        assert error.error_class == "permanent"
        assert "SMTPUTF8" in error.message


def test_a_mail_that_is_too_great_for_the_server_is_not_sent() -> None:
    with ScriptedServer(("PIPELINING", "SIZE 2000")) as server:
        error = failure(server, mail_to(text="text\n" * 1_000))
        assert error.error_class == "permanent"
        assert "2000" in error.message
        assert "MAIL FROM:<no-reply@shop.example> SIZE=" in server.commands[1]


# --- who may say otherwise -------------------------------------------------------------------------------------------


def test_the_operators_table_goes_first(server: ScriptedServer) -> None:
    server.on("RCPT", "450 4.1.1 being verified")

    async def work() -> None:
        context = Context("email", 30.0, answers=Answers({"smtp": {"4.1.1": "transient"}}))
        async with channel(server, context) as one:
            with pytest.raises(SendError) as caught:
                await one.send(mail_to())
            assert caught.value.error_class == "transient"

    run(work)


def test_the_conversation_can_be_followed(server: ScriptedServer) -> None:
    lines: list[str] = []

    async def work() -> None:
        async with channel(server, Context("email", 30.0, trace=lines.append)) as one:
            await one.send(mail_to(text="text\n" * 1_000))

    run(work)
    assert lines[0] == f"connected to 127.0.0.1:{server.port}"
    for line in (
        "< 220 mail.test ESMTP",
        "> RCPT TO:<ada@example.org>",
        "< 250 2.1.5 Ok",
        "> Subject: Order 17 has shipped",
    ):
        assert line in lines
    assert lines[-2:] == ["< 250 2.0.0 queued", "> QUIT"]
    assert len(lines) < 400


def test_nobody_listens() -> None:
    with ScriptedServer() as server:
        port = server.port

    async def work() -> None:
        async with channel(server, port=port) as one:
            with pytest.raises(SendError) as caught:
                await one.send(mail_to())
            assert caught.value.error_class == "transient"
            assert f"127.0.0.1:{port} cannot be reached" in caught.value.message

    run(work)
