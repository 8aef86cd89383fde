"""CURVE on the public sockets: those on the allow-list get in, over real sockets, and nobody else gets anything."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from click.testing import CliRunner

from dispatcher.cli import main
from tests.support.client import Keys, SubmitClient
from tests.support.keys import SERVER, KeyRing
from tests.support.service import ROOT, RunningDispatcher, wait_until

SILENCE_MS = 500
RETRY_MS = 30_000  # a client that was refused asks again every 2 s


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def service(ring: KeyRing) -> Iterator[RunningDispatcher]:
    keys = ring.new("ada")
    ring.admit("ada")
    with RunningDispatcher(ring.config, shards=1, keys=keys) as running:
        yield running


class Plain:
    """ZeroMQ's other mechanism: a name and a password."""

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        socket.plain_username, socket.plain_password = b"ada", b"ada"


Connect = Callable[[int, str, Keys | Plain | None], "zmq.Socket[bytes]"]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Sockets of other programs, each with a context of its own, closed at the end."""
    with contextlib.ExitStack() as stack:

        def connected(kind: int, endpoint: str, keys: Keys | Plain | None) -> zmq.Socket[bytes]:
            socket = stack.enter_context(zmq.Context()).socket(kind)
            socket.set(zmq.LINGER, 0)
            stack.enter_context(socket)
            if keys:
                keys.apply(socket)
            socket.connect(endpoint)
            return socket

        yield connected


def ping(socket: zmq.Socket[bytes], wait_ms: int) -> bool:
    socket.send_multipart([b"", msgspec.msgpack.encode({"op": "ping"})])
    return bool(socket.poll(wait_ms) and socket.recv_multipart())


# --- in ---------------------------------------------------------------------------------------------------------------


def test_an_allowed_key_has_all_three_sockets(service: RunningDispatcher) -> None:
    service.ingested(b'{"user_id": "ada", "title": "by ingest"}')
    wait_until(lambda: service.request("inbox.list", user_id="ada")["items"], what="the item that came by ingest")
    with service.subscribed(b"inapp.ada\0") as stream:

        def arrives() -> bool:
            service.client.submit({"user_id": "ada", "title": "hello"})
            return stream.read(0.2) is not None

        wait_until(arrives, what="an event of the stream")


def test_commands_on_the_same_machine_take_the_servers_own_key(service: RunningDispatcher) -> None:
    shown = CliRunner().invoke(main, ["stats", "--config", str(service.config_file)])
    assert shown.exit_code == 0, shown.output
    assert "conserved yes" in shown.stdout


def test_commands_elsewhere_take_files_or_the_environment(
    service: RunningDispatcher, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["--secret-key", str(ring.secret("ada")), "--server-key", str(ring.public(SERVER))]
    assert CliRunner().invoke(main, ["stats", "--submit", service.submit, *keys]).exit_code == 0
    monkeypatch.setenv("DISPATCHER_CURVE__SECRET_KEY", str(ring.secret("ada")))
    monkeypatch.setenv("DISPATCHER_CURVE__SERVER_KEY", str(ring.public(SERVER)))
    assert CliRunner().invoke(main, ["stats", "--submit", service.submit]).exit_code == 0


def test_the_example_of_the_documentation(service: RunningDispatcher, ring: KeyRing) -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    programs = re.findall(r"(?ms)^```python\n(.*?)^```$", text)
    (program,) = (program for program in programs if "curve_serverkey" in program)
    for name, real in (
        ("tcp://127.0.0.1:7712", service.submit),
        ("keys/server.public", str(ring.public(SERVER))),
        ("keys/ada.public", str(ring.public("ada"))),
        ("keys/ada.secret", str(ring.secret("ada"))),
    ):
        assert name in program
        program = program.replace(name, real)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(ended.stdout)["ok"] is True


# --- out --------------------------------------------------------------------------------------------------------------


def test_nobody_else_gets_anything(service: RunningDispatcher, ring: KeyRing, connect: Connect) -> None:
    before = service.settled_stats()
    stranger = ring.new("stranger")
    ring.new("impostor")
    misled = ring.new("misled", server="impostor")
    ring.admit("misled")  # allowed, but it believes another server's key
    submits, streams = [], []
    for keys in (None, Plain(), stranger, misled):
        submits.append(connect(zmq.DEALER, service.submit, keys))
        submits[-1].send_multipart([b"", b'{"op": "submit", "notifications": [{"user_id": "eve", "title": "x"}]}'])
        connect(zmq.PUSH, service.ingest, keys).send(b'{"user_id": "eve", "title": "x"}', zmq.DONTWAIT)
        streams.append(connect(zmq.SUB, service.stream, keys))
        streams[-1].subscribe(b"")
    service.client.submit({"user_id": "ada", "title": "only for those inside"})
    assert not submits[0].poll(SILENCE_MS)
    assert not any(socket.poll(0) for socket in (*submits, *streams))
    after = service.settled_stats()
    assert after["accepted"] - before["accepted"] == 1
    assert after["dead_letters"] == before["dead_letters"]
    assert service.request("inbox.list", user_id="eve")["items"] == []
    assert wait_until(lambda: [line["last_key"] for line in service.events() if "last_key" in line])
    ring.dismiss("misled")


def test_the_command_line_says_that_keys_are_missing_or_refused(service: RunningDispatcher, ring: KeyRing) -> None:
    where = ["--submit", service.submit, "--timeout", "1s"]
    without = CliRunner().invoke(main, ["stats", *where])
    assert without.exit_code == 1
    assert "it asks for keys: name yours (--secret-key) and the server's (--server-key)" in without.stderr
    mallory = ring.new("mallory")
    keys = ["--secret-key", str(ring.secret("mallory")), "--server-key", str(ring.public(SERVER))]
    refused = CliRunner().invoke(main, ["stats", *where, *keys])
    assert refused.exit_code == 1
    assert f"it refuses the keys: is {mallory.public.decode()} on its allow-list" in refused.stderr


# --- changes ----------------------------------------------------------------------------------------------------------


def test_the_allow_list_counts_as_it_stands(service: RunningDispatcher, ring: KeyRing, connect: Connect) -> None:
    bob = ring.new("bob")
    early = connect(zmq.DEALER, service.submit, bob)
    assert not ping(early, SILENCE_MS)
    ring.admit("bob")
    assert early.poll(RETRY_MS), "a client that was refused is let in once it is allowed"
    early.recv_multipart()

    ring.dismiss("bob")

    def is_out() -> bool:
        return not ping(connect(zmq.DEALER, service.submit, bob), SILENCE_MS)

    wait_until(is_out, what="the end of new connections")
    assert ping(early, 10_000), "established connections stay"

    router = service.child_pids()["router"]
    os.kill(router, signal.SIGTERM)
    wait_until(lambda: _router_pid(service) not in (None, router), 30.0, "another router")
    assert not ping(early, SILENCE_MS)
    assert service.client.submit({"user_id": "ada", "title": "still here"})["accepted"] == 1


def _router_pid(service: RunningDispatcher) -> int | None:
    with SubmitClient(service.submit, timeout_s=1.0, keys=service.keys) as client:
        try:
            return int(client.request("stats")["router"]["pid"])
        except AssertionError:
            return None


def test_a_bad_allow_list_lets_in_nobody_new_and_is_named(
    service: RunningDispatcher, ring: KeyRing, connect: Connect
) -> None:
    ring.new("carol")
    (ring.allow / "carol.public").write_text("half a ke")

    def tried(text: str) -> bool:
        return ping(connect(zmq.DEALER, service.submit, service.keys), 10_000) and text in service.log()

    wait_until(lambda: tried("carol.public: not a key"), what="a bad file, which keeps out nobody else")
    ring.dismiss("carol")
    ring.allow.chmod(0o777)
    public = ring.public(SERVER).read_bytes().strip()
    admin = Keys(public, public, _secret(ring))
    try:

        def only_the_server_itself() -> bool:
            return not ping(connect(zmq.DEALER, service.submit, service.keys), SILENCE_MS)

        wait_until(only_the_server_itself, what="a directory that everybody writes to, which allows nobody")
        assert ping(connect(zmq.DEALER, service.submit, admin), 10_000)
        assert f"{ring.allow}: can be written by other users; chmod go-w {ring.allow}" in service.log()
    finally:
        ring.allow.chmod(0o700)

    def allowed_again() -> bool:
        ping(connect(zmq.DEALER, service.submit, service.keys), SILENCE_MS)
        return any(line["event"] == "clients allowed" and line["count"] == 1 for line in service.events())

    wait_until(allowed_again, what="the allow-list, as good as before")


def _secret(ring: KeyRing) -> bytes:
    return ring.secret(SERVER).read_bytes().strip()


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_show_nowhere(service: RunningDispatcher, ring: KeyRing) -> None:
    identity = json.loads((service.data_dir / "identity.json").read_bytes())
    secrets = [_secret(ring), str(identity["secret"]).encode()]
    seen = {"log": service.log_file.read_bytes(), "stats": json.dumps(service.request("stats")).encode()}
    seen["ping"] = json.dumps(service.request("ping")).encode()
    pids = service.child_pids()
    assert service.process is not None
    for role, pid in (*pids.items(), ("supervisor", service.process.pid)):
        for name in ("cmdline", "environ"):
            seen[f"{role} {name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    assert all(seen.values())
    for place, content in seen.items():
        for secret in secrets:
            assert secret not in content, place


def test_a_service_that_is_open_warns_and_its_children_do_not_inherit_its_settings() -> None:
    """Their settings come on standard input; the environment may hold what is not for them."""
    service = RunningDispatcher(shards=1)
    service.environment = {"DISPATCHER_INSECURE": "true"}
    everywhere = service.ingest.replace("127.0.0.1", "0.0.0.0")
    service.config_file.write_text(service.config_file.read_text().replace(service.ingest, everywhere))
    with service:
        warned = [line["endpoint"] for line in service.events() if line["event"].startswith("open to whoever")]
        assert warned == [everywhere]
        for role, pid in service.child_pids().items():
            assert b"DISPATCHER_" not in Path(f"/proc/{pid}/environ").read_bytes(), role


# --- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda ring: ring.secret(SERVER).chmod(0o640), "server.secret: is open to other users; chmod 600 "),
        (lambda ring: ring.secret(SERVER).unlink(), "server.secret: cannot be read: No such file or directory; "),
        (lambda ring: ring.secret(SERVER).write_text("x" * 41), "server.secret: not a key, which is 40 characters"),
        (
            lambda ring: (ring.allow / "eve.public").write_text("x"),
            "allow/eve.public: not a key, which is 40 characters",
        ),
        (lambda ring: ring.allow.rmdir(), "allow: not a directory of public keys: No such file or directory"),
        (lambda ring: ring.allow.chmod(0o770), "allow: can be written by other users; chmod go-w "),
    ],
)
def test_bad_keys_are_named_at_the_start(spoil: Callable[[KeyRing], None], says: str, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    spoil(ring)
    config = tmp_path / "mine.toml"
    config.write_text(ring.config)
    ended = subprocess.run(
        [sys.executable, "-m", "dispatcher", "serve", "--config", str(config), "--data-dir", str(tmp_path / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(rf"error: {re.escape(str(ring.directory))}/{re.escape(says)}.*\n", ended.stderr)
