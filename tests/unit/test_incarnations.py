"""A router of its own, with a shard that is this test: which of a shard's reports mean that another process has it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from dispatcher.child_settings import RouterSettings
from dispatcher.router.router import Router
from shards.process import Stop
from shards.wire.encoding import pack
from shards.wire.link import Report
from shards.wire.sockets import ToShardControl
from shards.wire.workers import Offer, Taken, Want

EPOCH = 5
PATIENCE_MS = 10_000
SETTINGS = RouterSettings(
    epoch=EPOCH,
    shards=1,
    ingest="ipc://run/ingest",
    submit="ipc://run/submit",
    stream="ipc://run/stream",
    receipt_timeout_s=5.0,
    drain_s=0.1,
    message_bytes=2**20,
    batch=100,
    fanout_bytes=2**20,
    window_frames=512,
    window_bytes=2**26,
    requests=100,
    channels={"pager": 10.0},
)


class Peers:
    """The shard's sockets, and a worker's."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.control = self._socket(zmq.PULL)
        self.control.bind("ipc://run/control-0")
        self.upstream = self._socket(zmq.PUSH)
        self.upstream.connect("ipc://run/router")
        self.worker = self._socket(zmq.REQ)
        self.worker.connect("ipc://run/submit")
        self._decode = msgspec.msgpack.Decoder(ToShardControl).decode

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.set(zmq.RCVTIMEO, PATIENCE_MS)
        socket.set(zmq.LINGER, 0)
        return socket

    def say(self, *messages: msgspec.Struct) -> None:
        for message in messages:
            self.upstream.send(pack(message))

    def hear(self, kind: type, **fields: Any) -> Any:
        """The next message of this kind that has these values."""
        while True:
            message = self._decode(self.control.recv())
            if isinstance(message, kind) and all(getattr(message, key) == value for key, value in fields.items()):
                return message

    def call(self, limit: int) -> None:
        self.worker.send(pack({"op": "channel.attach", "channel": "pager", "worker": "w", "limit": limit}))

    def answer(self) -> list[str]:
        """The tokens that the worker is given."""
        return [one["token"] for one in msgspec.msgpack.decode(self.worker.recv())["deliveries"]]


def report(incarnation: int, conn: int, *, resend: bool) -> Report:
    return Report(0, incarnation, EPOCH, 0, conn, 0, 0, "0f06c60c", resend)


def offer(*numbers: int) -> Offer:
    return Offer(0, "pager", [(number, msgspec.Raw(pack({"title": "t"}))) for number in numbers])


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peers]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    stop = Stop()
    router = Router(SETTINGS, stop)
    thread = threading.Thread(target=router.run)
    thread.start()
    found = Peers()
    yield found
    stop.request(signal.SIGTERM, None)
    thread.join()
    found.context.destroy(linger=0)


def test_a_gap_is_not_another_process(peers: Peers) -> None:
    """A router that was started while the shard ran sees it ask for a resend, and keeps what it has offered."""
    peers.call(limit=1)
    peers.hear(Want, count=1)
    peers.say(offer(1, 2))
    assert peers.answer() == ["0-1"]
    peers.say(report(77, 1, resend=True))
    peers.call(limit=1)
    peers.hear(Taken, numbers=[2])
    assert peers.answer() == ["0-2"]


@pytest.mark.parametrize("was_heard", [False, True])
def test_a_greeting_is(peers: Peers, was_heard: bool) -> None:
    """What the one before had offered it will offer anew, and it is told what is wanted."""
    if was_heard:
        peers.say(report(77, 0, resend=True))
    peers.call(limit=1)
    peers.hear(Want, count=1)
    peers.say(offer(1, 2))
    assert peers.answer() == ["0-1"]
    peers.hear(Want, count=0)
    peers.say(report(78, 0, resend=True))
    peers.hear(Want, count=0)
    peers.call(limit=1)
    peers.hear(Want, count=1)
    peers.say(offer(3))
    assert peers.answer() == ["0-3"]
