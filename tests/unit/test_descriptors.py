"""File descriptors kept back: a process with few of them, a port that everybody wants, and the way out."""

from __future__ import annotations

import subprocess
import sys

import pytest
import zmq

from tests.support.service import ROOT, wait_until

# Speaks in lines: the endpoint, then for each line that it reads whether the gate is open and how many are free.
SERVER = """
import ctypes, resource, sys, zmq
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from dispatcher.router import descriptors
from shards import logs
logs.configure("router", logs.LogSettings())
if {forbidden}:
    ctypes.CDLL = lambda *_: type("Forbids", (), {{"unshare": staticmethod(lambda _: -1)}})
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind("tcp://127.0.0.1:*")
one = descriptors.Reserve(2)
print(socket.get(zmq.LAST_ENDPOINT).rstrip(b"\\0").decode(), flush=True)
for _ in sys.stdin:
    one.check()
    try:
        while True:
            socket.send_multipart(socket.recv_multipart(zmq.DONTWAIT))
    except zmq.Again:
        pass
    free = descriptors._take(64)
    count = len(free)
    descriptors._give_back(free)
    print(one._open, count, flush=True)
"""


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_crowd_is_kept_off_while_descriptors_are_needed(forbidden: bool) -> None:
    with (
        subprocess.Popen(
            [sys.executable, "-c", SERVER.format(forbidden=forbidden)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
        zmq.Context() as context,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def state() -> tuple[bool, int]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            is_open, free = process.stdout.readline().split()
            return is_open == "True", int(free)

        endpoint = process.stdout.readline().strip()
        first = context.socket(zmq.DEALER)
        crowd = [context.socket(zmq.DEALER) for _ in range(100)]
        for socket in (first, *crowd):
            socket.set(zmq.LINGER, 0)
        try:
            ask(first, endpoint)
            wait_until(lambda: state()[0] and first.poll(0), what="the first is served")
            first.recv()
            for socket in crowd:
                ask(socket, endpoint)
            wait_until(lambda: not state()[0], what="the gate closes")
            is_open, free = state()
            assert not is_open
            assert free >= 8 or forbidden
            first.send(b"again")
            wait_until(lambda: state()[1] >= 0 and first.poll(0), what="the first is served still")
            assert sum(bool(socket.poll(0)) for socket in crowd) < 64
        finally:
            for socket in crowd:
                socket.close()
        wait_until(lambda: state()[0], what="the gate opens")
        with context.socket(zmq.DEALER) as late:
            late.set(zmq.LINGER, 0)
            ask(late, endpoint)
            wait_until(lambda: state()[1] >= 0 and late.poll(0), what="a new one is served")
        first.close()
        process.stdin.close()


def ask(socket: zmq.Socket[bytes], endpoint: str) -> None:
    socket.connect(endpoint)
    socket.send(b"hello")
