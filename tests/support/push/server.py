"""A server in a thread, of HTTP/1.1 or HTTP/2, that can also misbehave as no framework lets it."""

from __future__ import annotations

import asyncio
import enum
import functools
import ssl
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import trustme

from tests.support.waiting import until


class Request(NamedTuple):
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class Answer(NamedTuple):
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


class Fault(enum.Enum):
    HANG = "no answer"
    DROP = "the connection ends"
    # and of HTTP/2:
    REFUSE = "the stream is refused"
    RESET = "the stream is reset"
    GO_AWAY = "GOAWAY, then the answer"
    GO_AWAY_WITHOUT = "GOAWAY that says that the stream was not looked at"
    NONSENSE = "bytes that are no frame"


Reply = Answer | Fault


@functools.cache
def _certified() -> tuple[trustme.CA, trustme.LeafCert]:
    authority = trustme.CA()
    return authority, authority.issue_cert("localhost")


class Server:
    """A context manager. ``then`` lines up replies, one per request that ``scripted`` says; else ``respond`` is asked.

    ``accepted`` are the requests that got 2xx, ``requests`` all; ``connections`` counts those that came.
    """

    http2 = False
    encrypted = False
    streams_max = 100

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.accepted: list[Request] = []
        self.connections = 0
        self.cancelled = 0  # requests that the client took back
        self._replies: deque[Reply] = deque()
        self._directory = tempfile.TemporaryDirectory(prefix="push-test-")
        self.ca_file = str(Path(self._directory.name) / "ca.pem")

    # --- what a service of a kind says -------------------------------------------------------------------------

    def respond(self, request: Request) -> Reply:
        return Answer(200)

    def scripted(self, request: Request) -> bool:
        return True

    # --- for tests ---------------------------------------------------------------------------------------------

    def then(self, *replies: Reply) -> None:
        self._replies.extend(replies)

    @property
    def url(self) -> str:
        return f"http{'s' if self.encrypted else ''}://localhost:{self.port}"

    def open(self) -> None:
        tls = None
        if self.encrypted:
            authority, certificate = _certified()
            authority.cert_pem.write_to_path(self.ca_file)
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(tls)
            tls.set_alpn_protocols(["h2" if self.http2 else "http/1.1"])
        self._loop = asyncio.new_event_loop()
        kind = _Http2 if self.http2 else _Http1
        listening = self._loop.create_server(lambda: kind(self), "127.0.0.1", 0, ssl=tls, backlog=256)
        self._server = self._loop.run_until_complete(listening)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._open: set[_Connection] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()
        self._directory.cleanup()

    async def _end(self) -> None:
        self._server.close()
        self.disconnect()
        await until(lambda: not self._open)

    def disconnect(self) -> None:
        """End what is open."""
        for connection in tuple(self._open):
            self._loop.call_soon_threadsafe(connection.transport.abort)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- for connections ---------------------------------------------------------------------------------------

    def reply(self, request: Request) -> Reply:
        self.requests.append(request)
        reply = self._replies.popleft() if self._replies and self.scripted(request) else self.respond(request)
        if reply is Fault.GO_AWAY or (isinstance(reply, Answer) and reply.status < 300):
            self.accepted.append(request)
        return reply

    def connected(self, connection: _Connection) -> None:
        self.connections += 1
        self._open.add(connection)

    def disconnected(self, connection: _Connection) -> None:
        self._open.discard(connection)


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.server.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.disconnected(self)


class _Http1(_Connection):
    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._incoming = b""

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        while b"\r\n\r\n" in self._incoming:
            head, _, rest = self._incoming.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                return
            self._incoming = rest[length:]
            reply = self.server.reply(Request(first.split()[1], headers, rest[:length]))
            if isinstance(reply, Answer):
                fields = {"Content-Length": str(len(reply.body)), **reply.headers}
                lines = [f"HTTP/1.1 {reply.status} Status", *(f"{name}: {value}" for name, value in fields.items())]
                self.transport.write("\r\n".join([*lines, "", ""]).encode() + reply.body)
            elif reply is not Fault.HANG:
                self.transport.abort()


class _Http2(_Connection):
    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self._requests: dict[int, Request] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._h2.local_settings = h2.settings.Settings(
            client=False, initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.server.streams_max}
        )
        self._h2.initiate_connection()
        self.transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                headers = {str(name): str(value) for name, value in event.headers or ()}
                self._requests[event.stream_id or 0] = Request(headers.pop(":path"), headers, b"")
            elif isinstance(event, h2.events.DataReceived):
                number = event.stream_id or 0
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, number)
                request = self._requests[number]
                self._requests[number] = request._replace(body=request.body + (event.data or b""))
            elif isinstance(event, h2.events.StreamReset):
                self.server.cancelled += 1
            elif isinstance(event, h2.events.StreamEnded):
                self._reply(event.stream_id or 0)
        self.transport.write(self._h2.data_to_send())

    def _reply(self, number: int) -> None:
        reply = self.server.reply(self._requests.pop(number))
        if reply is Fault.DROP:
            self.transport.abort()
        elif reply is Fault.NONSENSE:
            self.transport.write(b"\xff" * 64)
        elif reply is Fault.REFUSE:
            self._h2.reset_stream(number, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif reply is Fault.RESET:
            self._h2.reset_stream(number, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif reply is Fault.GO_AWAY_WITHOUT:
            self._h2.close_connection(last_stream_id=max(0, number - 2), additional_data=b'{"reason":"Shutdown"}')
        elif reply is Fault.GO_AWAY:
            self._h2.close_connection(last_stream_id=number)
            self._h2.state_machine.state = h2.connection.ConnectionState.SERVER_OPEN
            self._answer(number, Answer(200))
        elif isinstance(reply, Answer):
            self._answer(number, reply)

    def _answer(self, number: int, answer: Answer) -> None:
        headers = [(name.lower(), value) for name, value in answer.headers.items()]
        self._h2.send_headers(number, [(":status", str(answer.status)), *headers], end_stream=not answer.body)
        if answer.body:
            self._h2.send_data(number, answer.body, end_stream=True)
