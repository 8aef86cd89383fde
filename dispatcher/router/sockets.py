"""The router's sockets, but for those of the links: the public ones, the shards' reports, and the control sockets."""

from __future__ import annotations

import resource
import time
from typing import Literal

import msgspec
import zmq

from dispatcher.child_settings import RouterSettings
from dispatcher.endpoints import is_local
from dispatcher.router.gate import Gate
from shards import logs
from shards.process import WRONG_CONFIGURATION, fail
from shards.wire.encoding import pack
from shards.wire.requests import MESSAGE_BYTES_HARD_MAX
from shards.wire.sockets import RECONNECT_MS

log = logs.logger()

CONTROL_HWM = 10_000
PUBLIC_HWM = 1_000
LINKS_S = 1.0
CROWD = 8_192  # more clients than can connect before descriptors are first checked
LINGER_MS = 1_000  # at the end: answers, and results of workers


class Sockets:
    """Opens them all, or ends the process with the reason. ``poller`` watches those from which is read."""

    def __init__(self, settings: RouterSettings) -> None:
        shards = range(settings.shards)
        self._context = zmq.Context(2)
        self.gate = Gate(self._context, settings.curve_secret, settings.allow) if settings.curve_secret else None
        self.reports = self._bind("reports", zmq.PULL, "ipc://run/router", CONTROL_HWM)
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < CROWD:
            self._await_links(settings.shards)
        self.ingest = self._bind("ingest", zmq.PULL, settings.ingest, PUBLIC_HWM, self.gate)
        self.submit = self._bind("submit", zmq.ROUTER, settings.submit, PUBLIC_HWM, self.gate)
        self.submit.set(zmq.ROUTER_MANDATORY, 1)  # a worker that is gone is to be found gone, before it is given work
        self.stream = self._bind("stream", zmq.XPUB, settings.stream, PUBLIC_HWM, self.gate)
        self._controls = [self.connect(f"ipc://run/control-{shard}", CONTROL_HWM) for shard in shards]
        self._collector = self.connect("ipc://run/collector", CONTROL_HWM)
        self.poller = zmq.Poller()
        for socket in (self.reports, self.ingest, self.submit, self.stream):
            self.poller.register(socket, zmq.POLLIN)
        if self.gate:
            self.poller.register(self.gate.socket, zmq.POLLIN)

    def _await_links(self, shards: int) -> None:
        """The shards and the collector connect before clients do, who might leave no file descriptor for them."""
        monitor: zmq.Socket[bytes] = self.reports.get_monitor_socket(zmq.EVENT_ACCEPTED)
        linked, deadline = 0, time.monotonic() + LINKS_S
        while linked <= shards and monitor.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            monitor.recv_multipart()
            linked += 1
        self.reports.disable_monitor()
        monitor.close()

    def _bind(self, name: str, kind: int, endpoint: str, hwm: int, gate: Gate | None = None) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.RCVHWM, hwm)
        socket.set(zmq.LINGER, LINGER_MS if kind == zmq.ROUTER else 0)
        socket.set(zmq.MAXMSGSIZE, MESSAGE_BYTES_HARD_MAX)
        if gate:
            gate.guard(socket)
        elif not is_local(endpoint):
            log.warning("open to whoever reaches this machine, as insecure = true", socket=name, endpoint=endpoint)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            fail(
                f"cannot bind {name} to {endpoint}: {zmq.strerror(error.errno or 0)}; "
                f"stop what listens there, or set dispatcher.{name} to another address",
                WRONG_CONFIGURATION,
            )
        return socket

    def connect(self, endpoint: str, hwm: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.PUSH)
        socket.set(zmq.SNDHWM, hwm)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.connect(endpoint)
        return socket

    def tell(self, target: int | Literal["collector"], message: msgspec.Struct) -> bool:
        """On the control socket of a shard or the collector; whether it was taken."""
        socket = self._collector if target == "collector" else self._controls[target]
        try:
            socket.send(pack(message), zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        for socket in (self.submit, *self._controls):
            socket.close(linger=LINGER_MS)
        self._context.destroy(linger=0)
