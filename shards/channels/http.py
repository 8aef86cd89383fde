"""HTTP/1.1 for every provider that speaks it: one answer to one request, within a deadline, or a ``SendError``.

It stands on aiohttp itself: with any ``httpx.AsyncClient`` a request takes three times as long (bench/http_clients.py).
There are no redirects, no proxies, no cookies, no compression asked for, and of an answer no more is read than allowed.
How a request ended without an answer has names in the table of answers, as statuses have: ``unreachable`` (nothing was
sent), ``tls`` (the certificate is not to be trusted; nothing was sent), ``denied`` (by the guard), ``unanswered``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC
from email.utils import parsedate_to_datetime
from threading import Thread
from typing import NamedTuple
from weakref import WeakSet

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from shards.answers import Answers
from shards.channels.base import Context, SendError
from shards.channels.guard import DeniedError, Guard

ANSWER_BYTES = 20_000
CONNECT_S = 5.0  # at most, of the whole time
SHARE = 0.95  # of the channel's timeout: whoever knows how far it had got is to be first to say so
IDLE_S = 4.0  # many servers close an idle connection after five seconds, and what is sent then is lost
IDLE_MAX = 256  # connections kept open for what may come, of which there is one per endpoint and more
LOOKUPS_MAX = 512  # at once: a name whose server hangs has its thread for long, and is not to be in the way of others
QUOTED = 300  # characters
RETRY_AFTER_MAX_S = 86_400.0
HIDDEN = frozenset({"authorization", "webhook-signature"})
USER_AGENT = "notification-dispatcher"


class Answer(NamedTuple):
    """What a server has answered. ``text`` is its beginning, as far as it was read."""

    status: int
    headers: Mapping[str, str]  # in any case of letters
    text: str

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def retry_after_s(self) -> float | None:
        """What the server asks for, at most a day; None if it does not, or cannot be understood (RFC 9110, 10.2.3)."""
        asked = self.headers.get("Retry-After", "").strip()
        if asked.isascii() and asked.isdigit():
            return min(float(asked), RETRY_AFTER_MAX_S)
        try:
            date = parsedate_to_datetime(asked)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
        return min(max(0.0, seconds), RETRY_AFTER_MAX_S)


def refused(answers: Answers, service: str, answer: Answer, detail: str = "", words: str = "") -> SendError:
    """The error for an answer that is none of success, in the service's ``words``, by default the whole text."""
    retry_after_s = answer.retry_after_s()
    if not detail and retry_after_s is not None:
        detail = "retry-after"
    said = quoted(words or answer.text)
    message = f"HTTP {answer.status}{': ' if said else ''}{said}"
    return SendError(answers.error_class(service, answer.status, detail), message, retry_after_s=retry_after_s)


