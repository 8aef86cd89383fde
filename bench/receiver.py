"""The other end of HTTP benchmarks: a process that answers each request with 204, and does as little as it can.

It prints its port, serves until its standard input ends, and then prints how many requests it has had.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator

LENGTH = b"content-length:"
ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
received = 0


class Receiver(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        global received  # noqa: PLW0603 - one counter of one process
        self._buffer += data
        answers = 0
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(LENGTH)
            length = int(head[at + len(LENGTH) :].partition(b"\r\n")[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                break
            self._buffer = self._buffer[end + 4 + length :]
            answers += 1
        received += answers
        self._transport.write(ANSWER * answers)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", 0, backlog=1_024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(received, flush=True)


@contextlib.contextmanager
def receiver() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its URL, and its process."""
    command = [sys.executable, "-m", "bench.receiver"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/hook", process
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(serve())
