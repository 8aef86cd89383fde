"""E-mail beside a real server with TLS and passwords: what is encrypted, who is believed, and what is never tried."""

from __future__ import annotations

import asyncio
import base64
import datetime
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import trustme

from shards.channels.base import Context, SendError
from shards.channels.email import EmailChannel
from shards.hidden import Secret
from tests.support.deliveries import mail_to
from tests.support.mail_server import MailServer
from tests.support.smtp import EXTENSIONS, ScriptedServer

NAME, PASSWORD = "shop", "hush-hush"
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
Tls = Literal["starttls", "tls", "none"]


class Authority(NamedTuple):
    ca: trustme.CA
    file: Path

    def context(self, *names: str, **options: Any) -> ssl.SSLContext:
        """Of a server with a certificate for these names."""
        found = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(*names, **options).configure_cert(found)
        return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    ca = trustme.CA()
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(file)
    return Authority(ca, file)


def send(port: int, lines: list[str] | None = None, text: str = "It comes tomorrow.", **settings: Any) -> None:
    given = {"host": "127.0.0.1", "port": port, "sender": "Shop <no-reply@shop.example>", **settings}

    async def work() -> None:
        trace = None if lines is None else lines.append
        channel = EmailChannel(EmailChannel.Settings(**given), Context("email", 30.0, trace=trace))
        try:
            for _ in range(2):
                await channel.send(mail_to(text=text))
        finally:
            await channel.close()

    asyncio.run(work())


def refused(port: int, **settings: Any) -> SendError:
    with pytest.raises(SendError) as caught:
        send(port, **settings)
    assert PASSWORD not in caught.value.message
    return caught.value


def login(password: str = PASSWORD) -> dict[str, Any]:
    return {"username": NAME, "password": Secret(password)}


@pytest.mark.parametrize("tls", ["starttls", "tls"])
@pytest.mark.parametrize("without", [(), ("PLAIN",)], ids=["plain", "login"])
def test_mails_are_encrypted_and_the_password_is_right(
    authority: Authority, tls: Tls, without: tuple[str, ...]
) -> None:
    lines: list[str] = []
    context = authority.context("127.0.0.1")
    with MailServer(context, implicit=tls == "tls", logins={NAME: PASSWORD}, without=without) as server:
        send(server.port, lines, tls=tls, ca_file=str(authority.file), **login())
        assert server.encrypted == [True, True]
        assert server.connections == 1
        assert server.mails[0]["Subject"] == "Order 17 has shipped"
    said = "\n".join(lines)
    assert "TLSv1.3" in said
    assert "> AUTH LOGIN ***" in said if without else "> AUTH PLAIN ***" in said
    for secret in (
        PASSWORD,
        base64.b64encode(PASSWORD.encode()).decode(),
        base64.b64encode(f"\0{NAME}\0{PASSWORD}".encode()).decode(),
    ):
        assert secret not in said


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_great_mail_arrives_whole(authority: Authority, tls: Tls) -> None:
    text = ".\n..\n.dots\n" + "a line of text\n" * 50_000
    with MailServer(authority.context("127.0.0.1"), implicit=tls == "tls") as server:
        send(server.port, text=text, tls=tls, ca_file=str(authority.file))
        assert [mail.get_content() for mail in server.mails] == [text.replace("\n", "\r\n")] * 2


@pytest.mark.parametrize("tls", ["starttls", "tls"])
@pytest.mark.parametrize(
    ("names", "options", "believed", "told"),
    [
        (("127.0.0.1",), {"not_before": LONG_AGO, "not_after": LONG_AGO + datetime.timedelta(1)}, True, "expired"),
        (("mail.example.org",), {}, True, "IP address mismatch"),
        (("127.0.0.1",), {}, False, "issuer certificate"),
    ],
    ids=["expired", "wrong name", "unknown authority"],
)
def test_a_certificate_that_is_not_valid_is_misconfigured(
    authority: Authority, tls: Tls, names: tuple[str, ...], options: dict[str, Any], believed: bool, told: str
) -> None:
    with MailServer(authority.context(*names, **options), implicit=tls == "tls", logins={NAME: PASSWORD}) as server:
        error = refused(server.port, tls=tls, ca_file=str(authority.file) if believed else "", **login())
        assert error.error_class == "misconfigured"
        assert told in error.message
        assert not server.envelopes


