"""The example clients in other languages are built, run, and understood."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.keys import SERVER, KeyRing
from tests.support.needs import needs
from tests.support.service import ROOT, RunningDispatcher

CLIENTS = ROOT / "examples" / "clients"
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(shards=2) as running:
        yield running


def run(*command: str | Path, node_path: Path | None = None, expect: int = 0) -> str:
    """What the command prints."""
    environment = {**os.environ, **({"NODE_PATH": str(node_path)} if node_path else {})}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False)
    assert done.returncode == expect, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def compiled(directory: Path) -> Path:
    compiler = shutil.which("cc")
    needs(compiler, "no C compiler (cc)")
    program = directory / "submit"
    source = directory / "probe.c"
    source.write_text("#include <zmq.h>\nint main(void) { return zmq_errno(); }\n")
    probe = [str(compiler), "-o", str(directory / "probe"), str(source), "-lzmq"]
    has_libzmq = subprocess.run(probe, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 0
    needs(has_libzmq, "no libzmq with headers (Debian: libzmq3-dev)")
    run(str(compiler), "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, CLIENTS / "c" / "submit.c", "-lzmq")
    return program


def node_modules() -> Path:
    needs(shutil.which("node"), "no node")
    places = [CLIENTS / "node" / "node_modules"]
    if elsewhere := os.environ.get("CLIENT_NODE_MODULES"):
        places.insert(0, Path(elsewhere))
    found = next((place for place in places if (place / "zeromq").is_dir()), None)
    needs(found, "no node_modules with zeromq; npm install in examples/clients/node, or set CLIENT_NODE_MODULES")
    assert found is not None
    return found.absolute()


def ids(service: RunningDispatcher, *keys: str) -> list[str]:
    return [service.request("status", user_id="user-1", idempotency_key=key)["id"] for key in keys]


def test_the_client_in_c(service: RunningDispatcher, tmp_path: Path) -> None:
    program = compiled(tmp_path)
    as_json, as_msgpack = run(program, service.submit).splitlines()
    first, second = ids(service, "c-json", "c-msgpack")
    receipt = json.loads(as_json)
    assert (receipt["ok"], receipt["accepted"], receipt["ids"]) == (True, 1, [first])
    assert second in as_msgpack
    again = json.loads(run(program, service.submit).splitlines()[0])
    assert (again["duplicates"], again["ids"]) == (1, [first])
    run(program, "no endpoint", expect=1)


def test_the_client_in_javascript(service: RunningDispatcher) -> None:
    modules = node_modules()
    script = CLIENTS / "node" / "submit.js"
    receipts = [json.loads(line) for line in run("node", script, service.submit, node_path=modules).splitlines()]
    assert [(receipt["ok"], receipt["accepted"]) for receipt in receipts] == [(True, 1), (True, 1)]
    assert [receipt["ids"][0] for receipt in receipts] == ids(service, "node-json", "node-msgpack")
    run("node", script, "no endpoint", node_path=modules, expect=1)


def test_the_client_in_javascript_with_keys(tmp_path: Path) -> None:
    modules = node_modules()
    ring = KeyRing(tmp_path)
    ada = ring.new("ada")
    ring.admit("ada")
    with RunningDispatcher(ring.config, shards=1, keys=ada) as locked:
        files = (ring.public(SERVER), ring.public("ada"), ring.secret("ada"))
        run("node", CLIENTS / "node" / "submit.js", locked.submit, *files, node_path=modules)
        assert len(ids(locked, "node-json", "node-msgpack")) == 2
