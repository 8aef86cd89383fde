"""Who gets in: the router's answers to ZeroMQ's questions about each handshake (ZAP, https://rfc.zeromq.org/spec/27/).

They are answered in the router's own loop. Without it a handshake has no answer, and without an answer nobody gets in.
"""

from __future__ import annotations

import time
from pathlib import Path

import zmq
from zmq.utils import z85

from dispatcher.curve import KeyFileError, public_files, read_public
from shards import logs

log = logs.logger()

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"dispatcher"
HANDSHAKE_MS = 2_000  # then ZeroMQ closes the connection; whoever was refused may try again
HANDSHAKES_PER_TURN = 50
CHECK_EVERY_S = 1.0
LOG_EVERY_S = 10.0


class Gate:
    """``guard`` sockets before they are bound, and ``answer`` whenever ``socket`` is readable.

    The allow-list is looked at when somebody knocks, at most once a second. A file of it that is not good lets nobody
    in, nor does a directory that is not; the server's own key always gets in: its holder needs no door.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], secret: str, allow: str) -> None:
        self._secret = secret.encode()
        self._own = z85.decode(zmq.curve_public(self._secret))
        self._directory = Path(allow) if allow else None
        self._allowed: frozenset[bytes] = frozenset()
        self._seen: object = None
        self._check_at = self._log_at = float("-inf")
        self._refused = 0
        self.socket = context.socket(zmq.REP)
        self.socket.bind(ZAP_ENDPOINT)
        self._refresh()

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Let only allowed keys speak on this socket: without domain and enforcement, ZeroMQ admits every key."""
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, self._secret)
        socket.set(zmq.ZAP_DOMAIN, DOMAIN)
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def answer(self) -> None:
        """Decide on the handshakes that wait."""
        try:
            for _ in range(HANDSHAKES_PER_TURN):
                parts = self.socket.recv_multipart(zmq.DONTWAIT)
                version, request, domain, address, _, mechanism, *credentials = parts
                good = (domain, mechanism) == (DOMAIN, b"CURVE") and self._admits(credentials[0])
                if not good:
                    self._log_refusal(address, credentials)
                # 300, not 400: a client that is refused for good never asks again, even once it is allowed
                self.socket.send_multipart([version, request, b"200" if good else b"300", b"", b"", b""])
        except zmq.Again:
            pass

    def _admits(self, key: bytes) -> bool:
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + CHECK_EVERY_S
            self._refresh()
        return key == self._own or key in self._allowed

    def _refresh(self) -> None:
        if self._directory is None:
            return
        try:
            files = sorted(public_files(self._directory), key=lambda file: file.name)
            seen = [(file.name, (found := file.stat()).st_ino, found.st_mtime_ns, found.st_ctime_ns) for file in files]
        except (KeyFileError, OSError) as error:
            if self._seen != str(error):
                log.error("no client gets in", error=str(error))
            self._seen, self._allowed = str(error), frozenset()
            return
        if seen == self._seen:
            return
        self._seen = seen
        allowed = set()
        for file in files:
            try:
                allowed.add(z85.decode(read_public(Path(file.path))))
            except KeyFileError as error:
                log.error("a client does not get in", error=str(error))
        self._allowed = frozenset(allowed)
        log.info("clients allowed", count=len(allowed), directory=str(self._directory))

    def _log_refusal(self, address: bytes, credentials: list[bytes]) -> None:
        """One line in ten seconds at the most, whoever knocks how often."""
        self._refused += 1
        now = time.monotonic()
        if now < self._log_at:
            return
        key = z85.encode(credentials[0]).decode() if credentials and len(credentials[0]) == 32 else "none"
        log.warning(
            "handshakes refused, of keys that are not allowed",
            count=self._refused,
            last_from=address.decode(errors="replace"),
            last_key=key,
        )
        self._refused, self._log_at = 0, now + LOG_EVERY_S
