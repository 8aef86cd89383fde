"""Ingest: what producers push without an answer. What cannot be routed becomes a dead letter, by way of shard 0."""

from __future__ import annotations

import time

import zmq

from dispatcher.child_settings import RouterSettings
from dispatcher.router.gathering import Gathering
from dispatcher.router.links import Links
from dispatcher.router.receipts import Receipt
from dispatcher.router.repair import repair
from dispatcher.router.requests import as_list
from dispatcher.router.sockets import Sockets
from dispatcher.router.splitter import Limits, Split, split
from shards.wire.encoding import is_json
from shards.wire.errors import Error, RequestError
from shards.wire.link import INGEST, UNROUTABLE

MESSAGES_PER_TURN = 1_000
BYTES_PER_TURN = 2**21
RAW_KEPT = 4_096  # bytes of a message over the limit that its dead letter keeps


class Ingest:
    """Reading pauses while a window is full; producers then block at their own high-water mark."""

    def __init__(
        self, settings: RouterSettings, limits: Limits, links: Links, gathering: Gathering, sockets: Sockets
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._links = links
        self._gathering = gathering
        self._socket = sockets.ingest
        self._poller = sockets.poller
        self._reading = True

    def read(self) -> None:
        taken = 0
        try:
            for _ in range(MESSAGES_PER_TURN):
                body = self._socket.recv(zmq.DONTWAIT)
                self._take(body)
                taken += len(body)
                if taken > BYTES_PER_TURN:
                    return
        except zmq.Again:
            pass

    def _take(self, body: bytes) -> None:
        """A notification or a list of them."""
        as_json = is_json(body)
        try:
            if len(body) > self._settings.message_bytes:
                raise RequestError("too_large", f"{len(body)} bytes; at most {self._settings.message_bytes}")
            found = self._split_repaired(body, as_json)
        except RequestError as refused:
            self._bury(refused.error, body if refused.error.code != "too_large" else body[:RAW_KEPT])
            return
        receipt = None
        if found.topics:  # nobody gets it, but whether a topic is known, only all shards together can say
            shards = self._settings.shards
            receipt = Receipt([], as_json, None, found.positions, 0.0, None, None, found.topics, shards)
            receipt.waiting = len(found.pieces)
        self._gathering.add(found, as_json, INGEST, receipt)
        for _, error, raw in found.errors:
            self._bury(error, raw)

    def _split_repaired(self, body: bytes, as_json: bool) -> Split:
        try:
            return split(as_list(body, as_json), self._limits)
        except RequestError as refused:
            repaired = repair(body) if refused.error.code == "bad_encoding" else body
            if repaired == body:
                raise
            return split(as_list(repaired, as_json), self._limits)

    def bury_refused(self, receipt: Receipt) -> None:
        """What no shard knows the topic of."""
        for to_topic in receipt.topics.values():
            if error := to_topic.error(receipt.shards):
                self._bury(error, to_topic.raw)

    def _bury(self, error: Error, raw: bytes) -> None:
        self._links[0].add(UNROUTABLE, time.time_ns() // 1000, False, raw, [], error)

    def throttle(self) -> None:
        """At the end of a turn."""
        room = self._links.have_room(BYTES_PER_TURN)
        if room != self._reading:
            self._reading = room
            if room:
                self._poller.register(self._socket, zmq.POLLIN)
            else:
                self._poller.unregister(self._socket)

    def stop(self) -> None:
        if self._reading:
            self._poller.unregister(self._socket)
