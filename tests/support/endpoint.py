"""An HTTP server in threads that answers as it is told, or not as HTTP has it: bytes on a socket, nothing cleverer."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

Script = Callable[[socket.socket, threading.Event], None]  # is given the connection, and what is set when it is to end
RELEASED_S = 60.0  # a script that hangs does so no longer


class Request(NamedTuple):
    line: str
    headers: dict[str, str]  # names in lower case
    body: bytes


def answer(status: int, text: str = "", **headers: str) -> bytes:
    """The bytes of an answer; ``retry_after="3"`` is a header."""
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(text.encode())}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", text)).encode()


def hang(connection: socket.socket, ended: threading.Event) -> None:
    """No answer at all."""
    ended.wait(RELEASED_S)


def hang_up(connection: socket.socket, ended: threading.Event) -> None:
    """The request is taken, and the connection ends."""


class Endpoint:
    """A context manager. ``then`` lines up answers, one per request; with none left, ``usual`` is the answer.

    ``requests`` are all that came, ``taken`` those that ``usual`` answered; ``connections`` counts what was accepted.
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, usual: bytes = answer(200), host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._tls = tls
        self._address = host, port
        self._usual = usual
        self._scripts: deque[bytes | Script] = deque()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self.requests: list[Request] = []
        self.taken: list[Request] = []
        self.connections = 0

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://{'localhost' if self._tls else self._address[0]}:{self.port}/hook"

    def then(self, *scripts: bytes | Script) -> None:
        self._scripts.extend(scripts)

    def open(self) -> None:
        self._listener = socket.create_server(self._address, backlog=1_024)
        self._start(self._accept)

    def close(self) -> None:
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has been closed
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.add(connection)
                self._start(self._serve, connection)

    def _serve(self, plain: socket.socket) -> None:
        connection = plain
        try:
            if self._tls:
                connection = self._tls.wrap_socket(plain, server_side=True)
                self._open.add(connection)
            with connection.makefile("rb") as file:
                for request in _requests(file):
                    self._answer(connection, request)
        except OSError:  # of TLS as well: the client went, or would not have us
            pass
        finally:
            for one in {plain, connection}:
                self._open.discard(one)
                one.close()

    def _answer(self, connection: socket.socket, request: Request) -> None:
        self.requests.append(request)
        script = self._scripts.popleft() if self._scripts else None
        if script is None:
            self.taken.append(request)
            connection.sendall(self._usual)
        elif isinstance(script, bytes):
            connection.sendall(script)
        else:
            script(connection, self._ended)
            raise OSError("a script is the last that a connection does")


def _requests(file: BinaryIO) -> Iterator[Request]:
    while line := file.readline():
        headers = {}
        while header := file.readline().strip():
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = file.read(int(headers.get("content-length", "0")))
        yield Request(line.decode("latin-1").strip(), headers, body)
