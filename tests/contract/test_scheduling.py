"""What waits for a time, as docs/scheduling.md states it: schedules, expiry, cancel, quiet hours, limits."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support.service import RunningDispatcher, wait_until

CONFIG = """
[retry]
base = "1h"
max = "1h"
jitter = "none"
[categories.alarm]
channels = ["email"]
override_preferences = true
[channels.email]
provider = "simulated"
[channels.webhook]
provider = "simulated"
[channels.failing]
provider = "simulated"
failure_rate = 1.0
[channels.capped]
provider = "simulated"
[channels.dropped]
provider = "simulated"
[channels.delayed]
provider = "simulated"
[channels.moved]
provider = "simulated"
[channels.gathered]
provider = "simulated"
[channels.paced]
provider = "simulated"
rate = "20/second"
burst = 1
[caps.few]
limit = 2
window = "1h"
channels = ["capped"]
[rate_limits]
dropped = "1/hour"
delayed = { rate = "2/second", burst = 1, overflow = "delay" }
moved = { rate = "1/hour", overflow = "inapp" }
gathered = { rate = "2/second", burst = 1, overflow = "digest" }
[digests.rest]
template = "summary"
window = "2s"
channels = ["gathered"]
when = "overflow"
"""
ZONE = ZoneInfo("Asia/Kolkata")  # its clocks are never put forward or back
HOUR_MS = 3_600_000

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=2) as running:
        yield running
        assert running.request("stats")["conserved"]


@pytest.fixture
def user() -> str:
    return f"user-{next(_numbers)}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def submit(service: RunningDispatcher, user: str, *, count: int = 1, **fields: Any) -> list[str]:
    """The ids of equal notifications, which are in one frame."""
    answer = service.client.submit(
        *({"user_id": user, "title": "hello", "channels": ["email"], **fields} for _ in range(count))
    )
    assert answer["accepted"] == count
    return list(answer["ids"])


def deliveries(service: RunningDispatcher, id: str) -> dict[str, dict[str, Any]]:
    return {one["channel"]: one for one in service.request("status", id=id)["deliveries"]}


def outcome(service: RunningDispatcher, id: str) -> tuple[str, str | None]:
    """Of its only delivery: the outcome and the reason."""
    (one,) = deliveries(service, id).values()
    return one["outcome"], one["reason"]


def wait_for(service: RunningDispatcher, id: str, wanted: str, timeout_s: float = 20.0) -> dict[str, Any]:
    """Its only delivery, once it has this outcome."""

    def found() -> dict[str, Any] | None:
        (one,) = deliveries(service, id).values()
        return one if one["outcome"] == wanted else None

    return wait_until(found, timeout_s, f"{id} is {wanted}")


# --- send_at ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True])
def test_it_is_sent_then_and_not_before(service: RunningDispatcher, user: str, as_text: bool) -> None:
    due_ms = now_ms() + 1_500
    due = datetime.fromtimestamp(due_ms / 1000, ZONE).isoformat(timespec="milliseconds") if as_text else due_ms
    (id,) = submit(service, user, send_at=due)
    one = deliveries(service, id)["email"]
    if now_ms() < due_ms:
        assert (one["outcome"], one["reason"], one["next_attempt_at"]) == ("deferred", "send_at", due_ms)
    one = wait_for(service, id, "delivered")
    assert one["updated_at"] >= due_ms
    assert (one["attempts"], one["next_attempt_at"]) == (1, None)


def test_inapp_and_recipients_are_scheduled_alike(service: RunningDispatcher, user: str) -> None:
    users = [f"{user}-{n}" for n in range(5)]
    due_ms = now_ms() + 1_000
    service.client.submit({"recipients": users, "title": "later", "send_at": due_ms})
    for one in users:
        wait_until(lambda one=one: service.request("inbox.list", user_id=one)["items"], 20, "the inbox")  # type: ignore[misc]
    assert now_ms() >= due_ms


def test_beyond_the_horizon(service: RunningDispatcher, user: str) -> None:
    answer = service.client.submit(
        {"user_id": user, "title": "t", "send_at": now_ms() + 365 * 24 * HOUR_MS + 60_000},
        {"user_id": user, "title": "t", "send_at": now_ms() + 365 * 24 * HOUR_MS - 60_000},
    )
    assert answer["accepted"] == 1
    ((index, error),) = [(one["index"], one["error"]) for one in answer["rejected"]]
    assert (index, error["code"], error["field"]) == (0, "bad_value", "send_at")
    assert "schedules.horizon" in error["message"]


def test_expiry_while_deferred(service: RunningDispatcher, user: str) -> None:
    expires_ms = now_ms() + 1_000
    (id,) = submit(service, user, send_at=now_ms() + HOUR_MS, expires_at=expires_ms)
    one = wait_for(service, id, "expired")
    assert (one["reason"], one["attempts"]) == ("expires_at", 0)
    assert one["updated_at"] >= expires_ms


# --- cancel -----------------------------------------------------------------------------------------------------------


def test_by_id_and_by_key(service: RunningDispatcher, user: str) -> None:
    later = now_ms() + HOUR_MS
    by_id, by_key = (submit(service, user, send_at=later, idempotency_key=key)[0] for key in ("one", "two"))
    assert service.request("cancel", id=by_id)["cancelled"] == 1
    assert service.request("cancel", user_id=user, idempotency_key="two")["cancelled"] == 1
    assert outcome(service, by_id) == outcome(service, by_key) == ("cancelled", "cancelled")
    error = service.client.refused("cancel", id=by_id)
    assert error["code"] == "already_final"


def test_what_is_delivered_is_already_final(service: RunningDispatcher, user: str) -> None:
    (id,) = submit(service, user)
    wait_for(service, id, "delivered")
    assert service.client.refused("cancel", id=id)["code"] == "already_final"
    assert outcome(service, id) == ("delivered", None)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "00000000-0000000000000000-1-0"},
        {"user_id": "nobody", "idempotency_key": "k"},
    ],
)
def test_what_is_not_there_is_not_found(service: RunningDispatcher, fields: dict[str, str]) -> None:
    assert service.client.refused("cancel", **fields)["code"] == "not_found"


def test_one_of_several_recipients(service: RunningDispatcher, user: str) -> None:
    users = [f"{user}-{n}" for n in range(4)]
    answer = service.client.submit(
        {"recipients": users, "title": "t", "channels": ["email", "inapp"], "send_at": now_ms() + HOUR_MS}
    )
    ids = answer["ids"][0]
    assert service.request("cancel", id=ids[1])["cancelled"] == 2
    outcomes = [{one["outcome"] for one in deliveries(service, id).values()} for id in ids]
    assert outcomes == [{"deferred"}, {"cancelled"}, {"deferred"}, {"deferred"}]


def test_a_retrying_one(service: RunningDispatcher, user: str) -> None:
    (id,) = submit(service, user, channels=["failing", "inapp"])
    wait_until(lambda: deliveries(service, id)["failing"]["outcome"] == "retrying", what="the first failure")
    wait_until(lambda: deliveries(service, id)["inapp"]["outcome"] == "delivered", what="the inbox")
    assert service.request("cancel", id=id)["cancelled"] == 1
    one = deliveries(service, id)
    assert (one["failing"]["outcome"], one["failing"]["attempts"]) == ("cancelled", 1)
    assert one["inapp"]["outcome"] == "delivered"


def test_a_cancelled_key_stays_used(service: RunningDispatcher, user: str) -> None:
    (id,) = submit(service, user, send_at=now_ms() + HOUR_MS, idempotency_key="k")
    service.request("cancel", id=id)
    answer = service.client.submit({"user_id": user, "title": "hello", "channels": ["email"], "idempotency_key": "k"})
    assert (answer["duplicates"], answer["ids"]) == (1, [id])


# --- quiet hours ------------------------------------------------------------------------------------------------------


def quiet_now(service: RunningDispatcher, user: str) -> int:
    """It is quiet for the user, for two hours more: until when, in ms."""
    here = datetime.now(ZONE).replace(second=0, microsecond=0)
    start, end = here - timedelta(hours=1), here + timedelta(hours=2)
    window = {"start": f"{start:%H:%M}", "end": f"{end:%H:%M}"}
    document = {"timezone": ZONE.key, "preferences": {"quiet_hours": window}}
    service.request("user.put", user_id=user, user=document)
    return round(end.timestamp() * 1000)


def test_quiet_hours_defer_to_their_end(service: RunningDispatcher, user: str) -> None:
    end_ms = quiet_now(service, user)
    (id,) = submit(service, user, channels=["email", "inapp", "webhook"])
    found = wait_until(
        lambda: (
            (one := deliveries(service, id))["webhook"]["outcome"] == one["inapp"]["outcome"] == "delivered" and one
        ),
        what="what is never quiet",
    )
    assert isinstance(found, dict)
    mail = found["email"]
    assert (mail["outcome"], mail["reason"], mail["next_attempt_at"]) == ("deferred", "quiet_hours", end_ms)


@pytest.mark.parametrize("fields", [{"priority": "critical"}, {"category": "alarm", "priority": "low"}])
def test_critical_and_override_pass(service: RunningDispatcher, user: str, fields: dict[str, Any]) -> None:
    quiet_now(service, user)
    (id,) = submit(service, user, **fields)
    wait_for(service, id, "delivered")


@pytest.mark.parametrize(
    ("document", "field", "says"),
    [
        ({"timezone": "Europe/Pari"}, "timezone", "did you mean Europe/Paris"),
        ({"timezone": ""}, "timezone", "time zone"),
        (
            {"preferences": {"quiet_hours": {"start": "24:30", "end": "08:00"}}},
            "preferences.quiet_hours.start",
            "24:30",
        ),
        ({"preferences": {"quiet_hours": {"start": "22:00", "end": "8"}}}, "preferences.quiet_hours.end", "8"),
        ({"preferences": {"quiet_hours": {"start": "22:00"}}}, "preferences.quiet_hours", "end"),
        (
            {"preferences": {"quiet_hours": {"start": "22:00", "end": "08:00", "days": ["fryday"]}}},
            "preferences.quiet_hours.days",
            "fri",
        ),
        ({"preferences": {"quiet_hours": {"start": "00:00", "end": "24:00"}}}, "preferences.quiet_hours", "for ever"),
    ],
)
def test_hours_and_zones_that_are_none(
    service: RunningDispatcher, user: str, document: dict[str, Any], field: str, says: str
) -> None:
    error = service.client.refused("user.put", user_id=user, user=document)
    assert (error["code"], error["field"]) == ("bad_value", f"user.{field}")
    assert says in error["message"]


def test_a_schedule_that_ends_in_quiet_hours_waits_on(service: RunningDispatcher, user: str) -> None:
    end_ms = quiet_now(service, user)
    (id,) = submit(service, user, send_at=now_ms() + 500)
    wait_until(lambda: outcome(service, id) == ("deferred", "quiet_hours"), 20, "the quiet hours")
    assert deliveries(service, id)["email"]["next_attempt_at"] == end_ms


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_cap(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, count=3, channels=["capped"])
    for id in ids[:2]:
        wait_for(service, id, "delivered")
    assert outcome(service, ids[2]) == ("rate_limited", "cap")


def test_what_exceeds_a_limit_is_dropped(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, count=2, channels=["dropped"])
    wait_for(service, ids[0], "delivered")
    assert outcome(service, ids[1]) == ("rate_limited", "limit")


def test_what_exceeds_a_limit_is_delayed(service: RunningDispatcher, user: str) -> None:
    started = now_ms()
    ids = submit(service, user, count=4, channels=["delayed"])
    times = [wait_for(service, id, "delivered")["updated_at"] for id in ids]
    assert times == sorted(times)
    assert times[-1] - started >= 1_500 - 1  # three more at two a second


def test_what_exceeds_a_limit_goes_to_the_inbox(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, count=2, channels=["moved"])
    items = wait_until(lambda: service.request("inbox.list", user_id=user)["items"], what="the inbox")
    assert [item["id"] for item in items] == ids[1:]
    assert list(deliveries(service, ids[1])) == ["inapp"]
    both = submit(service, user, channels=["moved", "inapp"])[0]
    found = deliveries(service, both)
    assert (found["moved"]["outcome"], found["moved"]["reason"]) == ("rate_limited", "limit")


def test_what_exceeds_a_limit_is_gathered(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, count=4, channels=["gathered"])
    assert outcome(service, ids[3]) in (("deferred", "digest"), ("delivered", None))
    assert {wait_for(service, id, "delivered")["attempts"] for id in ids[:2]} == {1}
    for id in ids:
        wait_for(service, id, "delivered")


def test_a_providers_rate_holds_for_all_users(service: RunningDispatcher, user: str) -> None:
    before = service.request("stats")["channels"]["paced"]["attempts"]
    started = time.monotonic()
    for n in range(20):
        submit(service, f"{user}-{n}", channels=["paced"])
    wait_until(
        lambda: service.request("stats")["channels"]["paced"]["attempts"] == before + 20,
        30,
        "twenty at twenty a second",
    )
    assert time.monotonic() - started >= (20 - 2 - 2) / 20  # a burst of one in each of two shards; may be uneven
