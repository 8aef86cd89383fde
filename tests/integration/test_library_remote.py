"""``NotificationService`` with a dispatcher that runs elsewhere."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dispatcher import (
    AlreadyFinalError,
    ClientKeys,
    NotFoundError,
    Notification,
    NotificationService,
    Priority,
    RejectedError,
    RequestError,
    ShutdownError,
    UnavailableError,
)
from dispatcher.api.batch import NOTIFICATIONS_UNDER_WAY
from dispatcher.api.frames import FRAME_ITEMS
from dispatcher.curve import read_pair, read_public
from shards.wire.requests import MESSAGE_BYTES_HARD_MAX
from tests.support.keys import SERVER, KeyRing
from tests.support.service import RunningDispatcher, free_endpoints, wait_until

PATIENCE_S = 60.0
CONFIG = """
[dispatcher]
[categories.news]
channels = ["inapp"]
content_key = "{user_id}:{title}"
[templates]
allow_template_put = true
[retry]
max_retries = 0
[channels.sms]
provider = "simulated"
failure_rate = 1.0
"""


@pytest.fixture(scope="module")
def dispatcher() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG) as running:
        yield running


@pytest.fixture(scope="module")
def service(dispatcher: RunningDispatcher) -> Iterator[NotificationService]:
    with connected(dispatcher) as one:
        yield one


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


def connected(dispatcher: RunningDispatcher, **options: Any) -> NotificationService:
    return NotificationService(submit=dispatcher.submit, stream=dispatcher.stream, **options)


def titles(service: NotificationService, user: str) -> list[str | None]:
    return [item.title for item in service.inbox(user)]


# --- one ----------------------------------------------------------------------------------------------------------


def test_fields_a_mapping_and_a_notification_say_the_same(service: NotificationService, user: str) -> None:
    receipts = [
        service.notify(user_id=user, title="a", priority=Priority.HIGH),
        service.notify({"user_id": user, "title": "b", "priority": "high"}),
        service.notify(Notification(user_id=user, title="c", priority="high")),
        service.submit(user_id=user, title="d", priority=2).result(),
    ]
    for receipt in receipts:
        service.wait(receipt.id, PATIENCE_S)
    items = list(service.inbox(user))
    assert [item.title for item in items] == ["a", "b", "c", "d"]
    assert {item.priority for item in items} == {"high"}
    assert [receipt.ids for receipt in receipts] == [[item.id] for item in items]


def test_a_key_tells_duplicates_and_mismatches(service: NotificationService, user: str) -> None:
    first = service.notify(user_id=user, title="a", idempotency_key="k")
    again = service.notify(user_id=user, title="a", idempotency_key="k")
    other = service.notify(user_id=user, title="b", id="k")
    assert (first.duplicate, again.duplicate, again.mismatch, other.duplicate, other.mismatch) == (
        False, True, False, True, True,
    )  # fmt: skip
    assert first.id == again.id == other.id
    assert service.status(user_id=user, idempotency_key="k").id == first.id


def test_without_a_key_the_same_is_said_twice(service: NotificationService, user: str) -> None:
    notification = Notification(user_id=user, title="a")
    document = {"user_id": user, "title": "a"}
    ids = {service.notify(notification).id, service.notify(notification).id}
    ids |= {service.notify(document).id, service.notify(document).id}
    assert len(ids) == 4
    assert notification == Notification(user_id=user, title="a")
    assert document == {"user_id": user, "title": "a"}


def test_a_key_that_was_made_gives_way_to_one_of_content(service: NotificationService, user: str) -> None:
    receipts = [service.notify(user_id=user, category="news", title=title) for title in ("a", "b", "a")]
    assert [receipt.duplicate for receipt in receipts] == [False, False, True]
    batch = service.batch_notify({"user_id": user, "category": "news", "title": title} for title in ("b", "c"))
    assert (batch.accepted, [one.index for one in batch.duplicate]) == (1, [0])


def test_what_is_not_acceptable_raises(service: NotificationService, user: str) -> None:
    with pytest.raises(RejectedError, match="did you mean title") as caught:
        service.notify(user_id=user, titel="a")
    assert (caught.value.code, caught.value.field) == ("unknown_key", "titel")
    with pytest.raises(RejectedError, match="cannot be sent"):
        service.notify(user_id=user, title="a", payload={"it": object()})
    with pytest.raises(RejectedError, match="at most 1048576 per message"):
        service.notify(user_id=user, body="x" * 1_100_000)
    with pytest.raises(TypeError, match="not both: title"):
        service.notify({"user_id": user}, title="a")


def test_what_no_dispatcher_takes_is_not_sent(service: NotificationService, user: str) -> None:
    """ZeroMQ would close the connection, and all that is on it would be sent again."""
    huge = {"user_id": user, "body": "x" * MESSAGE_BYTES_HARD_MAX}
    with pytest.raises(RejectedError, match="larger than any dispatcher takes"):
        service.notify(huge)
    receipt = service.batch_notify([{"user_id": user, "title": "a"}, huge, {"user_id": user, "title": "b"}])
    assert receipt.accepted == 2
    assert [(one.index, one.error.code) for one in receipt.rejected] == [(1, "too_large")]
    with pytest.raises(RequestError, match="too_large"):
        service.put_user(user, {"attributes": {"all": "x" * MESSAGE_BYTES_HARD_MAX}})


def test_errors_pass_between_processes(service: NotificationService) -> None:
    with pytest.raises(NotFoundError) as caught:
        service.status("nothing")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy), copy.field) == (NotFoundError, str(caught.value), "id")


def test_recipients_have_an_id_each(service: NotificationService, user: str) -> None:
    receipt = service.notify(recipients=[user, f"{user}-2", ""], title="a")
    assert receipt.ids[2] is None
    assert [(one.index, one.error.field) for one in receipt.rejected] == [(2, "user_id")]
    assert receipt.id == receipt.ids[0]
    assert service.wait(str(receipt.ids[1]), PATIENCE_S).outcomes == {"inapp": "delivered"}


def test_times_are_given_as_times(service: NotificationService, user: str) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    receipt = service.notify(user_id=user, title="a", send_at=soon)
    (delivery,) = service.status(receipt.id).deliveries
    assert (delivery.outcome, delivery.next_attempt_at) == ("deferred", round(soon.timestamp() * 1000))
    assert service.cancel(receipt.id) == 1
    with pytest.raises(AlreadyFinalError):
        service.cancel(receipt.id)
    with pytest.raises(RejectedError, match="send_at has no time zone"):
        service.notify(user_id=user, title="a", send_at=datetime.now())  # noqa: DTZ005 - that is what it is about


def test_a_payload_is_what_json_can_say(service: NotificationService, user: str) -> None:
    uuid = UUID(int=17)
    payload = {"set": {1}, "tuple": (1, 2), "sum": Decimal("9.90"), "uuid": uuid, "day": datetime(2026, 1, 31)}  # noqa: DTZ001 - that is what it is about
    receipt = service.notify(user_id=user, title="a", payload=payload)
    service.wait(receipt.id, PATIENCE_S)
    (item,) = service.inbox(user)
    expected = {"set": [1], "tuple": [1, 2], "sum": "9.90", "uuid": str(uuid), "day": "2026-01-31T00:00:00"}
    assert item.payload == expected
    for value in (b"a", datetime.now(UTC)):
        with pytest.raises(RejectedError, match=r"\(payload\)"):
            service.notify(user_id=user, title="a", payload={"it": value})


def test_waiting_has_a_bound(service: NotificationService, user: str) -> None:
    receipt = service.notify(user_id=user, title="a", send_at=datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(TimeoutError, match="inapp is deferred"):
        service.wait(receipt.id, 0.05)


# --- many ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_pulled_as_there_is_room(service: NotificationService, user: str) -> None:
    count = 40_000
    before = service.metrics()["accepted"]
    ahead: list[int] = []

    def source() -> Iterator[Notification]:
        for at in range(count):
            if at % 5_000 == 4_999:
                ahead.append(before + at - service.metrics()["accepted"])
            yield Notification(user_id=f"{user}-{at % 50}", title=f"{at}")

    receipt = service.batch_notify(source())
    assert max(ahead) <= NOTIFICATIONS_UNDER_WAY + FRAME_ITEMS
    assert (receipt.accepted, receipt.duplicates, len(receipt.ids)) == (count, 0, count)
    assert len(set(map(str, receipt.ids))) == count
    receipt.raise_for_rejected()
    expected = [f"{at}" for at in range(7, count, 50)]
    wait_until(lambda: titles(service, f"{user}-7") == expected, PATIENCE_S, "an inbox in the order of the batch")


def test_a_bad_one_spoils_only_itself(service: NotificationService, user: str) -> None:
    good = Notification(user_id=user, title="good", idempotency_key="good")
    batch: list[Any] = [good, {"user_id": user, "titel": "bad"}, 3, {"user_id": user, "payload": {"a": object()}}]
    batch += [{"user_id": user, "body": "x" * 1_100_000}, {"user_id": user, "title": "too", "id": "good"}, good]
    receipt = service.batch_notify(batch)
    assert [(one.index, one.error.code) for one in receipt.rejected] == [
        (1, "unknown_key"),
        (2, "bad_value"),
        (3, "bad_value"),
        (4, "too_large"),
    ]
    assert (receipt.accepted, receipt.duplicates) == (1, 2)
    assert [(one.index, one.mismatch) for one in receipt.duplicate] == [(5, True), (6, False)]
    assert [id is None for id in receipt.ids] == [False, True, True, True, True, False, False]
    with pytest.raises(RejectedError, match="notification 1 of 7, 4 rejected"):
        receipt.raise_for_rejected()
    wait_until(lambda: titles(service, user) == ["good"], PATIENCE_S, "the good one")


def test_large_ones_go_in_frames_that_the_dispatcher_takes(service: NotificationService, user: str) -> None:
    receipt = service.batch_notify({"user_id": user, "title": f"{at}", "body": "x" * 400_000} for at in range(8))
    assert (receipt.accepted, receipt.rejected) == (8, [])
    futures = [service.submit(user_id=f"{user}-2", title=f"{at}", body="x" * 400_000) for at in range(8)]
    assert len({future.result().id for future in futures}) == 8


def test_nothing_is_a_batch_as_well(service: NotificationService) -> None:
    receipt = service.batch_notify([])
    assert (receipt.accepted, receipt.ids) == (0, [])


def test_the_source_s_error_is_raised_and_nothing_is_left_behind(service: NotificationService, user: str) -> None:
    def source() -> Iterator[dict[str, Any]]:
        for at in range(3_000):
            yield {"user_id": user, "title": f"{at}"}
        raise KeyError("row 3000")

    with pytest.raises(KeyError, match="row 3000"):
        service.batch_notify(source())
    assert service.notify(user_id=user, title="goes on").id


def test_everybody_is_told(service: NotificationService, user: str) -> None:
    for name in ("ada", "bob"):
        service.subscribe(user, f"{user}-{name}")
    receipt = service.notify_all(topic=user, title="news")
    status = service.wait(receipt.id, PATIENCE_S)
    assert status.broadcast is not None
    assert (status.broadcast["planned"], titles(service, f"{user}-ada")) == (2, ["news"])
    service.unsubscribe(user, f"{user}-bob")
    many = [f"{user}-{at}" for at in range(5_000)]
    told = service.notify_all(Notification(title="to many"), recipients=iter(many))
    assert (len(told.ids), len(set(told.ids)), told.rejected) == (5_000, 5_000, [])
    assert service.wait(str(told.ids[-1]), PATIENCE_S).final
    assert titles(service, many[-1]) == ["to many"]


def test_a_hundred_threads_share_frames(service: NotificationService, user: str) -> None:
    before = service.metrics()["accepted"]
    start = threading.Barrier(100)

    def work(number: int) -> list[str]:
        start.wait()
        return [service.notify(user_id=f"{user}-{number % 10}", title=f"{number}-{at}").id for at in range(10)]

    with ThreadPoolExecutor(100) as threads:
        ids = [id for found in threads.map(work, range(100)) for id in found]
    assert len(set(ids)) == 1_000
    assert service.metrics()["accepted"] == before + 1_000


def test_what_is_held_is_bounded(dispatcher: RunningDispatcher, user: str) -> None:
    with connected(dispatcher, max_pending=10) as service:
        engine = service._host.engine
        assert engine.reserve(10, 100)
        submitted: list[Any] = []
        thread = threading.Thread(target=lambda: submitted.append(service.submit(user_id=user, title="a")))
        thread.start()
        wait_until(lambda: engine._for_room, PATIENCE_S, "somebody who waits for room")
        assert not submitted
        engine.release(10, 100)
        thread.join()
        assert submitted[0].result().id
        receipt = service.batch_notify({"user_id": user, "title": f"{at}"} for at in range(1_000))
        assert receipt.accepted == 1_000


# --- everything else ----------------------------------------------------------------------------------------------


def test_users_and_their_inboxes(service: NotificationService, user: str) -> None:
    document = {"contacts": {"email": "ada@example.org"}, "preferences": {"categories": {"marketing": False}}}
    assert service.put_user(user, document) == document
    assert service.get_user(user) == document
    receipt = service.notify(user_id=user, category="marketing", title="a", channels=["inapp"])
    assert service.wait(receipt.id, PATIENCE_S).outcomes == {"inapp": "suppressed"}
    decisions = service.explain(user_id=user, category="marketing", title="a", channels=["inapp"])
    assert [(one.step, one.result) for one in decisions][-1] == ("outcome", "suppressed")
    assert service.delete_user(user) == document
    with pytest.raises(NotFoundError):
        service.get_user(user)
    ids = [service.notify(user_id=user, title=f"{at}").id for at in range(3)]
    for id in ids:
        service.wait(id, PATIENCE_S)
    assert [item.id for item in service.inbox(user, 2)] == ids[:2]
    assert service.mark(user, ids[:1], "read") == 2
    with pytest.raises(RequestError, match="state is 'unread'; it must be seen, read or archived"):
        service.mark(user, ids, "unread")  # type: ignore[arg-type]  # that is what it is about
    assert [item.state for item in service.inbox(user)] == ["read", "new", "new"]


def test_dead_letters_are_replayed_and_purged(service: NotificationService, user: str) -> None:
    receipt = service.batch_notify({"user_id": user, "title": f"{at}", "channels": ["sms"]} for at in range(7))
    for id in receipt.ids:
        status = service.wait(str(id), PATIENCE_S)
        assert status.outcomes == {"sms": "dead"}

    def letters() -> list[str]:
        return [letter.id for letter in service.dead_letters(user_id=user)]

    wait_until(lambda: sorted(letters()) == sorted(map(str, receipt.ids)), PATIENCE_S, "seven dead letters")
    assert not list(service.dead_letters(user_id=user, since=datetime.now(UTC) + timedelta(hours=1)))
    (first, *_) = service.dead_letters(user_id=user)
    assert (first.channel, first.reason, first.notification["user_id"]) == ("sms", "max_retries", user)
    assert service.replay(user_id=user, limit=2) == 2
    wait_until(lambda: len(letters()) == 7, PATIENCE_S, "they died again")
    assert service.purge(user_id=user) == 7
    wait_until(lambda: not letters(), PATIENCE_S, "none")
    assert service.purge(user_id=user) == 0


def test_templates_are_registered(service: NotificationService, user: str) -> None:
    service.register_template(user, {"title": "Hello {{ name }}"})
    receipt = service.notify(user_id=user, template=user, payload={"name": "Ada"})
    service.wait(receipt.id, PATIENCE_S)
    assert titles(service, user) == ["Hello Ada"]
    with pytest.raises(RequestError, match="line 1"):
        service.register_template(user, {"title": "Hello {{ name"})


def test_what_only_an_embedded_dispatcher_does_is_told(service: NotificationService) -> None:
    with pytest.raises(ValueError, match=r'\[channels\.pager\] class = "mine:Pager"'):
        service.register_channel("pager", "mine:Pager")
    with pytest.raises(RequestError, match="pager"):
        service.register_channel("pager", _Pager())
    with pytest.raises(TypeError, match="it has no send"):
        service.register_channel("pager", object())  # type: ignore[arg-type]  # that is what it is about
    with pytest.raises(TypeError, match="data_dir, shards"):
        NotificationService("data", shards=2, submit="tcp://127.0.0.1:1")
    with pytest.raises(TypeError, match="name its submit endpoint"):
        NotificationService(stream="tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match="is no endpoint"):
        NotificationService(submit="localhost")


class _Pager:
    name = "pager"

    def supports_recipient(self, _recipient: Any) -> bool:
        return True

    async def send(self, _delivery: Any) -> None:
        pass


# --- the connection -----------------------------------------------------------------------------------------------


def test_nobody_there(user: str) -> None:
    (nowhere,) = free_endpoints(1)
    with NotificationService(submit=nowhere, timeout=0.2) as service:
        for call in (
            lambda: service.notify(user_id=user, title="a"),
            lambda: service.batch_notify([{"user_id": user, "title": "a"}]),
            lambda: service.request("ping"),
        ):
            with pytest.raises(UnavailableError, match="is the dispatcher running there") as caught:
                call()
            assert nowhere in str(caught.value)
            assert isinstance(caught.value, TimeoutError)


def test_a_dispatcher_that_comes_later_is_waited_for(user: str) -> None:
    late = RunningDispatcher(shards=1)
    with connected(late) as service:
        future = service.submit(user_id=user, title="early")
        with late:
            assert future.result().duplicate is False
            assert service.request("ping")["shards"] == 1


def test_keys(tmp_path: Path, user: str) -> None:
    ring = KeyRing(tmp_path)
    ring.new("ada")
    ring.new("eve")
    ring.admit("ada")

    def keys(name: str) -> ClientKeys:
        return ClientKeys(read_pair(ring.secret(name)), read_public(ring.public(SERVER)))

    with RunningDispatcher(ring.config, shards=1, keys=ring.new("tests")) as dispatcher:
        with connected(dispatcher, keys=keys("ada")) as service:
            assert service.notify(user_id=user, title="a").id
        for wrong, told in ((keys("eve"), "refuses the keys"), (None, "asks for keys")):
            with (
                connected(dispatcher, keys=wrong, timeout=1.0) as service,
                pytest.raises(UnavailableError, match=told),
            ):
                service.notify(user_id=user, title="a")


def test_a_dispatcher_killed_in_the_middle_of_a_batch() -> None:
    """The call succeeds, nothing is lost, and nothing is in an inbox twice."""
    count, users, kills = 20_000, 20, 2
    told = [f"{at}" for at in range(count)]
    ready = threading.Semaphore(0)

    def source() -> Iterator[Notification]:
        for at, title in enumerate(told):
            if at and at % (count // (kills + 1)) == 0:
                ready.release()
            yield Notification(user_id=f"user-{at % users}", title=title)

    with (
        RunningDispatcher() as dispatcher,
        connected(dispatcher, timeout=PATIENCE_S) as service,
        ThreadPoolExecutor(1) as thread,
    ):
        batch = thread.submit(service.batch_notify, source())
        for _ in range(kills):
            ready.acquire()
            assert dispatcher.process is not None
            os.killpg(dispatcher.process.pid, signal.SIGKILL)
            dispatcher.kill()
            dispatcher.start()
        receipt = batch.result()
        single = service.notify(user_id="user-0", title="after")
        assert (receipt.accepted, receipt.duplicates, receipt.rejected) == (count, 0, [])
        wait_until(lambda: service.metrics()["pending"] == 0, PATIENCE_S, "nothing is pending")
        for number in range(users):
            found = Counter(titles(service, f"user-{number}"))
            expected = told[number::users] + (["after"] if number == 0 else [])
            assert found == Counter(expected)
        assert service.status(single.id).outcomes == {"inapp": "delivered"}
        ids = [service.status(str(id)).final for id in receipt.ids[:: count // 50]]
        assert all(ids)


# --- the end ------------------------------------------------------------------------------------------------------


def test_after_shutdown_everything_is_refused(dispatcher: RunningDispatcher, user: str) -> None:
    service = connected(dispatcher)
    future = service.submit(user_id=user, title="before")
    service.shutdown()
    assert future.result().id
    for call in (
        lambda: service.notify(user_id=user, title="a"),
        lambda: service.submit(user_id=user, title="a"),
        lambda: service.batch_notify([{"user_id": user, "title": "a"}]),
        lambda: service.status("a"),
        service.metrics,
    ):
        with pytest.raises(ShutdownError):
            call()
    service.shutdown()


def test_shutdown_waits_no_longer_than_it_may(user: str) -> None:
    (nowhere,) = free_endpoints(1)
    service = NotificationService(submit=nowhere)
    future = service.submit(user_id=user, title="a")
    waiting = threading.Thread(target=future.exception)
    waiting.start()
    service.shutdown(timeout=0.1)
    waiting.join()
    with pytest.raises(UnavailableError, match="shut down before there was an answer"):
        future.result()


def test_who_waits_for_room_hears_of_the_shutdown(user: str) -> None:
    (nowhere,) = free_endpoints(1)
    service = NotificationService(submit=nowhere, max_pending=1)
    service.submit(user_id=user, title="a")
    caught: list[BaseException] = []

    def waits() -> None:
        try:
            service.submit(user_id=user, title="b")
        except ShutdownError as error:
            caught.append(error)

    thread = threading.Thread(target=waits)
    thread.start()
    wait_until(lambda: service._host.engine._for_room, PATIENCE_S, "somebody who waits for room")
    service.shutdown(timeout=0.0)
    thread.join()
    assert caught


# --- what is easily got wrong -------------------------------------------------------------------------------------


def test_a_limit_of_none_at_all_touches_nothing(dispatcher: RunningDispatcher) -> None:
    with connected(dispatcher) as service:
        for at in range(3):
            receipt = service.notify(user_id="limited", title=f"{at}", channels=["sms"])
            service.wait(receipt.id, PATIENCE_S)

        def there() -> int:
            return len(list(service.dead_letters(user_id="limited")))

        wait_until(lambda: there() == 3, PATIENCE_S, "three dead letters")
        for call in (service.purge, service.replay):
            with pytest.raises(ValueError, match="limit must be 1 or more"):
                call(user_id="limited", limit=0)
        assert there() == 3
        assert [len(list(service.dead_letters(user_id="limited", limit=at))) for at in (0, 2, 9)] == [0, 2, 3]
        assert service.purge(user_id="limited", limit=1) == 1
        wait_until(lambda: there() == 2, PATIENCE_S, "two dead letters")


def test_ids_stay_in_the_order_of_recipients_where_a_part_is_rejected(service: NotificationService) -> None:
    recipients: list[Any] = [f"part-{at}" for at in range(5_001)]
    recipients[2_500] = 17  # that is no user id, and has its part of 2,000 rejected
    receipt = service.notify_all(recipients=recipients, title="a")
    assert [at for at, id in enumerate(receipt.ids) if id is None] == list(range(2_000, 4_000))
    assert [one.index for one in receipt.rejected] == list(range(2_000, 4_000))
    assert len(receipt.ids) == 5_001


def test_who_waits_for_a_status_waits_no_longer_than_asked() -> None:
    with (
        NotificationService(submit=free_endpoints(1)[0], timeout=10 * PATIENCE_S) as service,
        pytest.raises(TimeoutError),
    ):
        service.wait("id", timeout=0.0)


def test_a_batch_holds_no_more_than_may_be_pending(dispatcher: RunningDispatcher, user: str) -> None:
    most = 0

    def pulled() -> Iterator[dict[str, Any]]:
        nonlocal most
        for at in range(200):
            most = max(most, limited._host.engine._pending)
            yield {"user_id": user, "title": f"{at}"}

    with connected(dispatcher, max_pending=7) as limited:
        assert limited.batch_notify(pulled()).accepted == 200
    assert 0 < most <= 7


def test_a_callback_cannot_wait_for_another_call(service: NotificationService, user: str) -> None:
    raised: list[BaseException] = []
    told = threading.Event()
    hold = threading.Event()

    def call(_: object) -> None:
        try:
            service.notify(user_id=user, title="b")
        except RuntimeError as error:
            raised.append(error)
        told.set()

    def block(_: object) -> None:
        hold.wait(PATIENCE_S)  # so that the next callback is added in time

    service.submit(user_id=user, title="a").add_done_callback(block)
    service.submit(user_id=user, title="a").add_done_callback(call)
    hold.set()
    assert told.wait(PATIENCE_S)
    assert "thread of yours" in str(raised[0])
    assert service.notify(user_id=user, title="c").id


def test_a_shutdown_may_wait_for_ever(dispatcher: RunningDispatcher, user: str) -> None:
    service = connected(dispatcher)
    future = service.submit(user_id=user, title="a")
    service.shutdown(float("inf"))
    assert future.result(0).id


def test_a_child_of_a_child_keeps_its_files(service: NotificationService) -> None:
    pid = os.fork()
    if not pid:
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]  # one has the number of what was closed
        inner = os.fork()
        if not inner:
            try:
                [os.fstat(one) for one in opened]
            except OSError:
                os._exit(1)
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_connection_that_fails_is_told_and_replaced(
    dispatcher: RunningDispatcher, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(dispatcher) as service:
        service.notify(user_id=user, title="a")
        engine = service._host.engine

        def fail() -> None:
            raise ZeroDivisionError

        engine._hand_over(fail)
        with pytest.raises(UnavailableError):
            engine.request("ping", {}).result(PATIENCE_S)
        assert service.notify(user_id=user, title="b").id
    assert "ZeroDivisionError" in caplog.text
