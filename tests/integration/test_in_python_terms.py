"""What one expects of a notification service, in terms of the Python API: real processes, desktop and web server.

Each test is short; the details have tests of their own.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dispatcher import (
    Delivery,
    DeliveryTracker,
    DispatcherError,
    InboxItem,
    Notification,
    NotificationQueue,
    NotificationService,
    Priority,
    Recipient,
    RejectedError,
    RetryPolicy,
    SendError,
    ShutdownError,
    Status,
    TemplateEngine,
    TemplateError,
)
from tests.support.desktop import Desktop
from tests.support.endpoint import Endpoint
from tests.support.service import wait_until

LONG_S = 60.0
RETRY_S = 0.3
CLOCKS_S = 0.01  # by which two processes may differ
RETRIES = 2
OWN = {"provider": "attached", "concurrency": 1, "timeout": "60s"}
NAMES = ("low", "normal", "high", "critical")


class Scripted:
    """A channel of this process: it keeps what it is given, and does what it is told to."""

    def __init__(self, name: str, attempts: int = 1_000) -> None:
        self.name = name
        self.sent: list[Delivery] = []
        self.times: list[float] = []
        self.errors: list[SendError] = []  # one for each attempt; then all succeed
        self.goes = threading.Semaphore(attempts)  # which further attempts wait for

    def wait_for_attempt(self, number: int) -> None:
        wait_until(lambda: len(self.sent) >= number, LONG_S)

    def supports_recipient(self, recipient: Recipient) -> bool:
        return True

    def send(self, delivery: Delivery) -> None:
        self.times.append(time.time())
        self.sent.append(delivery)
        assert self.goes.acquire(timeout=LONG_S)
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture(scope="module")
def desktop() -> Iterator[Desktop]:
    with Desktop() as shown:
        yield shown


@pytest.fixture(scope="module")
def service(desktop: Desktop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotificationService]:
    config = {
        "retry": {"max_retries": RETRIES, "base": f"{RETRY_S}s", "factor": 1.0, "jitter": "none"},
        "channels": {
            "system": {"provider": "desktop", "bus": desktop.address},
            "webhook": {"provider": "webhook", "allow_private": ["127.0.0.1/32"], "ports": []},
            "ordered": OWN,
            "urgent": OWN,
            "tracked": OWN,
            "failing": OWN,
        },
    }
    directory = tmp_path_factory.mktemp("service")
    with NotificationService(directory, config=config, shards=2, durability="process") as running:
        yield running


def outcome(service: NotificationService, id: str) -> str:
    (delivery,) = service.status(id).deliveries
    return delivery.outcome


# --- the queue --------------------------------------------------------------------------------------------------------


def test_queue_order() -> None:
    queue = NotificationQueue[str]()
    for item in "abc":
        queue.push(item, Priority.NORMAL, now=0.0)
    assert [queue.pop(now=1.0) for _ in range(4)] == ["a", "b", "c", None]


def test_critical_before_high_before_normal_before_low() -> None:
    queue = NotificationQueue[Priority]()
    for priority in Priority:
        queue.push(priority, priority, now=0.0)
    assert queue.pop_many(4, now=1.0) == [Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW]


def test_the_service_keeps_the_order(service: NotificationService) -> None:
    service.batch_notify(
        Notification(user_id="in order", title=str(number), channels=["ordered"]) for number in range(50)
    )
    channel = Scripted("ordered")
    service.register_channel("ordered", channel)
    channel.wait_for_attempt(50)
    assert [int(delivery.title) for delivery in channel.sent] == list(range(50))


def test_the_service_sends_what_is_urgent_first(service: NotificationService) -> None:
    channel = Scripted("urgent")
    for name in NAMES:
        service.notify(user_id="urgent", title=name, priority=name, channels=["urgent"])
    service.register_channel("urgent", channel)  # which they have waited for
    channel.wait_for_attempt(4)
    assert [delivery.title for delivery in channel.sent] == ["critical", "high", "normal", "low"]


# --- in-app -----------------------------------------------------------------------------------------------------------


def test_in_app_delivery(service: NotificationService) -> None:
    receipt = service.notify(user_id="in app", title="Hello", body="Ada", type="success", payload={"order": 17})
    assert service.wait(receipt.id, LONG_S).outcomes == {"inapp": "delivered"}
    (item,) = service.inbox("in app")
    assert (item.id, item.title, item.body, item.type, item.payload) == (
        receipt.id, "Hello", "Ada", "success", {"order": 17},
    )  # fmt: skip


def test_in_app_callback(service: NotificationService) -> None:
    called: list[InboxItem] = []
    with service.on_inapp(called.append, "called") as subscription:
        for number in range(20):
            service.notify(user_id="called", title=str(number))
        wait_until(lambda: len(called) == 20, LONG_S)
    assert [(item.cursor, item.title) for item in called] == [(number + 1, str(number)) for number in range(20)]
    assert subscription.cursor == 20


# --- templates --------------------------------------------------------------------------------------------------------

ORDER = {"title": "Order {{ order }}", "text": "Hello {{ name }}"}


def test_template_rendering() -> None:
    engine = TemplateEngine({"order": ORDER})
    parts = engine.render("order", "push", None, {"order": 17, "name": "Ada"})
    assert parts == {"title": "Order 17", "body": "Hello Ada"}


def test_template_error() -> None:
    engine = TemplateEngine({"order": ORDER})
    with pytest.raises(TemplateError, match="template 'order', text, line 1: 'name' is undefined"):
        engine.render("order", "sms", None, {"order": 17})


def test_the_service_renders_templates(service: NotificationService) -> None:
    service.register_template("order", ORDER)
    receipt = service.notify(user_id="reader", template="order", payload={"order": 17, "name": "Ada"})
    service.wait(receipt.id, LONG_S)
    assert [(item.title, item.body) for item in service.inbox("reader")] == [("Order 17", "Hello Ada")]


def test_the_service_says_what_is_wrong_with_a_template(service: NotificationService) -> None:
    service.register_template("wrong", ORDER)
    (delivery,) = service.wait(
        service.notify(user_id="x", template="wrong", payload={"order": 1}).id, LONG_S
    ).deliveries
    assert (delivery.outcome, delivery.reason) == ("dead", "template")
    assert "text, line 1: 'name' is undefined" in (delivery.last_error or "")
    with pytest.raises(DispatcherError, match="template 'broken', text, line 1"):
        service.register_template("broken", {"text": "Hello {{ name"})
    with pytest.raises(RejectedError, match="unknown template 'oder'; did you mean order"):
        service.notify(user_id="x", template="oder")


# --- tracking ---------------------------------------------------------------------------------------------------------


def test_tracking() -> None:
    tracker = DeliveryTracker(RetryPolicy(max_retries=1, base=10.0, jitter="none"))
    tracker.plan("a", ["email", "sms"], now=0.0)
    assert tracker.status("a").outcomes == {"email": "pending", "sms": "pending"}
    tracker.delivered("a", "email", now=1.0)
    tracker.failed("a", "sms", now=1.0, message="no answer")
    assert tracker.status("a").outcomes == {"email": "delivered", "sms": "retrying"}
    tracker.failed("a", "sms", now=11.0, message="no answer")
    assert tracker.status("a").outcomes == {"email": "delivered", "sms": "dead"}
    assert tracker.status("a").final


def test_no_retry_before_its_time_and_a_maximum_of_retries() -> None:
    policy = RetryPolicy(max_retries=2, base=10.0, factor=2.0, jitter="none")
    tracker = DeliveryTracker(policy)
    tracker.plan("a", ["sms"], now=0.0)
    assert tracker.failed("a", "sms", now=0.0) == "retrying"
    assert tracker.due(now=9.999) == []
    assert tracker.due(now=10.0) == [("a", "sms")]
    assert tracker.failed("a", "sms", now=10.0) == "retrying"
    assert tracker.due(now=29.999) == []
    assert tracker.due(now=30.0) == [("a", "sms")]
    assert tracker.failed("a", "sms", now=30.0) == "dead"
    assert tracker.next_due() is None


def test_the_service_tracks_pending_retrying_and_sent(service: NotificationService) -> None:
    receipt = service.notify(user_id="tracked", title="Hello", channels=["tracked"])
    assert outcome(service, receipt.id) == "pending"  # nobody is there to send it

    channel = Scripted("tracked", attempts=1)
    channel.errors = [SendError("transient", "no answer")]
    service.register_channel("tracked", channel)
    retrying = wait_until(lambda: of(service.status(receipt.id), "retrying"), LONG_S)
    assert (retrying.deliveries[0].attempts, retrying.deliveries[0].last_error) == (1, "no answer")

    channel.goes.release()
    (delivery,) = service.wait(receipt.id, LONG_S).deliveries
    assert (delivery.outcome, delivery.attempts) == ("delivered", 2)


def of(status: Status, outcome: str) -> Status | None:
    return status if status.deliveries[0].outcome == outcome else None


def test_the_service_gives_up_after_the_last_retry_and_makes_none_before_its_time(service: NotificationService) -> None:
    channel = Scripted("failing", attempts=1)
    channel.errors = [SendError("transient", f"no answer to {attempt}") for attempt in range(1, 10)]
    service.register_channel("failing", channel)
    receipt = service.notify(user_id="failing", title="Hello", channels=["failing"])
    for retry in range(1, 1 + RETRIES):
        channel.wait_for_attempt(1 + retry)
        (delivery,) = service.status(receipt.id).deliveries
        assert (delivery.outcome, delivery.attempts) == ("retrying", retry)
        assert channel.times[retry] >= (delivery.next_attempt_at or math.inf) / 1000 - CLOCKS_S
        channel.goes.release()

    (delivery,) = service.wait(receipt.id, LONG_S).deliveries
    assert (delivery.outcome, delivery.reason, delivery.attempts) == ("dead", "max_retries", 1 + RETRIES)
    assert delivery.last_error == f"no answer to {1 + RETRIES}"
    assert [sent.attempt for sent in channel.sent] == list(range(1, 2 + RETRIES))
    letters = wait_until(lambda: list(service.dead_letters(channel="failing")), LONG_S)
    assert [(letter.id, letter.reason) for letter in letters] == [(receipt.id, "max_retries")]


# --- the service ------------------------------------------------------------------------------------------------------


def test_a_batch(service: NotificationService) -> None:
    receipt = service.batch_notify(
        {"user_id": f"batch-{number % 7}", "title": "Hello", "category": "none" if number == 500 else "system"}
        for number in range(1_000)
    )
    assert (receipt.accepted, receipt.duplicates, len(receipt.ids)) == (999, 0, 1_000)
    assert [(one.index, one.error.code) for one in receipt.rejected] == [(500, "unknown_category")]
    wait_until(lambda: sum(len(list(service.inbox(f"batch-{user}"))) for user in range(7)) == 999, LONG_S)


def test_a_broadcast(service: NotificationService) -> None:
    users = [f"subscriber-{number}" for number in range(25)]
    for user in users:
        service.subscribe("releases", user)
    status = service.wait(service.notify_all(topic="releases", title="Version 2").id, LONG_S)
    assert status.broadcast
    assert (status.broadcast["state"], status.broadcast["planned"]) == ("done", 25)
    listed = service.notify_all(recipients=users, title="To a list")
    for id in listed.ids:
        assert id is not None
        service.wait(id, LONG_S)
    assert all([item.title for item in service.inbox(user)] == ["Version 2", "To a list"] for user in users)


def test_a_hundred_threads_at_once(service: NotificationService) -> None:
    together = threading.Barrier(100)

    def notify(number: int) -> str:
        together.wait(LONG_S)
        return service.notify(user_id=f"thread-{number % 10}", title=str(number)).id

    with ThreadPoolExecutor(100) as pool:
        ids = list(pool.map(notify, range(100)))
    assert len(set(ids)) == 100
    for id in ids:
        assert service.wait(id, LONG_S).outcomes == {"inapp": "delivered"}
    titles = [item.title for user in range(10) for item in service.inbox(f"thread-{user}")]
    assert sorted(titles, key=lambda title: int(title or "")) == [str(number) for number in range(100)]
    assert service.metrics()["conserved"]


def test_shutdown_refuses_new_work(tmp_path: Path) -> None:
    service = NotificationService(tmp_path, shards=1, durability="process")
    receipt = service.notify(user_id="ada", title="before")
    service.shutdown(timeout=LONG_S)
    for refused in (
        lambda: service.notify(user_id="ada", title="after"),
        lambda: service.batch_notify([{"user_id": "ada", "title": "after"}]),
        lambda: service.status(receipt.id),
    ):
        with pytest.raises(ShutdownError):
            refused()
    with NotificationService(tmp_path, shards=1, durability="process") as again:
        assert [item.title for item in again.inbox("ada")] == ["before"]


def test_desktop_title_and_body(service: NotificationService, desktop: Desktop) -> None:
    receipt = service.notify(user_id="ada", title="Backup done", body="3 files changed", channels=["system"])
    assert service.wait(receipt.id, LONG_S).outcomes == {"system": "delivered"}
    assert [(item["summary"], item["body"]) for item in desktop.shown()] == [("Backup done", "3 files changed")]


def test_webhook(service: NotificationService) -> None:
    with Endpoint() as endpoint:
        service.put_user("shop", {"contacts": {"webhook": {"url": endpoint.url}}})
        receipt = service.notify(user_id="shop", title="Order 17", payload={"order": 17}, channels=["webhook"])
        assert service.wait(receipt.id, LONG_S).outcomes == {"webhook": "delivered"}
        (request,) = endpoint.requests
    document = json.loads(request.body)
    assert (document["data"]["title"], document["data"]["payload"]) == ("Order 17", {"order": 17})
    assert request.headers["webhook-id"] == f"{receipt.id}-webhook"
