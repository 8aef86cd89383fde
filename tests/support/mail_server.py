"""A real mail server, aiosmtpd, in a thread: with TLS, with passwords, and with answers of the test's own."""

from __future__ import annotations

import asyncio
import ssl
import threading
import warnings
from collections.abc import Callable
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from types import TracebackType
from typing import Any, Self, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.waiting import others

STARTS_S = 30.0


class MailServer:
    """A context manager. It takes every mail whose recipient ``answer`` has nothing else to say to.

    With ``tls`` it asks for STARTTLS before all else, or is encrypted from the start if ``implicit``. With ``logins``
    (names and passwords) it asks for one of them; ``without`` are mechanisms of authentication that it has not.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        implicit: bool = False,
        logins: dict[str, str] | None = None,
        without: tuple[str, ...] = (),
        answer: Callable[[str], str | None] = lambda recipient: None,
    ) -> None:
        self.envelopes: list[Envelope] = []
        self.encrypted: list[bool] = []
        self.connections = 0
        self.port = 0
        self._implicit = tls if implicit else None
        self._answer = answer
        self._logins = logins or {}
        self._options: dict[str, Any] = {"hostname": "mail.test", "enable_SMTPUTF8": True}
        if tls is not None and not implicit:
            self._options |= {"tls_context": tls, "require_starttls": True}
        if logins:
            self._options |= {
                "authenticator": self._authenticate,
                "auth_required": True,
                "auth_require_tls": not implicit,
                "auth_exclude_mechanism": without,
            }
        self._open: list[SMTP] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))

    @property
    def mails(self) -> list[EmailMessage]:
        return [message_from_bytes(one.original_content or b"", policy=default) for one in list(self.envelopes)]

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(STARTS_S), "the mail server does not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(self._connected, "127.0.0.1", 0, ssl=self._implicit)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for one in self._open:
            if one.transport is not None:
                cast("asyncio.Transport", one.transport).abort()
        await others()

    def _connected(self) -> SMTP:
        self.connections += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it does not know of the encryption around it
            one = SMTP(self, loop=self._loop, **self._options)
        self._open.append(one)
        return one

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        right = self._logins.get(data.login.decode()) == data.password.decode()
        return AuthResult(success=right, handled=False)

    # aiosmtpd finds these by their names

    async def handle_RCPT(  # noqa: N802 - a name of aiosmtpd
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if answer := self._answer(address):
            return answer
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - a name of aiosmtpd
        self.encrypted.append(session.ssl is not None or self._implicit is not None)
        self.envelopes.append(envelope)
        return "250 2.0.0 queued"
