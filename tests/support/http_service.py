"""A real HTTP service for tests: it keeps what it was sent, and answers as it is told."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple, Self


class Received(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Answer(NamedTuple):
    """``status`` 0 is none: the connection is closed once the request is read."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = {}


class HttpService:
    """A context manager. ``received`` is in order of arrival; ``answers`` are given first, then ``default``."""

    def __init__(self, default: Answer = Answer()) -> None:  # noqa: B008  it is immutable
        self.default = default
        self.received: list[Received] = []
        self.answers: deque[Answer] = deque()
        self._going = threading.Event()
        self._going.set()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                service._serve(self)

            do_GET = do_POST = do_PUT = _serve  # noqa: N815  as the library calls them

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # its own 5 lets some of 50 connections at once wait for a second
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: object, client_address: object) -> None: ...  # a client that went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hang(self) -> None:
        """Read requests and answer none, until ``go_on``."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        answer = self.answers.popleft() if self.answers else self.default
        if answer.status < 300 and answer.status:
            self.received.append(Received(handler.command, handler.path, headers, body))
        self._going.wait()
        if not answer.status:
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(answer.body)

    def close(self) -> None:
        self.go_on()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
