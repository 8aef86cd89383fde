"""The stream: what shards publish, and who has subscribed to what, which shards are told."""

from __future__ import annotations

import zmq

from dispatcher.router.sockets import Sockets
from shards import logs
from shards.wire.control import Publish, Subscriptions

log = logs.logger()

SUBSCRIPTIONS_MAX = 4_096  # beyond, shards publish for everybody
PREFIX_BYTES_MAX = 300  # no topic is as long


class Stream:
    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._prefixes: set[bytes] = set()

    def publish(self, found: Publish) -> None:
        for topic, document in found.documents:
            self._sockets.stream.send_multipart([topic, document], zmq.DONTWAIT)

    def subscribed(self, message: bytes) -> None:
        """Somebody subscribes, or nobody is left who does."""
        kind, prefix = message[:1], message[1:]
        if kind == b"\x01" and len(prefix) <= PREFIX_BYTES_MAX:
            self._prefixes.add(prefix)
        elif kind == b"\x00":  # anything else is a message, which an XSUB may send
            self._prefixes.discard(prefix)

    def tell(self, shard: int) -> None:
        prefixes = sorted(self._prefixes) if len(self._prefixes) <= SUBSCRIPTIONS_MAX else [b""]
        if not self._sockets.tell(shard, Subscriptions(prefixes)):
            log.warning("subscriptions not taken", shard=shard)
