"""A worker in a process of its own, to be killed.

    python -m tests.support.worker_process ENDPOINT CHANNEL NAME FILE

Each delivery's title is a line of the file before it has a result.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
import zmq

ANSWER_MS = 2_000


def main(endpoint: str, channel: str, name: str, file: str) -> None:
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.connect(endpoint)
    call: dict[str, Any] = {"op": "channel.attach", "channel": channel, "worker": name, "limit": 8, "wait_ms": 500}
    while True:
        socket.send(msgspec.msgpack.encode(call))
        answer: dict[str, Any] = msgspec.msgpack.decode(socket.recv()) if socket.poll(ANSWER_MS) else {"ok": False}
        if not answer["ok"]:  # the same again
            socket.close(linger=0)
            socket = context.socket(zmq.REQ)
            socket.connect(endpoint)
            continue
        call["results"] = []
        for one in answer["deliveries"]:
            os.write(out, one["delivery"]["title"].encode() + b"\n")
            call["results"].append({"token": one["token"]})


if __name__ == "__main__":
    main(*sys.argv[1:])
