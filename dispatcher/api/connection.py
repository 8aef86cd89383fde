"""One DEALER on ``submit``, and what is known of who is at its other end."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from dispatcher.curve import ClientKeys

HEARTBEAT_MS = 5_000  # a peer whose machine is gone says nothing
EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_event = struct.Struct("=Hi")


class Connection:
    """Nothing is queued while nobody is there. Raises ``zmq.ZMQError`` if ``endpoint`` is none.

    ``sent`` and ``received`` never wait. It may be made in one thread, and used by another one from then on.
    """

    def __init__(self, endpoint: str, keys: ClientKeys | None) -> None:
        self._keys = keys
        self._is_connected = False
        self._is_let_in = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.IMMEDIATE, 1)
        self.socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        if keys:
            keys.apply(self.socket)
        self.monitor: zmq.Socket[bytes] = self.socket.get_monitor_socket(EVENTS)
        try:
            self.socket.connect(endpoint)
        except zmq.ZMQError:
            self.close()
            raise

    def sent(self, message: bytes) -> bool:
        """Whether it is on its way."""
        try:
            self.socket.send_multipart([b"", message], zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def received(self) -> bytes | None:
        try:
            return self.socket.recv_multipart(zmq.DONTWAIT)[-1]
        except zmq.Again:
            return None

    def was_lost(self) -> bool:
        """Take the news of the connection: whether it was lost since the last time."""
        lost = False
        while self.monitor.poll(0):
            event, _ = _event.unpack(self.monitor.recv_multipart()[0])
            if event == zmq.EVENT_CONNECTED:
                self._is_connected, self._is_let_in = True, False
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._is_let_in = True
            elif event == zmq.EVENT_CLOSED:  # an attempt to connect failed
                self._is_connected = False
            elif event == zmq.EVENT_DISCONNECTED:
                lost = True
                self._is_connected = self._is_connected and not self._is_let_in  # else it was refused
                self._is_let_in = False
        return lost

    def why_silent(self) -> str:
        """Why there may be no answer."""
        if self._is_let_in:
            return "it is connected, and does not answer: is it overloaded, or no dispatcher at all?"
        if not self._is_connected:
            return "is the dispatcher running there?"
        if self._keys is None:
            return "it asks for keys: name yours (--secret-key) and the server's (--server-key), in Python keys="
        key = self._keys.own.public.decode()
        return f"it refuses the keys: is {key} on its allow-list, is the server's key right, has it CURVE at all?"

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)
        self._context.term()