def test_a_server_without_starttls_gets_nothing() -> None:
    with ScriptedServer() as server:
        error = refused(server.port, **login())
        assert error.error_class == "misconfigured"
        assert "STARTTLS" in error.message
        assert [line[:4] for line in server.commands] == ["EHLO"]


@pytest.mark.parametrize("injected", [b"250-mail.test\r\n250 AUTH CRAM-MD5\r\n", b"250-mail.test\r\n", b"250"])
def test_what_stands_before_the_encryption_is_not_believed(authority: Authority, injected: bytes) -> None:
    """Answers behind that to STARTTLS, as somebody in between would put them there: RFC 3207, 6."""
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=_serve_one, args=(listening, authority.context("127.0.0.1"), injected))
        server.start()
        with pytest.raises(SendError, match="answered AUTH with 535"):
            send(listening.getsockname()[1], lines, ca_file=str(authority.file), **login())
        server.join()
    said = "\n".join(lines)
    assert "CRAM-MD5" not in said
    assert said.index("encrypted, TLSv1.3") < said.index("> AUTH PLAIN ***")


def _serve_one(listening: socket.socket, context: ssl.SSLContext, injected: bytes) -> None:
    """A connection in which more than the answer to STARTTLS is sent in the clear, and no password is right."""
    connection, _ = listening.accept()
    with connection:
        connection.sendall(b"220 mail.test\r\n")
        for answer in (b"250-mail.test\r\n250 STARTTLS\r\n", b"220 go on\r\n" + injected):
            connection.recv(1_000)
            connection.sendall(answer)
        with context.wrap_socket(connection, server_side=True) as encrypted:
            for answer in (b"250-mail.test\r\n250 AUTH PLAIN\r\n", b"535 5.7.8 no\r\n"):
                encrypted.recv(1_000)
                encrypted.sendall(answer)


def test_a_server_may_speak_another_encoding() -> None:
    lines: list[str] = []
    with ScriptedServer() as server:
        server.on("GREETING", "220 caf\udce9")
        send(server.port, lines, tls="none")
    assert "< 220 caf?" in lines
    "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("answer", "error_class"), [("454 4.7.0 TLS not available", "transient"), ("502 5.5.1 not here", "misconfigured")]
)
def test_a_refused_starttls_is_never_passed_over(answer: str, error_class: str) -> None:
    with ScriptedServer((*EXTENSIONS, "STARTTLS")) as server:
        server.on("STAR", answer)
        assert refused(server.port, **login()).error_class == error_class
        assert [line[:4] for line in server.commands] == ["EHLO", "STAR"]


def test_tls_with_a_server_that_speaks_first_is_misconfigured(authority: Authority) -> None:
    with MailServer() as server:
        error = refused(server.port, tls="tls", ca_file=str(authority.file))
        assert error.error_class == "misconfigured"
        assert "agree on TLS" in error.message


def test_a_wrong_password_is_misconfigured(authority: Authority) -> None:
    with MailServer(authority.context("127.0.0.1"), logins={NAME: PASSWORD}) as server:
        error = refused(server.port, ca_file=str(authority.file), **login("wrong-one"))
        assert error.error_class == "misconfigured"
        assert "535 5.7.8" in error.message
        assert "wrong-one" not in error.message
        assert not server.envelopes


def test_a_password_that_is_missing_is_misconfigured(authority: Authority) -> None:
    with MailServer(authority.context("127.0.0.1"), logins={NAME: PASSWORD}) as server:
        error = refused(server.port, ca_file=str(authority.file))
        assert error.error_class == "misconfigured"
        assert "530 5.7.0" in error.message


@pytest.mark.parametrize("offered", [(), ("AUTH CRAM-MD5 GSSAPI",)])
def test_a_server_that_takes_no_password_of_ours(offered: tuple[str, ...]) -> None:
    with ScriptedServer((*EXTENSIONS, *offered)) as server:
        error = refused(server.port, tls="none", **login())
        assert error.error_class == "misconfigured"
        assert ("CRAM-MD5, GSSAPI" if offered else "none") in error.message


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [("454 4.7.0 try later", "transient"), ("534 5.7.9 too weak", "misconfigured"), ("500 what", "misconfigured")],
)
def test_what_a_server_says_of_the_password(answer: str, error_class: str) -> None:
    with ScriptedServer((*EXTENSIONS, "AUTH PLAIN")) as server:
        server.on("AUTH", answer)
        error = refused(server.port, tls="none", **login())
        assert error.error_class == error_class
        assert answer in error.message