def quoted(text: str) -> str:
    """A foreign text for a message: one line, without control characters, not long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * QUOTED]).split())[:QUOTED]


class HttpClient:
    """Connections of one channel to any number of servers. It is to be made, used and closed inside one running loop.

    ``service`` names the table of answers. ``ca_file`` has certificates that are trusted beside the system's.
    """

    def __init__(
        self,
        service: str,
        context: Context,
        *,
        guard: Guard | None = None,
        ca_file: str = "",
        answer_bytes: int = ANSWER_BYTES,
        user_agent: str = USER_AGENT,
    ) -> None:
        self._service = service
        self._answers = context.answers
        self._trace = context.trace
        self._guard = guard
        self._answer_bytes = answer_bytes
        self._total_s = context.timeout_s * SHARE
        self._sockets: WeakSet[socket.socket] = WeakSet()  # that are open
        self._sockets_max = context.concurrency + IDLE_MAX
        trusted = ssl.create_default_context()
        if ca_file:
            trusted.load_verify_locations(ca_file)
        trusted.set_alpn_protocols(["http/1.1"])
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=context.concurrency,
                ssl=trusted,
                resolver=_Resolver(guard),
                socket_factory=self._socket,
                keepalive_timeout=IDLE_S,
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=min(CONNECT_S, self._total_s / 2)),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def request(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer, whatever its status. Raises ``SendError`` if there is none."""
        if self._trace:
            self._tell(">", f"{method} {url}", headers or {})
        if len(self._sockets) >= self._sockets_max:
            headers = {**(headers or {}), "Connection": "close"}
        status, text = 0, bytearray()
        answered: Mapping[str, str] = {}
        try:
            async with (
                asyncio.timeout(self._total_s),
                self._session.request(method, url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                status, answered = response.status, response.headers
                await self._read(response.content, text)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if not status:  # what comes with a status is for people, and missed by nobody
                raise self._error(error, url) from None
        answer = Answer(status, answered, _unpacked(bytes(text), answered, self._answer_bytes))
        if self._trace:
            self._tell("<", f"HTTP {status}", answered)
            self._trace(f"< {quoted(answer.text)}")
        return answer

    async def close(self) -> None:
        await self._session.close()

    async def _read(self, content: aiohttp.StreamReader, text: bytearray) -> None:
        while (room := self._answer_bytes - len(text)) > 0 and (chunk := await content.read(room)):
            text += chunk

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """For the very address that is connected to."""
        family, kind, protocol, _, address = info
        if self._guard:
            self._guard.check(address[0], [address[0]], address[1])
        if self._trace:
            self._trace(f"connecting to {address[0]}, port {address[1]}")
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    def _error(self, error: Exception, url: str) -> SendError:
        """The first that fits; aiohttp's errors are a tree."""
        why = quoted(str(error) or type(error).__name__)
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = quoted(str(error.certificate_error))
            return self._named("tls", f"the certificate of {error.host} is not to be trusted, nothing was sent: {why}")
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, DeniedError):
            return self._named("denied", str(error.os_error))
        if isinstance(error, aiohttp.ClientConnectorError):
            where = f"{error.host}, port {error.port}"
            return self._named("unreachable", f"no connection to {where}: {_reason(error.os_error)}")
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            text = "no connection in time; see that the host is up, and lets us through"
            return self._named("unreachable", text, "timeout")
        if isinstance(error, TimeoutError):
            return self._named("unanswered", f"sent, but no answer within {self._total_s:.3g} s")
        if isinstance(error, (ValueError, aiohttp.NonHttpUrlClientError)):
            return SendError("permanent", f"{quoted(url)} cannot be asked, nothing was sent: {why}")
        return self._named("unanswered", f"sent, but not answered as HTTP has it: {why}")

    def _named(self, name: str, message: str, detail: str = "") -> SendError:
        return SendError(self._answers.error_class(self._service, name, detail), message)

    def _tell(self, mark: str, first: str, headers: Mapping[str, str]) -> None:
        assert self._trace is not None
        for line in (first, *(f"{k}: {'***' if k.lower() in HIDDEN else v}" for k, v in headers.items())):
            self._trace(f"{mark} {line}")


class _Resolver(AbstractResolver):
    """Asks the system, and gives what the guard allows. No process waits for its threads: a server may hold them."""

    def __init__(self, guard: Guard | None) -> None:
        self._guard = guard
        self._room = asyncio.Semaphore(LOOKUPS_MAX)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        future: Future[list[ResolveResult]] = Future()
        async with self._room:
            Thread(target=_look_up_for, args=(future, host, port, family), name="resolver", daemon=True).start()
            found = await asyncio.wrap_future(future)
        if self._guard:
            self._guard.check(host, [result["host"] for result in found], port)
        return found

    async def close(self) -> None:
        """There is nothing to be closed."""


def _look_up_for(future: Future[list[ResolveResult]], host: str, port: int, family: int) -> None:
    future.set_running_or_notify_cancel()
    try:
        future.set_result(_look_up(host, port, family))
    except (OSError, ValueError) as error:
        future.set_exception(error)


def _reason(error: OSError) -> str:
    is_of_system = error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError)
    return os.strerror(error.errno or 0) if is_of_system else quoted(error.strerror or str(error))


def _look_up(host: str, port: int, family: int) -> list[ResolveResult]:
    """Raises ``OSError``, and ``ValueError`` for what no name can be."""
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    return [
        ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=0)
        for kind, _, protocol, _, address in found
    ]


def _unpacked(body: bytes, headers: Mapping[str, str], bytes_max: int) -> str:
    """The text of an answer, though it was packed against our wish."""
    if headers.get("Content-Encoding", "identity").lower() in {"gzip", "x-gzip", "deflate"}:
        try:
            body = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(body, bytes_max)
        except zlib.error:
            pass
    return body.decode(errors="replace")
