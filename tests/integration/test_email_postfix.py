"""E-mail beside Postfix: what a real mail server makes of our mails, our pipelining and our recipients."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest

from shards.channels.base import Context, Delivery, SendError
from shards.channels.email import EmailChannel
from tests.support.deliveries import mail_to
from tests.support.postfix import Postfix
from tests.support.service import wait_until

MAILS = 50


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with Postfix(("ada", "bob")) as postfix:
        yield postfix


def send(postfix: Postfix, *deliveries: Delivery, lines: list[str] | None = None) -> list[object]:
    settings = EmailChannel.Settings(
        host="127.0.0.1",
        port=postfix.port,
        ca_file=str(postfix.ca_file),
        sender="Shop <no-reply@shop.example>",
        connections=2,
    )

    async def work() -> list[object]:
        channel = EmailChannel(settings, Context("email", 60.0, trace=lines.append if lines is not None else None))
        try:
            return list(await asyncio.gather(*(channel.send(one) for one in deliveries), return_exceptions=True))
        finally:
            await channel.close()

    return asyncio.run(work())


def mails_to(postfix: Postfix, user: str, count: int) -> list[EmailMessage]:
    found = wait_until(
        lambda: mails if len(mails := postfix.mails_to(user)) >= count else None, 60.0, f"{count} mails to {user}"
    )
    return [message_from_bytes(one, policy=default) for one in found]


def test_a_mail_lies_in_the_mailbox_as_it_was_written(postfix: Postfix) -> None:
    text = "Gr\u00fc\u00dfe \N{PARTY POPPER}\n.\n.dots\nFrom here on\n" + "x" * 2_000
    payload = {
        "attachments": [
            {
                "filename": "a.bin",
                "content_type": "application/octet-stream",
                "content": base64.b64encode(bytes(range(256))).decode(),
            }
        ]
    }
    lines: list[str] = []
    send(
        postfix, mail_to("ada@example.org", title="\u00dcber", text=text, html="<p>x</p>", payload=payload), lines=lines
    )
    (mail,) = mails_to(postfix, "ada", 1)
    assert mail["Subject"] == "\u00dcber"
    assert mail["Message-ID"] == "<d-1@shop.example>"
    body = mail.get_body(("plain",))
    assert body is not None
    assert body.get_content() == f"{text}\n"
    (attachment,) = mail.iter_attachments()
    assert attachment.get_content() == bytes(range(256))
    said = "\n".join(lines)
    assert "< 250 PIPELINING" in said
    assert "> STARTTLS" in said


def test_each_recipient_is_answered_for_over_the_same_connections(postfix: Postfix) -> None:
    deliveries = [
        mail_to("nobody@example.org" if number % 5 == 0 else "bob@example.org", id=f"m-{number}", title=f"{number}")
        for number in range(MAILS)
    ]
    lines: list[str] = []
    found = send(postfix, *deliveries, lines=lines)
    for number, outcome in enumerate(found):
        if number % 5:
            assert not isinstance(outcome, BaseException), outcome
            continue
        assert isinstance(outcome, SendError)
        assert outcome.error_class == "bad_address"
        assert "550 5.1.1 <nobody@example.org>" in outcome.message
    expected = {f"{number}" for number in range(MAILS) if number % 5}
    assert {mail["Subject"] for mail in mails_to(postfix, "bob", len(expected))} == expected
    assert sum("> STARTTLS" in line for line in lines) <= 2
    assert "> RSET" in lines
