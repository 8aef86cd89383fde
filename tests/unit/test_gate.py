"""The router's gate on real sockets, with the test in the place of the router's loop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from dispatcher.router import gate
from dispatcher.router.gate import Gate
from tests.support.client import Keys
from tests.support.keys import SERVER, KeyRing
from tests.support.logs import captured_logs
from tests.support.service import wait_until

SILENCE_MS = 300

Logged = list[dict[str, Any]]


class Door:
    """A gate, a guarded socket behind it, and clients that knock."""

    def __init__(self, ring: KeyRing) -> None:
        self.context = zmq.Context()
        self.gate = Gate(self.context, ring.secret(SERVER).read_text().strip(), str(ring.allow))
        self.inside = self.context.socket(zmq.PULL)
        self.gate.guard(self.inside)
        self.inside.bind("tcp://127.0.0.1:*")
        self.endpoint = self.inside.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._clients: list[zmq.Socket[bytes]] = []

    def knock(self, keys: Keys) -> None:
        socket = self.context.socket(zmq.PUSH)
        self._clients.append(socket)
        keys.apply(socket)
        socket.connect(self.endpoint)
        socket.send(keys.public)

    def let_in(self) -> bytes | None:
        self.gate.answer()
        return self.inside.recv() if self.inside.poll(10) else None

    def close(self) -> None:
        for socket in (self.gate.socket, self.inside, *self._clients):
            socket.close(linger=0)
        self.context.term()


def errors(logged: Logged) -> list[str]:
    return [line["error"] for line in logged if line["level"] == "error"]


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path)


@pytest.fixture
def logged() -> Iterator[Logged]:
    with captured_logs() as lines:
        yield lines


@pytest.fixture
def door(ring: KeyRing, monkeypatch: pytest.MonkeyPatch, logged: Logged) -> Iterator[Door]:
    monkeypatch.setattr(gate, "HANDSHAKE_MS", 500)  # whoever was refused asks again so soon
    opened = Door(ring)
    yield opened
    opened.close()


def test_without_an_answer_nobody_gets_in(door: Door, ring: KeyRing) -> None:
    ada = ring.new("ada")
    ring.admit("ada")
    door.knock(ada)
    assert door.gate.socket.poll(10_000), "the question waits"
    assert not door.inside.poll(SILENCE_MS)
    assert wait_until(door.let_in) == ada.public


def test_without_a_gate_nobody_gets_in(door: Door, ring: KeyRing) -> None:
    ada = ring.new("ada")
    ring.admit("ada")
    door.gate.socket.close(linger=0)
    door.knock(ada)
    assert not door.inside.poll(SILENCE_MS)


def test_refusals_are_one_line_of_the_log(door: Door, ring: KeyRing, logged: Logged) -> None:
    strangers = [ring.new(f"stranger-{number}") for number in range(20)]
    for keys in strangers:
        door.knock(keys)

    def refused_all() -> bool:
        assert door.let_in() is None
        return door.gate._refused >= len(strangers) - 1  # what the next line will count

    wait_until(refused_all)
    (line,) = [line for line in logged if line["level"] == "warning"]
    assert (line["count"], line["last_from"]) == (1, "127.0.0.1")
    assert line["last_key"] in [keys.public.decode() for keys in strangers]


def test_a_key_counts_from_when_its_file_is_whole(
    door: Door, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(gate, "CHECK_EVERY_S", 0.0)
    ada = ring.new("ada")
    file = ring.allow / "ada.public"
    file.write_bytes(ada.public[:20])
    (ring.allow / "README").write_text("not a key, and not meant to be")
    door.knock(ada)
    wait_until(lambda: door.let_in() is None and errors(logged))
    (error,) = errors(logged)
    assert "ada.public: not a key" in error
    file.write_bytes(ada.public + b"\n")
    assert wait_until(door.let_in) == ada.public


def test_an_allow_list_that_is_gone_allows_nobody_but_the_server(
    door: Door, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    monkeypatch.setattr(gate, "CHECK_EVERY_S", 0.0)
    ada = ring.new("ada")
    ring.admit("ada")
    door.knock(ada)
    assert wait_until(door.let_in) == ada.public
    ring.allow.rename(ring.allow.with_name("elsewhere"))
    door.knock(ada)

    def refused() -> bool:
        door.gate.answer()
        return any(line["level"] == "warning" for line in logged)

    wait_until(refused)
    assert "no client gets in" in [line["event"] for line in logged]
    assert door.let_in() is None
    secret, public = ring.secret(SERVER).read_bytes().strip(), ring.public(SERVER).read_bytes().strip()
    door.knock(Keys(public, public, secret))
    assert wait_until(door.let_in) == public
