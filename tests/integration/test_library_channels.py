"""Channels that a program registers: objects that stay with it, and classes that the shards load."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher import Delivery, NotificationService, Recipient, RequestError, SendError, Sent
from dispatcher.api.embedded import Embedded
from tests.support.service import ROOT, wait_until

PATIENCE_S = 60.0
CONFIG = {
    "retry": {"max_retries": 1, "base": "10ms"},
    "dispatcher": {"drain": "1s"},  # one test leaves a delivery with a program that has ended
}


class Recorder:
    """Takes what it is given, and fails as the title says."""

    name = "recorder"

    def __init__(self) -> None:
        self.taken: list[Delivery] = []

    def supports_recipient(self, recipient: Recipient) -> bool:
        return recipient.user_id != "nobody"

    async def send(self, delivery: Delivery) -> Sent | None:
        self.taken.append(delivery)
        match delivery.title:
            case "permanent":
                raise SendError("permanent", "no such place")
            case "throttled" if delivery.attempt == 1:
                raise SendError("throttled", "slowly", retry_after_s=0.01)
            case "bug":
                raise KeyError("of the channel")
            case "nonsense":
                return "done"  # type: ignore[return-value]  # that is what it is about
            case "hang":
                await asyncio.sleep(1_000)
            case "detail":
                return Sent("as 4711")
            case "surrogate":
                raise SendError("transient", "no file \udcff")
            case "long":
                raise ValueError("x" * 2_000_000)
            case "long detail":
                return Sent("x" * 2_000_000)
            case "no text":
                return Sent(object(), bad=(object(),))  # type: ignore[arg-type]  # on purpose
            case "cancelled":
                raise asyncio.CancelledError
            case "exit":
                raise SystemExit(3)
            case "timeout":
                raise TimeoutError("of the channel")
            case "never":
                raise SendError("permanent", "nothing", retry_after_s=float("nan"))
        return None


class Blocking(Recorder):
    """A plain function, which waits at a barrier: only several threads get through."""

    name = "blocking"

    def __init__(self, parties: int) -> None:
        super().__init__()
        self._barrier = threading.Barrier(parties)

    def send(self, delivery: Delivery) -> None:  # type: ignore[override]  # a channel's is either
        self._barrier.wait(PATIENCE_S)
        self.taken.append(delivery)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("channels")


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[NotificationService]:
    with NotificationService(directory / "data", config=CONFIG, shards=2, durability="process") as one:
        yield one


@pytest.fixture(scope="module")
def recorder(service: NotificationService) -> Recorder:
    made = Recorder()
    service.register_channel("recorder", made, timeout="2s")
    return made


@pytest.mark.parametrize(
    ("title", "outcome", "reason", "attempts", "error"),
    [
        ("plain", "delivered", None, 1, None),
        ("detail", "delivered", None, 1, None),
        ("permanent", "dead", "permanent", 1, "no such place"),
        ("throttled", "delivered", None, 2, "slowly"),
        ("bug", "dead", "max_retries", 2, "KeyError: 'of the channel'"),
        (
            "nonsense",
            "dead",
            "max_retries",
            2,
            "send returned str; it is to return Sent or None, and to raise SendError",
        ),
        ("hang", "dead", "max_retries", 2, None),
        ("surrogate", "dead", "max_retries", 2, "no file ?"),
        ("long", "dead", "max_retries", 2, None),
        ("long detail", "delivered", None, 1, None),
        ("no text", "delivered", None, 1, None),
        ("cancelled", "dead", "max_retries", 2, "CancelledError: "),
        ("exit", "dead", "max_retries", 2, "SystemExit: 3"),
        ("timeout", "dead", "max_retries", 2, "TimeoutError: of the channel"),
        ("never", "dead", "permanent", 1, "nothing"),
    ],
)
def test_what_send_does_decides(
    service: NotificationService,
    recorder: Recorder,
    title: str,
    outcome: str,
    reason: str | None,
    attempts: int,
    error: str | None,
) -> None:
    receipt = service.notify(user_id="ada", title=title, payload={"order": 17}, channels=["recorder"])
    (delivery,) = service.wait(receipt.id, PATIENCE_S).deliveries
    assert (delivery.outcome, delivery.reason, delivery.attempts) == (outcome, reason, attempts)
    assert error is None or delivery.last_error == error
    taken = [one for one in recorder.taken if one.notification_id == receipt.id]
    assert [one.attempt for one in taken] == list(range(1, attempts + 1))
    assert {(one.recipient.user_id, one.channel, one.payload["order"]) for one in taken} == {("ada", "recorder", 17)}


def test_who_cannot_be_reached_is_not_tried(service: NotificationService, recorder: Recorder) -> None:
    receipt = service.notify(user_id="nobody", title="plain", channels=["recorder"])
    (delivery,) = service.wait(receipt.id, PATIENCE_S).deliveries
    assert (delivery.outcome, delivery.reason, delivery.attempts) == ("suppressed", "no_contact", 0)


def test_many_are_taken_each_once(service: NotificationService, recorder: Recorder) -> None:
    count = 3_000
    receipt = service.batch_notify(
        {"user_id": f"user-{at % 100}", "title": f"{at}", "category": "marketing", "channels": ["recorder"]}
        for at in range(count)
    )
    wait_until(lambda: service.metrics()["pending"] == 0, PATIENCE_S, "nothing is pending")
    taken = [one.notification_id for one in recorder.taken if one.category == "marketing"]
    assert sorted(taken) == sorted(map(str, receipt.ids))


def test_a_plain_function_runs_in_threads(service: NotificationService) -> None:
    channel = Blocking(parties=8)
    with service.register_channel("blocking", channel, concurrency=8):
        receipt = service.batch_notify({"user_id": f"{at}", "title": "a", "channels": ["blocking"]} for at in range(16))
        for id in receipt.ids:
            assert service.wait(str(id), PATIENCE_S).outcomes == {"blocking": "delivered"}
    assert len(channel.taken) == 16


def test_without_its_object_deliveries_wait(service: NotificationService) -> None:
    channel = Recorder()
    with service.register_channel("coming", channel):
        pass
    receipt = service.notify(user_id="ada", title="plain", channels=["coming"])
    (delivery,) = service.status(receipt.id).deliveries
    assert (delivery.outcome, delivery.reason, channel.taken) == ("pending", "no_worker", [])
    with service.register_channel("coming", channel):
        assert service.wait(receipt.id, PATIENCE_S).outcomes == {"coming": "delivered"}


def test_what_is_under_way_is_waited_for(service: NotificationService) -> None:
    class Slow(Recorder):
        def __init__(self) -> None:
            super().__init__()
            self.begun, self.goes_on = threading.Event(), threading.Event()

        def send(self, delivery: Delivery) -> None:  # type: ignore[override]  # a channel's is either
            self.taken.append(delivery)
            self.begun.set()
            self.goes_on.wait(PATIENCE_S)

    channel = Slow()
    registration = service.register_channel("slow", channel, concurrency=1)
    first = service.notify(user_id="ada", title="first", channels=["slow"])
    second = service.notify(user_id="ada", title="second", channels=["slow"])
    assert channel.begun.wait(PATIENCE_S)
    detaching = threading.Thread(target=registration.detach)
    detaching.start()
    channel.goes_on.set()
    detaching.join(PATIENCE_S)
    assert service.status(first.id).outcomes == {"slow": "delivered"}
    (delivery,) = service.status(second.id).deliveries
    if delivery.outcome != "delivered":  # it was not begun
        assert (delivery.outcome, delivery.attempts, len(channel.taken)) == ("pending", 0, 1)


def test_a_killed_dispatcher_is_attached_to_again(service: NotificationService) -> None:
    channel = Recorder()
    with service.register_channel("again", channel):
        assert isinstance(service._host, Embedded)
        process = service._host._keeper._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        receipt = service.notify(user_id="ada", title="plain", channels=["again"])
        assert service.wait(receipt.id, PATIENCE_S).outcomes == {"again": "delivered"}


def test_a_channel_is_kept_over_restarts(tmp_path: Path) -> None:
    with NotificationService(tmp_path, shards=1) as service:
        with service.register_channel("pager", Recorder(), concurrency=3):
            pass
        receipt = service.notify(user_id="ada", title="plain", channels=["pager"])
    with NotificationService(tmp_path) as service:
        assert service.status(receipt.id).outcomes == {"pager": "pending"}
        channel = Recorder()
        service.register_channel("pager", channel, concurrency=3)
        assert service.wait(receipt.id, PATIENCE_S).outcomes == {"pager": "delivered"}


def test_another_program_attaches_by_the_endpoint(service: NotificationService, recorder: Recorder) -> None:
    other = Recorder()
    with (
        NotificationService(submit=service.submit_endpoint) as remote,
        remote.register_channel("recorder", other, concurrency=2),
    ):
        with pytest.raises(ValueError, match=r"timeout: to be set in \[channels\.recorder\]"):
            remote.register_channel("recorder", other, timeout="1s")
        end = time.monotonic() + PATIENCE_S
        while not other.taken and time.monotonic() < end:  # both share what there is
            receipt = remote.notify(user_id="ada", title="plain", channels=["recorder"])
            assert remote.wait(receipt.id, PATIENCE_S).outcomes == {"recorder": "delivered"}
    assert other.taken


def test_a_class_is_loaded_by_the_shards(service: NotificationService, directory: Path) -> None:
    file = directory / "logbook"
    registration = service.register_channel(
        "logbook", "tests.support.plugins.odd_channels:Logbook", file=str(file), concurrency=2
    )
    receipt = service.notify(user_id="ada", title="in the book", channels=["logbook"])
    assert service.wait(receipt.id, PATIENCE_S).outcomes == {"logbook": "delivered"}
    (line,) = file.read_bytes().splitlines()
    assert msgspec.json.decode(line)["title"] == "in the book"
    registration.detach()


def test_a_class_that_cannot_be_is_told_and_not_kept(service: NotificationService, directory: Path) -> None:
    with pytest.raises(RequestError, match="no class Nothing"):
        service.register_channel("wrong", "tests.support.plugins.odd_channels:Nothing")
    kept: dict[str, Any] = msgspec.json.decode((directory / "data" / "embedded-channels.json").read_bytes())
    assert "wrong" not in kept
    assert service.notify(user_id="ada", title="goes on").id


def test_what_is_configured_is_not_registered_over(tmp_path: Path) -> None:
    config = {"channels": {"sms": {"provider": "simulated"}}}
    with NotificationService(tmp_path, config=config, shards=1) as service:
        with pytest.raises(ValueError, match=r"\[channels\.sms\] is in the configuration already"):
            service.register_channel("sms", "tests.support.plugins.odd_channels:Logbook", file="x")
        with pytest.raises(RequestError, match="has its provider already"):
            service.register_channel("sms", Recorder())


BLOCKED = """
import sys, threading
from dispatcher import NotificationService

class Blocked:
    name = "blocked"
    started = threading.Event()

    def supports_recipient(self, recipient):
        return True

    def send(self, delivery):
        self.started.set()
        threading.Event().wait()

service = NotificationService(submit=sys.argv[1])
service.register_channel("blocked", Blocked())
service.notify(user_id="ada", title="a", channels=["blocked"])
Blocked.started.wait()
"""


def test_a_send_that_never_returns_lets_the_program_end(service: NotificationService) -> None:
    with service.register_channel("blocked", Recorder()):
        pass
    command = [sys.executable, "-c", BLOCKED, service.submit_endpoint]
    assert subprocess.run(command, cwd=ROOT, timeout=PATIENCE_S, check=False).returncode == 0
