"""Several notifications as one delivery, as docs/digests.md states it."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.service import RunningDispatcher, wait_until

CONFIG = """
[retry]
max_retries = 0
[categories]
brief = { channels = ["email"] }
feed = { channels = ["inapp"] }
hour = { channels = ["email"] }
full = { channels = ["inapp"] }
lead = { channels = ["inapp"] }
topical = { channels = ["inapp"] }
broken = { channels = ["failing"] }
[channels.email]
provider = "simulated"
[channels.failing]
provider = "simulated"
failure_rate = 1.0
[digests]
brief = { template = "brief", window = "1s", categories = ["brief"] }
feed = { template = "feed", window = "1s", categories = ["feed"] }
hour = { template = "hour", window = "1h", categories = ["hour"] }
full = { template = "full", window = "1h", categories = ["full"], items_max = 3 }
lead = { template = "lead", window = "1s", categories = ["lead"], leading = true }
topical = { template = "topical", window = "1s", categories = ["topical"], key = "thread" }
broken = { template = "broken", window = "1s", categories = ["broken"] }
"""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=2) as running:
        yield running
        assert running.request("stats")["conserved"]


@pytest.fixture
def user() -> str:
    return f"user-{next(_numbers)}"


def submit(service: RunningDispatcher, user: str, category: str, count: int, **fields: Any) -> list[str]:
    """Titled by their number; all in one frame, and so in one window."""
    answer = service.client.submit(
        *({"user_id": user, "category": category, "title": str(n), **fields} for n in range(count))
    )
    assert answer["accepted"] == count
    return list(answer["ids"])


def outcomes(service: RunningDispatcher, ids: list[str]) -> list[str]:
    return [service.request("status", id=id)["deliveries"][0]["outcome"] for id in ids]


def inbox(service: RunningDispatcher, user: str, count: int) -> list[dict[str, Any]]:
    def items() -> list[dict[str, Any]] | None:
        found = service.request("inbox.list", user_id=user)["items"]
        return found if len(found) >= count else None

    found = wait_until(items, 20, f"{count} items")
    assert len(found) == count
    return found


def shown(item: dict[str, Any]) -> list[str]:
    return [one["title"] for one in item["payload"]["items"]]


def test_one_delivery_for_several_notifications(service: RunningDispatcher, user: str) -> None:
    before = service.request("stats")["channels"]["email"]
    ids = submit(service, user, "brief", 5)
    status = service.request("status", id=ids[0])["deliveries"][0]
    assert (status["outcome"], status["reason"]) in (("deferred", "digest"), ("delivered", None))
    wait_until(lambda: set(outcomes(service, ids)) == {"delivered"}, 20, "the digest")
    after = service.request("stats")["channels"]["email"]
    assert after["attempts"] - before["attempts"] == 1
    assert after["planned"] - before["planned"] == 5
    assert after["outcomes"]["delivered"] - before["outcomes"]["delivered"] == 5


def test_an_item_in_the_inbox_has_template_items_and_count(service: RunningDispatcher, user: str) -> None:
    with service.subscribed(b"inapp." + user.encode() + b"\0") as stream:

        def followed() -> bool:
            service.client.submit({"user_id": user, "title": "are you there?"})
            return stream.read(0.2) is not None

        wait_until(followed, 20, "the subscription")
        ids = submit(service, user, "feed", 25, payload={"n": 1})

        def document() -> dict[str, Any] | None:
            found = stream.read(0.2)
            return found[1] if found and found[1]["category"] == "feed" else None

        published = wait_until(document, 20, "the digest on the stream")
    (item,) = [one for one in service.request("inbox.list", user_id=user)["items"] if one["category"] == "feed"]
    assert item == published
    assert (item["template"], item["payload"]["count"], item["state"]) == ("feed", 25, "new")
    assert shown(item) == [str(n) for n in (*range(10), *range(15, 25))]
    assert [one["id"] for one in item["payload"]["items"]] == [*ids[:10], *ids[15:]]
    assert item["payload"]["items"][0]["payload"] == {"n": 1}
    assert set(outcomes(service, ids)) == {"delivered"}
    marked = service.request("inbox.mark", user_id=user, ids=[item["id"]], state="read")["items"]
    assert marked == [{**item, "state": "read"}]


def test_a_full_one_is_sent_at_once(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, "full", 7)
    items = inbox(service, user, 2)
    assert [shown(item) for item in items] == [["0", "1", "2"], ["3", "4", "5"]]
    assert outcomes(service, ids[6:]) == ["deferred"]


def test_the_leading_one_is_sent_at_once(service: RunningDispatcher, user: str) -> None:
    submit(service, user, "lead", 3)
    first, second = inbox(service, user, 2)
    assert (first["title"], first["template"]) == ("0", None)
    assert shown(second) == ["1", "2"]


def test_a_key_of_the_payload_parts_them(service: RunningDispatcher, user: str) -> None:
    service.client.submit(
        *(
            {"user_id": user, "category": "topical", "title": f"{thread}{n}", "payload": {"thread": thread}}
            for n in range(2)
            for thread in "ab"
        )
    )
    assert sorted(map(shown, inbox(service, user, 2))) == [["a0", "a1"], ["b0", "b1"]]


def test_users_have_digests_of_their_own(service: RunningDispatcher, user: str) -> None:
    users = [f"{user}-{n}" for n in range(6)]
    service.client.submit(*({"recipients": users, "category": "feed", "title": str(n)} for n in range(2)))
    for one in users:
        assert [shown(item) for item in inbox(service, one, 1)] == [["0", "1"]]


def test_cancel_takes_one_item_out(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, "full", 2)
    assert service.request("cancel", id=ids[0])["cancelled"] == 1
    assert service.client.refused("cancel", id=ids[0])["code"] == "already_final"
    more = submit(service, user, "full", 2)
    (item,) = inbox(service, user, 1)
    assert shown(item) == ["1", "0", "1"]
    assert outcomes(service, [*ids, *more]) == ["cancelled", "delivered", "delivered", "delivered"]


def test_of_all_items_leaves_nothing_to_send(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, "brief", 2)
    cancelled = [service.client.exchange({"op": "cancel", "id": id}, as_json=True) for id in ids]
    found = wait_until(lambda: "deferred" not in (one := outcomes(service, ids)) and one, 20, "their end")
    if all(answer["ok"] and answer["cancelled"] for answer in cancelled):  # before the window closed
        assert found == ["cancelled", "cancelled"]


def test_items_of_one_that_waits_name_the_id_that_it_is_sent_as(service: RunningDispatcher, user: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    hours = {"start": f"{now:%H:%M}", "end": f"{now + datetime.timedelta(hours=10):%H:%M}"}
    service.request("user.put", user_id=user, user={"preferences": {"quiet_hours": hours}})
    first, *others = submit(service, user, "broken", 3)

    def told(id: str) -> dict[str, Any]:
        decisions = service.request("status", id=id)["decisions"]
        return next(one for one in decisions if one["result"] == "defer")

    assert wait_until(lambda: told(first)["step"] == "quiet_hours", 20, "the end of the window")
    for id in others:
        assert (told(id)["step"], told(id)["detail"]["sent_as"]) == ("digest", first)


def test_critical_does_not_wait(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, "hour", 1, priority="critical")
    wait_until(lambda: outcomes(service, ids) == ["delivered"], what="it is delivered")


def test_a_digest_that_fails_is_one_dead_letter(service: RunningDispatcher, user: str) -> None:
    ids = submit(service, user, "broken", 3)
    wait_until(lambda: set(outcomes(service, ids)) == {"dead"}, 20, "their end")
    (letter,) = wait_until(lambda: service.request("dead.list", user_id=user)["items"], 20, "the dead letter")
    assert (letter["id"], letter["channel"], letter["category"]) == (ids[0], "failing", "broken")
    notification = letter["notification"]
    assert (notification["template"], notification["payload"]["count"]) == ("broken", 3)
    assert [item["title"] for item in notification["payload"]["items"]] == ["0", "1", "2"]
    # tried again it fails again, and its items follow
    attempts = service.request("stats")["channels"]["failing"]["attempts"]
    assert service.request("dead.replay", user_id=user)["count"] == 1
    wait_until(lambda: service.request("stats")["channels"]["failing"]["attempts"] > attempts, 20, "the attempt")
    wait_until(lambda: set(outcomes(service, ids)) == {"dead"}, 20, "their end again")
    (again,) = wait_until(lambda: service.request("dead.list", user_id=user)["items"], 20, "the dead letter again")
    assert again["notification"] == notification
