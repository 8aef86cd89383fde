"""The links to all shards, on their sockets: frames leave as far as these take them, and again where a shard asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import zmq

from dispatcher.child_settings import RouterSettings
from dispatcher.router.gathering import Frame, Part
from dispatcher.router.link import Link
from dispatcher.router.sockets import Sockets
from shards import logs
from shards.wire.encoding import pack

log = logs.logger()

DATA_HWM = 64


class Links:
    """``links[shard]`` is the state of one; what it has to send goes out with ``send``."""

    def __init__(self, settings: RouterSettings, sockets: Sockets) -> None:
        self._sockets = sockets
        self._poller = sockets.poller
        shards = range(settings.shards)
        self._links: list[Link[list[Part]]] = [
            Link(shard, settings.epoch, settings.window_frames, settings.window_bytes) for shard in shards
        ]
        self._data = [sockets.connect(_endpoint(shard), DATA_HWM) for shard in shards]
        self._blocked: set[int] = set()  # shards whose socket takes nothing more for now
        self._unlinked: set[int] = set()  # those of them that have no socket, for want of a file descriptor

    def __getitem__(self, shard: int) -> Link[list[Part]]:
        return self._links[shard]

    @property
    def are_empty(self) -> bool:
        return not any(map(len, self._links))

    def have_room(self, size: int) -> bool:
        """Whether a frame of this size fits, whichever shard it is for."""
        return all(link.has_room(size) for link in self._links)

    def keep(self, frame: Frame) -> None:
        """Until its shard has it."""
        now_us = time.time_ns() // 1000
        self._links[frame.shard].add(frame.source, now_us, frame.fanned, frame.body, frame.parts)

    def send(self, ready: Mapping[Any, int]) -> None:
        """Once a turn: all that is unsent, where the socket takes it, or is ``ready`` to again."""
        for shard, socket in enumerate(self._data):
            if socket in ready:
                self._unblock(shard)
            if shard not in self._blocked:
                self._send_frames(shard)

    def _send_frames(self, shard: int) -> None:
        socket, link = self._data[shard], self._links[shard]
        try:
            for data in link.unsent():
                socket.send(pack(data), zmq.DONTWAIT)
                link.sent()
        except zmq.Again:
            self._blocked.add(shard)
            self._poller.register(socket, zmq.POLLOUT)

    def _unblock(self, shard: int) -> None:
        if shard in self._unlinked:
            self._unlinked.discard(shard)
            self._blocked.discard(shard)
        elif shard in self._blocked:
            self._blocked.discard(shard)
            self._poller.unregister(self._data[shard])

    def reconnect(self, shard: int) -> None:
        self._unblock(shard)
        self._data[shard].close(linger=0)
        try:
            self._data[shard] = self._sockets.connect(_endpoint(shard), DATA_HWM)
        except zmq.ZMQError as error:
            log.error("no link until a file descriptor is free", shard=shard, error=zmq.strerror(error.errno or 0))
            self._blocked.add(shard)
            self._unlinked.add(shard)

    def ping(self) -> None:
        """Ten times a second: the tail of a burst may be what was lost."""
        for shard in list(self._unlinked):
            self.reconnect(shard)
        for shard, link in enumerate(self._links):
            self.try_send(shard, link.ping())

    def try_send(self, shard: int, message: msgspec.Struct) -> None:
        """Beside the frames: what is said again later, if it does not arrive."""
        if shard in self._blocked:
            return
        try:
            self._data[shard].send(pack(message), zmq.DONTWAIT)
        except zmq.Again:
            pass


def _endpoint(shard: int) -> str:
    return f"ipc://run/shard-{shard}"
