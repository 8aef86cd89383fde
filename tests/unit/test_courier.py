"""The thread in which channels work: what it hands back, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from select import select
from typing import Any

import pytest

from shards import courier as module
from shards.channels.base import Recipient, SendError, Sent
from shards.contacts import Contacts
from shards.courier import AsyncSender, Courier
from shards.frames import one
from shards.parcel import Parcel
from shards.providers import Held, Outcome
from shards.sending import Advice
from shards.settings import ChannelSettings, ProviderSettings
from shards.wire.notification import Notification
from tests.support.scripted import Scripted
from tests.support.service import wait_until
from tests.unit.test_gates import entry

Start = Callable[..., Courier]


def parcel(template: str | None = None) -> Parcel:
    said = Notification(user_id="u", title="hello", template=template)
    return Parcel(entry(1), said, Recipient("u"), "1", "1-pager", 1, 1, 0, None, None, False)


def render(*_: Any) -> Mapping[str, str]:
    raise KeyError("a bug")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    made: list[Courier] = []

    def courier(kind: str, channel: str = "pager", **more: Any) -> Courier:
        provider = ProviderSettings("", f"tests.support.scripted:{kind}", {"label": "a", **more})
        made.append(Courier({channel: ChannelSettings((provider,))}, {}, render))
        return made[-1]

    yield courier
    for courier_made in made:
        courier_made.close()


def ended(courier: Courier, count: int = 1) -> list[Outcome]:
    found: list[Outcome] = []

    def all_of_them() -> bool:
        found.extend(outcome for _, outcome in courier.collect("pager"))
        return len(found) == count

    wait_until(all_of_them)
    return found


@pytest.mark.parametrize("kind", ["Scripted", "Batched"])
def test_an_attempt_ends_whatever_goes_wrong_before_it(start: Start, kind: str) -> None:
    courier = start(kind)
    courier.send("pager", [parcel("a-template"), parcel()])
    failed, sent = sorted(ended(courier, 2), key=lambda outcome: isinstance(outcome, Sent))
    assert isinstance(failed, SendError)
    assert (failed.error_class, failed.message) == ("transient", "KeyError: 'a bug'")
    assert sent == Sent("taken")


def test_it_is_readable_once_for_what_has_ended(start: Start) -> None:
    courier = start("Scripted")
    courier.send("pager", [parcel(), parcel()])
    assert select([courier], [], [], 10)[0] == [courier]
    courier.hear()
    assert select([courier], [], [], 0)[0] == []
    assert ended(courier, 2) == [Sent("taken")] * 2
    assert not courier.has_ended("pager")


def test_a_contact_that_is_bad_is_the_one_that_was_tried(start: Start) -> None:
    courier = start("Scripted", channel="email", answers=["bad_address"])
    tried = Recipient("u", Contacts(email="ann@example.org"))
    sender = AsyncSender("email", courier, lambda _: parcel()._replace(recipient=tried))
    sender.start([one(entry(1))], 0.0)
    wait_until(lambda: sender.next_due() is not None)
    ((_, error_class, _, advice),) = sender.collect(0.0).failed
    assert (error_class, advice) == ("bad_address", Advice(bad=("ann@example.org",)))


def test_a_thread_that_is_held_up_keeps_what_it_writes_to(start: Start) -> None:
    entered, release = threading.Event(), threading.Event()

    def holds_up(*_: Any) -> Mapping[str, Any]:
        entered.set()
        release.wait(60)
        return {}

    courier = start("Scripted")
    courier.render = holds_up
    try:
        courier.send("pager", [parcel("a-template")])
        assert entered.wait(60)
        courier.close()
        os.fstat(courier.fileno())  # else it may be that of another file by now
    finally:
        release.set()
    wait_until(lambda: all(thread.name != "courier" for thread in threading.enumerate()))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(courier.fileno())


DIES = """
import threading
from concurrent.futures import ThreadPoolExecutor
from shards import worker

class Dies:
    has_suspects, forgotten = False, ()
    def __init__(self, *_): pass
    def run(self): raise RuntimeError("a bug")

began = threading.Event()
ThreadPoolExecutor().submit(lambda: began.set() or threading.Event().wait())
began.wait()
worker.begin_child = lambda _: (None, b"")
worker.msgspec.json.decode = lambda *_, **__: None
worker.Worker = Dies
worker.main()
"""


def test_a_process_that_dies_does_not_wait_for_plug_ins_that_hang() -> None:
    found = subprocess.run([sys.executable, "-c", DIES], capture_output=True, timeout=60, check=False)
    assert (found.returncode, b"a bug" in found.stderr) == (1, True)


def scripted(label: str, *answers: str) -> ChannelSettings:
    options = {"label": label, "answers": answers}
    return ChannelSettings((ProviderSettings("", "tests.support.scripted:Scripted", options),))


@pytest.fixture
def reloaded() -> Iterator[Courier]:
    """Of two channels."""
    courier = Courier({"pager": scripted("pager", "ok"), "bell": scripted("bell", "ok")}, {}, render)
    yield courier
    courier.close()


def test_what_a_reload_replaces_is_closed(reloaded: Courier) -> None:
    Scripted.closed.clear()
    for _ in range(3):
        reloaded.reopen({"pager": scripted("pager", "ok"), "bell": scripted("bell", "ok")}, {})
    wait_until(lambda: sorted(Scripted.closed) == ["bell"] * 3 + ["pager"] * 3)


def test_what_old_credentials_refuse_is_tried_with_the_new_ones(reloaded: Courier) -> None:
    """The mail server took its time: its answer comes after the reload, and must not pause what is mended."""
    reloaded.reopen({"pager": scripted("pager", "misconfigured"), "bell": scripted("bell", "ok")}, {})
    reloaded.send("pager", [parcel()])
    wait_until(lambda: reloaded.has_ended("pager"))
    reloaded.reopen({"pager": scripted("pager", "misconfigured"), "bell": scripted("bell", "ok")}, {})
    assert ended(reloaded) == [Held(0.0)]
    reloaded.send("pager", [parcel()])
    (again,) = ended(reloaded)
    assert isinstance(again, SendError)
