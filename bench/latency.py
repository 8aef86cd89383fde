"""How long from submit to the receipt, and to the in-app delivery on the stream? Beside a ZeroMQ echo at that rate.

One notification per message, at a fixed rate that does not wait for answers. Messages leave in ticks of a
millisecond, as zmq_poll has no finer wait; a time counts from the moment of sending.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import msgspec
import orjson
import zmq

from bench.report import Figure, medians, options, quantile, result, show
from shards.wire.encoding import pack
from shards.wire.notification import Notification
from tests.support.service import RunningDispatcher, wait_until

USERS = 1_000
FOLLOWED = b"inapp.user-"
GRACE_S = 2.0  # for the last answers
WARM_UP = 200


def one_of_many(number: int) -> str:
    return f"user-{number % USERS}"


class Waits:
    """Milliseconds, from sending to the receipt and to the stream's document."""

    def __init__(self) -> None:
        self.receipt: list[float] = []
        self.stream: list[float] = []


class Load:
    """A DEALER, and for a dispatcher a SUB beside it, at a steady rate."""

    def __init__(
        self, submit: str, stream: str | None, user_of: Callable[[int], str] = one_of_many, first: int = 0
    ) -> None:
        self._user_of = user_of
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.connect(submit)
        self.poller = zmq.Poller()
        self.poller.register(self.dealer, zmq.POLLIN)
        self.sub: zmq.Socket[bytes] | None = None
        if stream:
            self.sub = self.context.socket(zmq.SUB)
            self.sub.set(zmq.RCVHWM, 0)
            self.sub.subscribe(FOLLOWED)
            self.sub.connect(stream)
            self.poller.register(self.sub, zmq.POLLIN)
        self._first = first  # the number of the next message, which is its key too

    def subscribed(self) -> None:
        """Returns when documents arrive: a subscription takes a moment to reach the shards."""
        if self.sub is not None:
            wait_until(lambda: self.run(1_000, 0.02).stream, 10.0, "documents on the stream")

    def run(self, rate: int, duration_s: float) -> Waits:
        count = int(rate * duration_s)
        first, self._first = self._first, self._first + count
        decode = msgspec.msgpack.Decoder().decode
        sent_at = [0.0] * count
        waits = Waits()
        followed = sum(self._user_of(number).startswith("user-") for number in range(first, first + count))
        expected = count + (followed if self.sub is not None else 0)
        sent = 0
        started = time.perf_counter()
        deadline = started + duration_s + GRACE_S
        while sent < count or len(waits.receipt) + len(waits.stream) < expected:
            now = time.perf_counter()
            if now > deadline:
                break
            due = min(count, int((now - started) * rate) + 1)
            while sent < due:
                message = self._message(first + sent)
                sent_at[sent] = time.perf_counter()
                self.dealer.send_multipart([b"", message])
                sent += 1
            for socket, _ in self.poller.poll(1):
                if socket is self.dealer:
                    while parts := _receive(self.dealer):
                        place = decode(parts[1])["seq"] - first
                        if place >= 0:
                            waits.receipt.append((time.perf_counter() - sent_at[place]) * 1000)
                elif self.sub is not None:
                    while parts := _receive(self.sub):
                        place = int(orjson.loads(parts[1])["idempotency_key"]) - first
                        if 0 <= place < count:
                            waits.stream.append((time.perf_counter() - sent_at[place]) * 1000)
        return waits

    def _message(self, number: int) -> bytes:
        notification = Notification(
            user_id=self._user_of(number),
            title="A title",
            body="And a body of some words.",
            idempotency_key=str(number),
        )
        return pack({"op": "submit", "seq": number, "notifications": [notification]})

    def close(self) -> None:
        self.context.destroy(linger=0)


def _receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    try:
        return socket.recv_multipart(zmq.DONTWAIT)
    except zmq.Again:
        return None


def echo(conn: Connection) -> None:
    """The floor's other end: answers whatever comes."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind("tcp://127.0.0.1:*")
    endpoint = socket.get(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    conn.send(endpoint.decode())
    while True:
        socket.send_multipart(socket.recv_multipart())


def run(
    rounds: int = 1,
    rate: int = 5_000,
    duration_s: float = 5.0,
    shards: int = 2,
    durability: Literal["power", "process"] = "process",
) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    server = spawn.Process(target=echo, args=(theirs,), daemon=True)
    server.start()
    try:
        with RunningDispatcher(shards=shards, durability=durability) as dispatcher:
            loads = Load(dispatcher.submit, dispatcher.stream), Load(ours.recv(), None)
            try:
                loads[0].subscribed()
                loads[1].run(1_000, WARM_UP / 1_000)
                found = [(loads[0].run(rate, duration_s), loads[1].run(rate, duration_s)) for _ in range(rounds)]
            finally:
                for load in loads:
                    load.close()
    finally:
        server.kill()
        server.join()
    answered = sum(len(waits.receipt) for waits, _ in found)
    figures = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        rows = [
            (
                quantile(sorted(waits.receipt), share),
                quantile(sorted(waits.stream), share),
                quantile(sorted(bare.receipt), share),
            )
            for waits, bare in found
        ]
        columns = [iter(column) for column in zip(*rows, strict=True)]
        receipt, stream, floor = medians(rounds, *(column.__next__ for column in columns))
        figures += [
            Figure(f"submit to receipt, {name}", receipt, floor, "ms"),
            Figure(f"submit to in-app delivered, {name}", stream, floor, "ms"),
        ]
    sent = rounds * int(rate * duration_s)
    return result("latency", rounds, figures, rate=rate, sent=sent, answered=answered, durability=durability)


def main() -> None:
    chosen = options("bench.latency", __doc__, 1, rate=5_000, duration_s=5.0, shards=2, durability="process")
    found = run(chosen.rounds, chosen.rate, chosen.duration_s, chosen.shards, chosen.durability)
    show(found, chosen.json)


if __name__ == "__main__":
    main()
