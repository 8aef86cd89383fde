"""One connection to a mail server, once it is open: mails, one after the other, in two round trips each.

Where the server offers PIPELINING (RFC 2920), all commands before the content are one write. What is read is bounded.
A mail is certainly not taken as long as the last of its content has not been handed to the system; from then on until
the answer, nobody knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from shards.channels.mail_message import Mail

REPLY_BYTES_MAX = 16_384
LAST_BYTES = 16_384  # of the content: as much as every system takes at once
TRACED_LINES_MAX = 200
SIZE_DIGITS_MAX = 20  # RFC 1870, 3

Trace = Callable[[str], None]


class Reply(NamedTuple):
    code: int
    text: str  # its lines, joined by spaces

    @property
    def is_refusal(self) -> bool:
        return 400 <= self.code < 600


class RefusedError(Exception):
    """The server has answered a command with 4xx or 5xx."""

    def __init__(self, command: str, reply: Reply) -> None:
        super().__init__(command, reply)
        self.command = command
        self.reply = reply


class LostError(Exception):
    """The connection broke. ``sent`` if all of the mail had been sent, ``stale`` if it broke between two mails."""

    def __init__(self, why: str, *, sent: bool = False, stale: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent
        self.stale = stale


class Conversation(asyncio.Protocol):
    """Takes a transport over, after the greeting and all that follows it. ``extensions`` are those of EHLO."""

    def __init__(self, transport: asyncio.Transport, extensions: Mapping[str, str], trace: Trace | None = None) -> None:
        self.mails = 0  # given to it
        self._transport = transport
        self._pipelining = "pipelining" in extensions
        size = extensions.get("size", "")
        self._takes_size = "size" in extensions
        self._size_max = int(size) if size.isdecimal() and len(size) <= SIZE_DIGITS_MAX else 0
        self._utf8 = "smtputf8" in extensions
        self._trace = trace
        self._buffer = bytearray()
        self._lines: list[str] = []
        self._replies: list[Reply] = []
        self._expected = 0
        self._waiter: asyncio.Future[None] | None = None
        self._full = False
        self._lost = ""
        self._sent = False
        self._dirty = False  # the server has heard of a mail that came to nothing
        transport.set_write_buffer_limits(high=1, low=0)  # under TLS, 0 is never below it
        transport.set_protocol(self)

    # --- what one asks of it -----------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return not self._lost and not self._transport.is_closing()

    def objection(self, mail: Mail) -> str:
        """Why the server would never take it, by what it has offered; empty where nothing is known against it."""
        if mail.utf8 and not self._utf8:
            return "the address has letters beyond ASCII before the @, and the server does not offer SMTPUTF8"
        if 0 < self._size_max < len(mail.content):  # RFC 1870
            return f"the mail has {len(mail.content)} bytes, and the server takes at most {self._size_max}"
        return ""

    async def send(self, mail: Mail, deadline: float) -> Reply:
        """One mail; the server's last word. Raises ``RefusedError``, or ``LostError``: it is closed then."""
        self.mails += 1
        self._sent = False
        try:
            async with asyncio.timeout_at(deadline):
                reply = await self._send(mail)
        except RefusedError as refused:
            self._dirty = True
            if refused.command == "MAIL":  # there may have been enough of them in this connection
                self.abort("it takes no more mails")
            raise
        except TimeoutError:
            self.abort("no answer in time")
            raise LostError("no answer in time", sent=self._sent) from None
        except BaseException:
            self.abort("given up")
            raise
        self._dirty = False
        return reply

    def quit(self) -> None:
        """End it, without waiting for the server's farewell."""
        if self.is_open:
            self._write(b"QUIT\r\n")
        self.abort("ended")

    def abort(self, why: str) -> None:
        self._lost = self._lost or why
        self._transport.abort()

    # --- a mail ------------------------------------------------------------------------------------------------

    async def _send(self, mail: Mail) -> Reply:
        size = f" SIZE={len(mail.content)}" if self._takes_size else ""
        utf8 = " SMTPUTF8" if mail.utf8 else ""
        commands = [
            f"MAIL FROM:<{mail.sender}>{size}{utf8}",
            f"RCPT TO:<{mail.recipient}>",
            "DATA",
        ]
        if self._dirty:
            commands.insert(0, "RSET")
        replies = await self._ask(commands)
        if self.mails > 1 and _is_stale(commands[0], replies):
            raise LostError(replies[0].text if replies else self._lost, stale=True)
        for command, reply in zip(commands, replies, strict=False):
            if reply.is_refusal:
                if len(replies) == len(commands) and not replies[-1].is_refusal:
                    await self._take_back(command)
                raise RefusedError(command[:4], reply)
            if reply.code // 100 != (3 if command == "DATA" else 2):
                raise LostError(f"the server answered {command[:4]} with {reply.code}, which makes no sense")
        if self._lost:
            raise LostError(self._lost)
        return await self._send_content(mail.content)

    async def _ask(self, commands: Sequence[str]) -> list[Reply]:
        """The replies, fewer if the connection broke, or if one at a time was asked and one was refused."""
        if self._pipelining:
            return await self._exchange("".join(f"{command}\r\n" for command in commands).encode(), len(commands))
        replies: list[Reply] = []
        for command in commands:
            found = await self._exchange(f"{command}\r\n".encode(), 1)
            replies += found
            if not found or found[0].is_refusal:
                break
        return replies

    async def _take_back(self, refused: str) -> None:
        """DATA was agreed to all the same: a mail without content and recipient ends it (RFC 2920, 3.1)."""
        if not refused.startswith("RCPT") or not await self._exchange(b".\r\n", 1):
            self.abort("agreed to what was refused")  # and there may be a recipient

    async def _send_content(self, content: bytes) -> Reply:
        stuffed = content.replace(b"\r\n.", b"\r\n..") + (b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n")
        replies: list[Reply] = []
        if len(stuffed) > LAST_BYTES:
            replies = await self._exchange(stuffed[:-LAST_BYTES], 1, lambda: not self._full)
            if self._lost and not replies:
                raise LostError(self._lost)
        if replies:
            self.abort("answered too early")
        else:
            self._sent = True
            replies = await self._exchange(stuffed[-LAST_BYTES:], 1)
        if not replies:
            raise LostError(self._lost, sent=True)
        reply = replies[0]
        if reply.is_refusal:
            raise RefusedError("DATA", reply)
        if reply.code // 100 != 2 or not self._sent:
            raise LostError(f"the server answered the mail with {reply.code}, which makes no sense", sent=self._sent)
        return reply

    # --- bytes -------------------------------------------------------------------------------------------------

    async def _exchange(self, data: bytes, count: int, is_enough: Callable[[], bool] = lambda: False) -> list[Reply]:
        """Write, and wait for so many replies; fewer if the connection breaks, or if it is enough."""
        self._expected = count
        if not self._lost:
            self._write(data)
        while not self._lost and len(self._replies) < count and not is_enough():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        replies, self._replies = self._replies, []
        self._expected = 0
        return replies

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _write(self, data: bytes) -> None:
        if self._trace is not None:
            lines = data.decode("utf-8", "replace").splitlines()
            for line in lines[:TRACED_LINES_MAX]:
                self._trace(f"> {line}")
            if len(lines) > TRACED_LINES_MAX:
                self._trace(f"> ... and {len(lines) - TRACED_LINES_MAX} lines more")
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._trace is not None:
            for text in data.decode("utf-8", "replace").splitlines():
                self._trace(f"< {text}")
        if len(self._replies) >= self._expected:
            self._break(f"the server said, unasked: {data[:200].decode('utf-8', 'replace')}")
            return
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:  # their line feed is off
            if not line[:3].isdigit() or len(line) < 3:
                self._break(f"the server's answer is not one of SMTP: {line[:80].decode('utf-8', 'replace')!r}")
                return
            self._lines.append(line[4:].decode("utf-8", "replace").strip())
            if line[3:4] == b"-":
                continue
            self._replies.append(Reply(int(line[:3]), " ".join(self._lines)))
            self._lines = []
        missing = self._expected - len(self._replies)
        if len(self._buffer) + sum(map(len, self._lines)) > REPLY_BYTES_MAX:
            self._break(f"the server's answer has over {REPLY_BYTES_MAX} bytes")
        elif self._replies and self._replies[-1].code == 421:  # RFC 5321, 3.8: it closes
            self._break("closed by the server")
        elif missing < 0 or (missing == 0 and (self._buffer or self._lines)):
            self._break("the server said more than it was asked")
        elif missing == 0:
            self._wake()

    def _break(self, why: str) -> None:
        self.abort(why)
        self._wake()

    def eof_received(self) -> None:
        self._break("closed by the server")

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._lost or (f"closed by the server: {error}" if error else "closed by the server")
        self._wake()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._wake()


def _is_stale(first: str, replies: Sequence[Reply]) -> bool:
    """Whether a connection that was used before takes nothing more, of which the mail is innocent."""
    return not replies or replies[0].code == 421 or (first == "RSET" and replies[0].is_refusal)
