"""HTTP/2 to one server: many requests at once over one connection, by asyncio over h2.

A request is written whole or not at all, once the server has room for it. So it is known of each that failed whether
the server may have acted on it. What was not written, what is above the last stream of a GOAWAY, and what was refused
is ``unreachable``, as ``shards.channels.http`` calls it; what was written and got no answer is ``unanswered`` (RFC
9113, 6.8 and 8.7). Streams that a GOAWAY leaves open are answered still, and the next request makes a new connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import cast
from urllib.parse import urlsplit

from shards.channels.base import Context, SendError
from shards.channels.http import ANSWER_BYTES, CONNECT_S, SHARE, Answer, quoted

try:
    import h2.config
    import h2.connection
    import h2.errors
    import h2.events
    import h2.exceptions
except ImportError as missing:
    raise ImportError('push needs h2; run: pip install "notification-dispatcher[push]"') from missing

STREAMS_MAX = 1_000  # at once, where the server allows more
STREAM_LAST = 2**30  # no further one on a connection; the protocol ends at twice of it
IDLE_S = 300.0  # what stands between may have forgotten a connection by then, and would say nothing
FRAME_HEADER = 9
FRAME_MAX = FRAME_HEADER + 16_384  # what we allow, by saying nothing of it

Header = tuple[str, str]


class Http2Client:
    """To the server of an https URL, over a connection that is made when it is needed, and again when it was lost.

    It is to be made, used and closed inside one running loop. ``service`` names the table of answers. ``ca_file`` has
    certificates that are trusted beside the system's.
    """

    def __init__(self, service: str, context: Context, url: str, *, ca_file: str = "") -> None:
        self._service = service
        self._answers = context.answers
        self._trace = context.trace
        self._total_s = context.timeout_s * SHARE
        self._host, self._port = str(urlsplit(url).hostname), urlsplit(url).port or 443
        self._authority = urlsplit(url).netloc
        self._tls = ssl.create_default_context()
        if ca_file:
            self._tls.load_verify_locations(ca_file)
        self._tls.set_alpn_protocols(["h2"])
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._all: set[_Connection] = set()  # those too that only end what is under way

    async def post(self, path: str, body: bytes, headers: Sequence[Header]) -> Answer:
        """The answer, whatever its status. Raises ``SendError`` if there is none."""
        pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", self._authority), (":path", path)]
        sent = False
        try:
            async with asyncio.timeout(self._total_s):
                connection = await self._connected()
                while not await connection.has_room(len(body)):
                    connection = await self._connected()
                sent = True
                return await connection.request([*pseudo, *headers], body)
        except TimeoutError:
            if not sent:
                raise self._error("unreachable", f"{self._host} has not let us send within the time") from None
            raise self._error("unanswered", f"sent, but no answer within {self._total_s:.3g} s") from None

    async def close(self) -> None:
        for connection in list(self._all):
            connection.close()
            await connection.lost.wait()

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection and self._connection.idle_s > IDLE_S:
                self._connection.close()
            if self._connection is None or not self._connection.usable:
                try:
                    async with asyncio.timeout(min(CONNECT_S, self._total_s / 2)):
                        self._connection = await self._connect()
                except ssl.SSLCertVerificationError as error:
                    raise self._error(
                        "tls",
                        f"the certificate of {self._host} is not to be trusted, nothing was sent: "
                        f"{quoted(error.verify_message)}",
                    ) from None
                except OSError as error:  # a timeout is one
                    why = quoted(str(error)) or "no connection in time"
                    raise self._error("unreachable", f"{self._host}, port {self._port}: {why}") from None
            return self._connection

    async def _connect(self) -> _Connection:
        transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self._all, self._error), self._host, self._port, ssl=self._tls
        )
        tls = cast(ssl.SSLObject, transport.get_extra_info("ssl_object"))
        if self._trace:
            self._trace(f"connected to {self._host}, port {self._port}, {tls.version()}")
        try:
            if tls.selected_alpn_protocol() != "h2":
                raise self._error("unreachable", f"{self._host} does not speak HTTP/2")
            await connection.greeted.wait()
        except BaseException:
            connection.close()
            raise
        return connection

    def _error(self, name: str, message: str) -> SendError:
        return SendError(self._answers.error_class(self._service, name), message)


class _Stream:
    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def fail(self, error: SendError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def succeed(self) -> None:
        if not self.answer.done():
            status = int(self.headers.pop(":Status"))
            self.answer.set_result(Answer(status, self.headers, self.body.decode(errors="replace")))


class _Connection(asyncio.Protocol):
    """``usable`` says whether it takes further requests."""

    def __init__(self, siblings: set[_Connection], error: Callable[[str, str], SendError]) -> None:
        self.usable = True
        self.greeted = asyncio.Event()  # by the server's settings, which say how many streams it takes, or by its end
        self.lost = asyncio.Event()
        self._siblings = siblings
        self._error = error
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._streams: dict[int, _Stream] = {}
        self._room = asyncio.Event()
        self._incoming = b""  # of a frame that is not whole
        self._clock = asyncio.get_running_loop().time
        self._heard_at = self._clock()  # something from the server

    @property
    def idle_s(self) -> float:
        return 0.0 if self._streams else self._clock() - self._heard_at

    # --- requests ----------------------------------------------------------------------------------------------

    async def has_room(self, size: int) -> bool:
        """Once there is some for a body of that size; False if there will be none."""
        while self.usable and not self._fits(size):
            self._room.clear()
            await self._room.wait()
        return self.usable

    def _fits(self, size: int) -> bool:
        allowed = min(self._h2.remote_settings.max_concurrent_streams, STREAMS_MAX)
        window = min(self._h2.outbound_flow_control_window, self._h2.remote_settings.initial_window_size)
        return len(self._streams) < allowed and window >= size

    async def request(self, headers: Sequence[Header], body: bytes) -> Answer:
        """To be called as soon as ``has_room``."""
        number = self._h2.get_next_available_stream_id()
        self.usable = number < STREAM_LAST
        stream = self._streams[number] = _Stream()
        self._h2.send_headers(number, headers)
        self._h2.send_data(number, body, end_stream=True)
        self._write()
        heard_at = self._heard_at
        try:
            return await stream.answer
        except asyncio.CancelledError:
            if heard_at == self._heard_at:
                self.usable = False  # nothing came since: it may be dead, which nobody would say
            raise
        finally:
            self._forget(number)

    def _forget(self, number: int) -> None:
        if self._streams.pop(number).answer.cancelled() and not self.lost.is_set():
            self._h2.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
            self._write()
        self._room.set()
        self._close_unused()

    def _close_unused(self) -> None:
        if not self.usable and not self._streams:
            self.close()

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def _write(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._h2.data_to_send())

    # --- called by the event loop ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._siblings.add(self)
        self._h2.initiate_connection()
        self._write()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._clock()
        self._incoming += data
        try:
            while frame := self._next_frame():
                for event in self._h2.receive_data(frame):
                    self._handle(event)
        except h2.exceptions.ProtocolError as error:
            self._end(f"sent, but not answered as HTTP/2 has it: {quoted(str(error))}")
            self.close()
        self._write()
        self._room.set()

    def _next_frame(self) -> bytes:
        """One at a time, since after a GOAWAY h2 would refuse those behind it."""
        size = FRAME_HEADER + int.from_bytes(self._incoming[:3], "big")
        if size > FRAME_MAX:  # h2 would gather all of it first
            raise h2.exceptions.FrameTooLargeError(f"a frame of {size} bytes")
        if len(self._incoming) < max(size, FRAME_HEADER):
            return b""
        frame, self._incoming = self._incoming[:size], self._incoming[size:]
        return frame

    def connection_lost(self, exc: Exception | None) -> None:
        self._siblings.discard(self)
        self.lost.set()
        self._end(f"sent, but the connection was lost before the answer: {exc or 'the server closed it'}")

    def _end(self, why: str) -> None:
        self.usable = False
        for stream in self._streams.values():
            stream.fail(self._error("unanswered", why))
        self.greeted.set()
        self._room.set()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.greeted.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._go_away(event.last_stream_id or 0, (event.additional_data or b"").decode(errors="replace"))
        elif isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
            if stream := self._streams.get(event.stream_id or 0):
                stream.body += (event.data or b"")[: ANSWER_BYTES - len(stream.body)]
        elif stream := self._streams.get(getattr(event, "stream_id", None) or 0):
            if isinstance(event, h2.events.ResponseReceived):
                stream.headers = {str(name).title(): str(value) for name, value in event.headers or ()}
            elif isinstance(event, h2.events.StreamEnded):
                stream.succeed()
            elif isinstance(event, h2.events.StreamReset):
                name = "unreachable" if event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM else "unanswered"
                stream.fail(self._error(name, f"the server reset the request, error {event.error_code!r}"))

    def _go_away(self, last: int, why: str) -> None:
        self.usable = False
        for number, stream in self._streams.items():
            if number > last:
                stream.fail(self._error("unreachable", f"the server ended the connection: {quoted(why)}"))
        self._h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN  # as it is for the other streams
        self._close_unused()
