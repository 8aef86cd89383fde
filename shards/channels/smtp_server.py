"""Opening a connection to the mail server: TCP, TLS, the greeting, and authentication, by aiosmtplib.

TLS is never left out where it is asked for (RFC 8314), and what is wrong with it is for a person to mend.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, cast

import aiosmtplib
from aiosmtplib import SMTPResponse, SMTPResponseException

from shards.channels.base import Context, SendError
from shards.channels.mail_settings import Settings
from shards.channels.smtp_answers import refusal, worded
from shards.channels.smtp_conversation import Conversation, Reply, Trace


class Server:
    """The one of a channel's settings."""

    def __init__(self, settings: Settings, context: Context, own_name: str) -> None:
        """``own_name`` is how we greet it where the settings do not say."""
        self.name = f"{settings.host}:{settings.port_used}"
        self._settings = settings
        self._answers = context.answers
        self._trace = context.trace or _say_nothing
        self._own_name = settings.helo or own_name
        self._traced = context.trace
        self._tls = None if settings.tls == "none" else ssl.create_default_context(cafile=settings.ca_file or None)

    async def connect(self, deadline: float) -> Conversation:
        """A connection that is ready for mails. Raises ``SendError``; nothing is left open then."""
        settings = self._settings
        client = _Client(
            self._trace,
            hostname=settings.host,
            port=settings.port_used,
            timeout=None,
            use_tls=settings.tls == "tls",
            start_tls=False,
            tls_context=self._tls,
            local_hostname=self._own_name,
        )
        try:
            async with asyncio.timeout_at(deadline):
                await self._open(client)
        except BaseException as error:
            if client.transport is not None:
                cast("asyncio.Transport", client.transport).abort()  # closing would wait for the end of TLS
            client.close()
            if (told := self._told(client.step, error)) is None:
                raise
            raise told from None
        return Conversation(cast("asyncio.Transport", client.transport), client.esmtp_extensions, self._traced)

    async def _open(self, client: _Client) -> None:
        settings = self._settings
        await client.connect()
        await client.ehlo()
        if settings.tls == "starttls":
            if not client.supports_extension("starttls"):
                raise self._named(
                    "tls",
                    f"{self.name} does not offer STARTTLS, and nothing is sent without encryption; "
                    'use the port for it, mostly 587, or tls = "tls" with the port 465',
                )
            await client.starttls(tls_context=self._tls)
            await client.ehlo()
        if settings.password is not None:
            await self._authenticate(client, settings.password.reveal())

    async def _authenticate(self, client: _Client, password: str) -> None:
        methods = client.server_auth_methods
        if "plain" in methods:
            await client.auth_plain(self._settings.username, password)
        elif "login" in methods:
            await client.auth_login(self._settings.username, password)
        else:
            offered = ", ".join(methods).upper() or "none"
            raise SendError(
                "misconfigured",
                worded(
                    f"{self.name} offers neither AUTH PLAIN nor AUTH LOGIN, but {offered}; "
                    "use its port for submission, mostly 587, or leave username and password out"
                ),
            )

    def _told(self, step: str, error: BaseException) -> SendError | None:
        """What went wrong while connecting; None if it is no matter of the server."""
        cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPConnectError) else error
        if isinstance(error, SendError):
            return error
        if isinstance(error, TimeoutError):
            return self._named("unreachable", f"{self.name} did not answer in time, at {step}")
        if isinstance(error, SMTPResponseException):
            reply = Reply(error.code, " ".join(error.message.split()))
            if not reply.is_refusal:
                return self._named("unreachable", f"{self.name} does not speak SMTP, at {step}: {error.message}")
            return refusal(self._answers, self.name, step, reply)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._named(
                "tls",
                f"the certificate of {self.name} is not valid: {cause.verify_message}; "
                "host must be the name in it, and ca_file must name its authority if that is not a public one",
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return self._named(
                "tls",
                f"{self.name} and we cannot agree on TLS: {cause.reason or cause}; "
                'tls = "tls" is for port 465, "starttls" for 587',
            )
        if isinstance(cause, OSError | aiosmtplib.SMTPException):
            why = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            return self._named("unreachable", f"{self.name} cannot be reached, at {step}: {why}")
        return None

    def _named(self, name: str, message: str) -> SendError:
        return SendError(self._answers.error_class("smtp", name), worded(message))


class _Client(aiosmtplib.SMTP):
    """That of aiosmtplib, which tells what is said, credentials apart. ``step`` is what is under way."""

    def __init__(self, trace: Trace, **options: Any) -> None:
        super().__init__(**options)
        self.step = "connecting"
        self._say = trace

    async def connect(self, **options: Any) -> SMTPResponse:
        greeting = await super().connect(**options)
        self._say(f"connected to {self._peer()}{self._cipher()}")
        self._hear(greeting)
        return greeting

    async def starttls(self, **options: Any) -> SMTPResponse:
        self.step = "STARTTLS"
        self._say("> STARTTLS")
        answer = await super().starttls(**options)
        self._hear(answer)
        self._say(f"encrypted{self._cipher()}")
        return answer

    async def execute_command(self, *args: bytes, **options: Any) -> SMTPResponse:
        if args[0] in (b"EHLO", b"AUTH"):
            self.step = args[0].decode()
        secret = 2 if args[0] == b"AUTH" else 0 if self.step == "AUTH" else len(args)
        self._say(f"> {' '.join([*(arg.decode() for arg in args[:secret]), *(['***'] if secret < len(args) else [])])}")
        answer = await super().execute_command(*args, **options)
        self._hear(answer)
        return answer

    def _hear(self, answer: SMTPResponse) -> None:
        for line in answer.message.encode("utf-8", "replace").decode().splitlines():  # not all is UTF-8
            self._say(f"< {answer.code} {line}")

    def _peer(self) -> str:
        host, port, *_ = self.get_transport_info("peername")
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def _cipher(self) -> str:
        tls = self.get_transport_info("ssl_object")
        return f", {tls.version()}" if tls is not None else ""


def _say_nothing(_: str) -> None:
    pass


def own_name(domain: str) -> str:
    """How we greet where nobody says: the machine's name if it has a domain, else that of our sender."""
    name = socket.gethostname()
    return name if "." in name else domain
