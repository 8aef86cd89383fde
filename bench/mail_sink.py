"""The other end of the e-mail benchmark: a process that speaks SMTP, takes every mail, and does as little as it can.

It prints its port, serves until its standard input ends, and then prints how many mails it has had.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

ANSWERS = {
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RCPT": b"250 2.1.5 Ok\r\n",
    b"RSET": b"250 2.0.0 Ok\r\n",
    b"DATA": b"354 go on\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}
received = 0


class Sink(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""
        self._in_content = False
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        global received  # noqa: PLW0603 - one counter of one process
        self._buffer += data
        answers = b""
        while True:
            if self._in_content:
                _, end, rest = self._buffer.partition(b"\r\n.\r\n")
                if not end:
                    break
                received += 1
                answers += b"250 2.0.0 queued\r\n"
                self._in_content = False
            else:
                command, end, rest = self._buffer.partition(b"\r\n")
                if not end:
                    break
                answers += ANSWERS[command[:4]]
                self._in_content = command == b"DATA"
            self._buffer = rest
        self._transport.write(answers)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=1_024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(received, flush=True)


@contextlib.contextmanager
def sink() -> Iterator[int]:
    """Its port."""
    command = [sys.executable, "-m", "bench.mail_sink"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve())
