"""A mail server that does as it is told: refuses, drops, hangs or drips where a test says, and keeps what it took."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections import defaultdict, deque
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from types import TracebackType
from typing import Self

GREETING = "220 mail.test ESMTP"
EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 33554432")
ANSWERS = {"MAIL": "250 2.1.0 Ok", "RCPT": "250 2.1.5 Ok", "RSET": "250 2.0.0 Ok", "NOOP": "250 2.0.0 Ok"}
REFUSED = "503 5.5.1 Out of order"
DROP = "drop"  # closes the connection, without an answer
HANG = "hang"  # says nothing any more
DRIP = "drip"  # an answer that never ends, a byte at a time
GARBAGE = "garbage"  # a line without an end


class ScriptedServer:
    """A context manager. ``on(command, answer)`` is for the next such command; ``received`` are contents, in order.

    ``.`` is the end of the content, ``CONTENT`` the first lines of it, ``GREETING`` the start of a connection.
    """

    def __init__(self, extensions: tuple[str, ...] = EXTENSIONS) -> None:
        self.extensions = extensions
        self.received: list[bytes] = []
        self.commands: list[str] = []
        self.connections = 0
        self._script: defaultdict[str, deque[str]] = defaultdict(deque)
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()
        owner = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                owner._serve(self)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that go away are no news."""

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def on(self, command: str, *answers: str) -> None:
        self._script[command].extend(answers)

    def to_come(self, command: str) -> int:
        """How many answers have been ordered that were not asked for yet."""
        return len(self._script[command])

    @property
    def mails(self) -> list[EmailMessage]:
        return [message_from_bytes(one, policy=default) for one in list(self.received)]

    def hang_up(self) -> None:
        """Close every open connection."""
        for one in list(self._open):
            _shut(one)

    def tell_all(self, line: str) -> None:
        """Say something that nobody asked for, on every open connection."""
        for one in list(self._open):
            one.sendall(f"{line}\r\n".encode())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stopping.set()
        self._server.shutdown()
        self.hang_up()
        self._server.server_close()
        self._thread.join()

    # --- one connection ----------------------------------------------------------------------------------------

    def _serve(self, handler: socketserver.StreamRequestHandler) -> None:
        connection = handler.connection
        self._open.add(connection)
        self.connections += 1
        try:
            self._answer(handler, "GREETING", GREETING)
            heard = ""
            while line := handler.rfile.readline():
                command = line.decode().rstrip("\r\n")
                self.commands.append(command)
                verb = command[:4].upper()
                if verb == "QUIT":
                    self._answer(handler, verb, "221 2.0.0 Bye")
                    return
                heard = self._command(handler, verb, heard)
        except (OSError, ValueError):
            return
        finally:
            self._open.discard(connection)

    def _command(self, handler: socketserver.StreamRequestHandler, verb: str, heard: str) -> str:
        """What has been heard of a mail then: nothing, MAIL, or RCPT. Order is kept as RFC 5321 has it, 4.1.4."""
        if verb == "EHLO":
            lines = ["mail.test", *self.extensions]
            shown = "\r\n".join(f"250-{one}" for one in lines[:-1]) + f"\r\n250 {lines[-1]}"
            self._answer(handler, verb, shown)
            return ""
        if verb == "DATA":
            if not self._answer(handler, verb, "354 go on" if heard == "RCPT" else REFUSED).startswith("354"):
                return heard
            self._content(handler, heard)
            return ""
        in_order = {"MAIL": heard == "", "RCPT": heard != ""}.get(verb, True)
        answer = self._answer(handler, verb, ANSWERS.get(verb, "502 5.5.1 unknown") if in_order else REFUSED)
        if verb == "RSET":
            return ""
        return verb if answer.startswith("250") and verb in ("MAIL", "RCPT") else heard

    def _content(self, handler: socketserver.StreamRequestHandler, heard: str) -> None:
        if self._script["CONTENT"]:
            handler.rfile.readline()
            self._answer(handler, "CONTENT", "")
        lines = []
        while (line := handler.rfile.readline()) != b".\r\n":
            if not line:
                raise ConnectionError
            lines.append(line[1:] if line.startswith(b".") else line)
        if heard == "RCPT" and not self._script["."]:
            self.received.append(b"".join(lines))  # before the client knows
        self._answer(handler, ".", "250 2.0.0 queued" if heard == "RCPT" else REFUSED)

    def _answer(self, handler: socketserver.StreamRequestHandler, command: str, answer: str) -> str:
        script = self._script[command]
        answer = script.popleft() if script else answer
        if answer == DROP:
            _shut(handler.connection)
            raise ConnectionError
        if answer == HANG:
            self._stopping.wait()
            raise ConnectionError
        if answer == DRIP:
            while not self._stopping.wait(0.01):
                handler.wfile.write(b"2")
            raise ConnectionError
        if answer == GARBAGE:
            while not self._stopping.is_set():
                handler.wfile.write(b"250-" + b"x" * 60_000)
            raise ConnectionError
        handler.wfile.write(f"{answer}\r\n".encode(errors="surrogateescape"))
        return answer


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
