"""The real service under test: ``python -m dispatcher serve`` as a child, in a directory of its own."""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self, TypeVar

import zmq

from tests.support.client import Keys, SubmitClient, Subscriber

ROOT = Path(__file__).parents[2]
READY_S = 30.0
STOP_S = 30.0
POLL_S = 0.01
LOG_SHOWN = 4_000  # characters
# so that nothing is left of a test run that is killed; `start` in a thread that lives as long as the service
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()

T = TypeVar("T")


def wait_until(condition: Callable[[], T | None], timeout_s: float = 10.0, what: str = "the condition") -> T:
    """The condition's value, once it is true; fails the test if it does not become so in time."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout_s:g} s; at last it was {value!r}")
        pause.wait(POLL_S)


def free_endpoints(count: int) -> list[str]:
    """Loopback endpoints that nobody has bound at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    finally:
        for one in sockets:
            one.close()


class RunningDispatcher:
    """A context manager: ready inside, stopped in order (exit code 0) outside, killed if the test failed.

    ``config`` is TOML beside the endpoints; a table ``[dispatcher]`` in it is merged with them. ``start`` after
    ``stop`` or ``kill`` starts it again on the same data and the same endpoints. ``environment`` is added to ours at
    each start, and ``prefix`` stands before the command. ``keys`` are those of the clients that it makes, where
    ``config`` has a table ``[curve]``.
    """

    def __init__(
        self,
        config: str = "",
        *,
        shards: int = 2,
        durability: Literal["power", "process"] = "process",
        keys: Keys | None = None,
        umask: int = -1,
        prefix: Sequence[str] = (),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dispatcher-test-"))
        self.data_dir = self.directory / "data"
        self.config_file = self.directory / "dispatcher.toml"
        self.log_file = self.directory / "log"
        self.shards = shards
        self.durability = durability
        self.keys = keys
        self._umask = umask
        self.ingest, self.submit, self.stream = free_endpoints(3)
        self.ready_line = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        self._prefix = prefix
        self._client: SubmitClient | None = None
        table = f'[dispatcher]\ningest = "{self.ingest}"\nsubmit = "{self.submit}"\nstream = "{self.stream}"\n'
        merged, found = re.subn(r"(?m)^\[dispatcher\]\n", table, config, count=1)
        self.config_file.touch(mode=0o600)  # whatever the umask: it may hold secrets
        self.config_file.write_text(merged if found else table + config)

    # --- life --------------------------------------------------------------------------------------------------

    def start(self, timeout_s: float = READY_S) -> None:
        """Returns when the service says that it is ready."""
        self.launch()
        try:
            self.ready_line = self._first_line(timeout_s)
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        """Start it and wait for nothing."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *DIES_WITH_US,
                    *self._prefix,
                    *(sys.executable, "-m", "dispatcher", "serve"),
                    *("--config", str(self.config_file), "--data-dir", str(self.data_dir)),
                    *("--shards", str(self.shards), "--durability", self.durability),
                ],
                cwd=ROOT,
                env=environment | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                umask=self._umask,
                start_new_session=True,  # so that kill() knows which processes are ours
            )

    def _first_line(self, timeout_s: float) -> str:
        process, output = self._running()
        deadline = time.monotonic() + timeout_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                wait_s = max(0.0, deadline - time.monotonic())
                assert selector.select(wait_s), f"not ready within {timeout_s:g} s\n{self.log()}"
                byte = os.read(output.fileno(), 1)
                assert byte, f"it ended before it was ready: exit code {process.wait()}\n{self.log()}"
                line += byte
        text = line.decode()
        assert text.startswith("ready"), f"instead of 'ready' it printed {text!r}\n{self.log()}"
        return text

    def stop(self) -> None:
        """SIGTERM; it must drain and end with exit code 0. Legal when it is not running."""
        self._close_client()
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        code = self.wait_ended()
        assert code == 0, f"exit code {code}\n{self.log()}"

    def wait_ended(self, timeout_s: float = STOP_S) -> int:
        """It ends without ``stop``, and so do its children: the exit code."""
        self._close_client()
        process, _ = self._running()
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it does not end within {timeout_s:g} s\n{self.log()}") from None
        self._reap()
        return code

    def kill(self) -> None:
        """SIGKILL to the supervisor; returns when its children are gone as well. Legal when it is not running."""
        self._close_client()
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self._reap()

    def _reap(self) -> None:
        process, output = self._running()
        output.close()
        self.process = None
        wait_until(lambda: not _alive(process.pid), STOP_S, "the end of all children")

    def _running(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        assert self.process is not None, "it is not running"
        assert self.process.stdout is not None
        return self.process, self.process.stdout

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop() if kind is None else self.kill()
        finally:
            self.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    # --- use ---------------------------------------------------------------------------------------------------

    @property
    def client(self) -> SubmitClient:
        """One for the whole test, connected when first used."""
        if self._client is None:
            self._client = SubmitClient(self.submit, keys=self.keys)
        return self._client

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer to an operation, which must be ``ok``."""
        return self.client.request(op, **fields)

    def ingested(self, *messages: bytes) -> None:
        """Push messages on ``ingest``; returns when they have left this process."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context.socket(zmq.PUSH) as socket:
            socket.set(zmq.LINGER, 10_000)
            if self.keys:
                self.keys.apply(socket)
            socket.connect(self.ingest)
            for message in messages:
                socket.send(message)
        context.term()

    def subscribed(self, *prefixes: bytes) -> Subscriber:
        return Subscriber(self.stream, *prefixes, keys=self.keys)

    def settled_stats(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """``stats`` once nothing is pending."""
        return wait_until(
            lambda: None if (stats := self.request("stats"))["pending"] or stats["not_responding"] else stats,
            timeout_s,
            "nothing is pending",
        )

    def child_pids(self) -> dict[str, int]:
        """Process ids by role: ``router``, ``collector``, ``shard 0``, ``shard 1``, ..."""
        stats = self.request("stats")
        pids = {role: int(stats[role]["pid"]) for role in ("router", "collector")}
        return pids | {f"shard {shard['shard']}": int(shard["pid"]) for shard in stats["shards"]}

    def events(self) -> list[dict[str, Any]]:
        """What the service has logged so far."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def log(self) -> str:
        """The end of what the service wrote to standard error."""
        return self.log_file.read_text(errors="replace")[-LOG_SHOWN:] if self.log_file.exists() else ""


def _alive(session: int) -> list[int]:
    """The processes of a session that have not ended; zombies have."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, of_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it ended while we looked
        if int(of_session) == session and state != "Z":
            found.append(int(entry.name))
    return found
