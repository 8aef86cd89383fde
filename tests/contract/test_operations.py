"""Every operation but ``submit``, and what the users' documents do to outcomes."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.service import RunningDispatcher, wait_until

FINAL = {"delivered", "dead", "suppressed", "rate_limited", "expired", "cancelled"}
OPEN = {"pending", "retrying", "deferred"}
HOUR_MS = 3_600_000


def outcomes(service: RunningDispatcher, id_: str) -> dict[str, tuple[str, str | None]]:
    """By channel, ``(outcome, reason)`` once all of them are final."""

    def final() -> dict[str, tuple[str, str | None]] | None:
        deliveries = service.request("status", id=id_)["deliveries"]
        if any(delivery["outcome"] not in FINAL for delivery in deliveries):
            return None
        return {delivery["channel"]: (delivery["outcome"], delivery["reason"]) for delivery in deliveries}

    return wait_until(final, what="final outcomes")


def outcomes_of(service: RunningDispatcher, **notification: Any) -> dict[str, tuple[str, str | None]]:
    answer = service.client.submit({"title": "hello", **notification})
    assert answer["rejected"] == []
    return outcomes(service, answer["ids"][0])


def dead_letters(service: RunningDispatcher, count: int, **filters: Any) -> list[dict[str, Any]]:
    """Exactly so many, once the collector has them."""

    def listed() -> list[dict[str, Any]] | None:
        items: list[dict[str, Any]] = service.request("dead.list", **filters)["items"]
        return items if len(items) == count else None

    if count:
        return wait_until(listed, what=f"{count} dead letters of {filters}")
    wait_until(lambda: listed() is not None, what=f"no dead letters of {filters}")
    return []


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_tells_the_story_of_every_delivery(service: RunningDispatcher, user: str) -> None:
    before_ms = int(time.time() * 1000) - 1
    id_ = service.client.submit(
        {"user_id": user, "title": "hello", "channels": ["email", "inapp", "webhook", "sms"], "idempotency_key": "k"}
    )["ids"][0]
    assert outcomes(service, id_) == {
        "email": ("delivered", None),
        "inapp": ("delivered", None),
        "webhook": ("dead", "max_retries"),
        "sms": ("dead", "channel_not_configured"),
    }
    answer = service.request("status", id=id_)
    assert answer["id"] == id_
    after_ms = int(time.time() * 1000) + 1
    for delivery in answer["deliveries"]:
        assert {"channel", "outcome", "reason", "attempts", "last_error", "updated_at", "next_attempt_at"} == set(
            delivery
        )
        assert before_ms <= delivery["updated_at"] <= after_ms
        assert delivery["next_attempt_at"] is None
    by_channel = {delivery["channel"]: delivery for delivery in answer["deliveries"]}
    assert [by_channel[name]["attempts"] for name in ("email", "inapp", "webhook", "sms")] == [1, 1, 1, 0]
    assert by_channel["email"]["last_error"] is None
    assert by_channel["webhook"]["last_error"]
    assert service.request("status", user_id=user, idempotency_key="k") == answer


def test_status_of_each_recipient(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    recipients = [new_user() for _ in range(6)]
    ids = service.client.submit({"recipients": recipients, "title": "hello", "channels": ["email"]})["ids"][0]
    for id_ in ids:
        assert outcomes(service, id_) == {"email": ("delivered", None)}


def test_an_unknown_notification_is_not_found(service: RunningDispatcher, user: str) -> None:
    known = service.client.submit({"user_id": user, "title": "hello"})["ids"][0]
    for id_ in ("", "x", "a-b-c-d", known + "f", known[:-1], known + "-", "0" * 10_000):
        error = service.client.refused("status", id=id_)
        assert error["code"] in ("not_found", "bad_request"), id_
    assert service.client.refused("status", user_id=user, idempotency_key="no such")["code"] == "not_found"


# --- routing, configuration, expiry, limits -------------------------------------------------------------------------


def test_the_default_routing(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    missing = ("suppressed", "channel_not_configured")
    done = ("delivered", None)
    routes = {
        "transaction": {"email": done, "push": missing, "inapp": done},
        "marketing": {"email": done, "inapp": done},
        "security": {"email": done, "sms": missing, "push": missing},
        "system": {"inapp": done},
    }
    for category, expected in routes.items():
        assert outcomes_of(service, user_id=new_user(), category=category) == expected
    assert outcomes_of(service, user_id=new_user()) == routes["system"]


def test_a_channel_that_is_named_and_not_configured_is_a_dead_letter(
    service: RunningDispatcher, new_user: Callable[[], str]
) -> None:
    by_producer, by_configuration = new_user(), new_user()
    dead = ("dead", "channel_not_configured")
    assert outcomes_of(service, user_id=by_producer, channels=["push", "email"]) == {
        "push": dead,
        "email": ("delivered", None),
    }
    assert outcomes_of(service, user_id=by_configuration, category="billing") == {"sms": dead}
    for user, channel in ((by_producer, "push"), (by_configuration, "sms")):
        letter = dead_letters(service, 1, user_id=user)[0]
        assert (letter["channel"], letter["reason"]) == (channel, "channel_not_configured")


def test_a_channel_without_a_contact_is_suppressed(service: RunningDispatcher, user: str) -> None:
    channels = ["email", "webhook", "inapp", "system"]
    done, missing, failed = ("delivered", None), ("suppressed", "no_contact"), ("dead", "max_retries")
    before = outcomes_of(service, user_id=user, channels=channels)  # simulated channels reach who has no contacts
    assert before == {"email": done, "webhook": failed, "inapp": done, "system": done}
    service.request("user.put", user_id=user, user={"contacts": {"phone": "+33612345678"}})
    after = outcomes_of(service, user_id=user, channels=channels)
    assert after == {"email": missing, "webhook": missing, "inapp": done, "system": done}
    assert outcomes_of(service, user_id=user, category="security")["email"] == missing  # no override finds an address


@pytest.mark.parametrize("expires_at", ["2020-01-31T08:00:00Z", "2020-01-31T08:00:00.5+02:00", 1, 0])
def test_what_has_expired_is_not_sent(service: RunningDispatcher, user: str, expires_at: str | int) -> None:
    found = outcomes_of(service, user_id=user, channels=["email", "inapp", "webhook"], expires_at=expires_at)
    assert {outcome for outcome, _ in found.values()} == {"expired"}
    assert service.request("inbox.list", user_id=user)["items"] == []


def test_what_exceeds_a_rate_is_rate_limited(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    user, other = new_user(), new_user()
    ids = service.client.submit(*({"user_id": user, "title": "t", "channels": ["system"]} for _ in range(4)))["ids"]
    found = Counter(outcomes(service, id_)["system"][0] for id_ in ids)
    assert found == {"delivered": 2, "rate_limited": 2}
    assert outcomes_of(service, user_id=other, channels=["system"]) == {"system": ("delivered", None)}


# --- users ----------------------------------------------------------------------------------------------------------

DOCUMENT = {
    "contacts": {
        "email": "a@example.org",
        "phone": "+33612345678",
        "push": [{"provider": "fcm", "token": "t"}],
        "webhook": {"url": "https://example.org/hook", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
    },
    "timezone": "Europe/Paris",
    "locale": "fr",
    "preferences": {
        "channels": {"sms": False},
        "categories": {"marketing": {"email": False}, "system": False},
        "quiet_hours": {"start": "22:00", "end": "08:00", "days": ["fri", "sat"]},
        "topics": ["release-notes"],
    },
}


def test_a_users_document_is_stored_replaced_and_deleted(service: RunningDispatcher, user: str) -> None:
    assert service.client.refused("user.get", user_id=user)["code"] == "not_found"
    assert service.request("user.put", user_id=user, user=DOCUMENT)["user"] == DOCUMENT
    assert service.request("user.get", user_id=user)["user"] == DOCUMENT
    assert service.request("user.put", user_id=user, user={"locale": "de"})["user"] == {"locale": "de"}
    assert service.request("user.get", user_id=user)["user"] == {"locale": "de"}
    assert service.request("user.delete", user_id=user)["user"] == {"locale": "de"}
    assert service.client.refused("user.get", user_id=user)["code"] == "not_found"
    assert service.client.refused("user.delete", user_id=user)["code"] == "not_found"


@pytest.mark.parametrize(
    ("document", "code", "field"),
    [
        ({"colour": "red"}, "unknown_key", "user.colour"),
        ({"contacts": {"fax": "1"}}, "unknown_key", "user.contacts.fax"),
        ({"preferences": {"chanels": {}}}, "unknown_key", "user.preferences.chanels"),
        ({"locale": 5}, "bad_value", "user.locale"),
        ({"contacts": {"push": [{"provider": "fcm"}]}}, "bad_value", "user.contacts.push"),
        ({"preferences": {"channels": {"sms": "no"}}}, "bad_value", "user.preferences.channels"),
        ({"preferences": {"quiet_hours": {"start": "22:00"}}}, "bad_value", "user.preferences.quiet_hours"),
        (
            {"preferences": {"quiet_hours": {"start": "22:00", "end": "8:00"}}},
            "bad_value",
            "user.preferences.quiet_hours.end",
        ),
        ({"preferences": {"topics": ["*"]}}, "bad_value", "user.preferences.topics"),
        ({"contacts": {"email": "ada"}}, "bad_value", "user.contacts.email"),
        ({"contacts": {"phone": "0612345678"}}, "bad_value", "user.contacts.phone"),
        ({"contacts": {"push": [{"provider": "fmc", "token": "t"}]}}, "bad_value", "user.contacts.push"),
        ({"contacts": {"webhook": {"url": "https://u:p@example.org"}}}, "bad_value", "user.contacts.webhook.url"),
        ({"timezone": "Europe/Pariss"}, "bad_value", "user.timezone"),
        ({"locale": "fr_CA"}, "bad_value", "user.locale"),
        ({"locale": "x" * 70_000}, "too_large", "user"),
    ],
)
def test_a_bad_document_is_refused_and_nothing_is_stored(
    service: RunningDispatcher, user: str, document: dict[str, Any], code: str, field: str
) -> None:
    error = service.client.refused("user.put", user_id=user, user=document)
    assert error["code"] == code
    assert error["field"].partition("[")[0] == field
    assert service.client.refused("user.get", user_id=user)["code"] == "not_found"


def test_preferences_suppress_by_channel_category_and_both(
    service: RunningDispatcher, new_user: Callable[[], str]
) -> None:
    off = ("suppressed", "preference")
    done = ("delivered", None)

    def routed(preferences: dict[str, Any], category: str) -> dict[str, tuple[str, str | None]]:
        user = new_user()
        service.request("user.put", user_id=user, user={"preferences": preferences})
        return outcomes_of(service, user_id=user, category=category)

    assert routed({"channels": {"email": False, "inapp": True}}, "marketing") == {"email": off, "inapp": done}
    assert routed({"categories": {"marketing": False}}, "marketing") == {"email": off, "inapp": off}
    assert routed({"categories": {"marketing": False}}, "system") == {"inapp": done}
    assert routed({"categories": {"marketing": {"email": False}}}, "marketing") == {"email": off, "inapp": done}
    assert routed({"channels": {"email": True}, "categories": {"marketing": True}}, "marketing") == {
        "email": done,
        "inapp": done,
    }


def test_preferences_apply_to_channels_that_the_producer_names(service: RunningDispatcher, user: str) -> None:
    service.request("user.put", user_id=user, user={"preferences": {"channels": {"email": False, "sms": False}}})
    assert outcomes_of(service, user_id=user, channels=["email", "sms"]) == {
        "email": ("suppressed", "preference"),
        "sms": ("suppressed", "preference"),
    }


def test_security_overrides_preferences(service: RunningDispatcher, user: str) -> None:
    preferences = {"channels": {"email": False}, "categories": {"security": False}}
    service.request("user.put", user_id=user, user={"preferences": preferences})
    assert outcomes_of(service, user_id=user, category="security")["email"] == ("delivered", None)


def test_a_change_of_preferences_holds_for_what_is_submitted_next(service: RunningDispatcher, user: str) -> None:
    assert outcomes_of(service, user_id=user, channels=["email"])["email"] == ("delivered", None)
    service.request("user.put", user_id=user, user={"preferences": {"channels": {"email": False}}})
    assert outcomes_of(service, user_id=user, channels=["email"])["email"] == ("suppressed", "preference")
    service.request("user.delete", user_id=user)
    assert outcomes_of(service, user_id=user, channels=["email"])["email"] == ("delivered", None)


# --- inbox ----------------------------------------------------------------------------------------------------------


def filled_inbox(service: RunningDispatcher, user: str, count: int) -> list[str]:
    """Ids of so many delivered in-app notifications, titled 0, 1, 2, ..."""
    ids: list[str] = service.client.submit(*({"user_id": user, "title": str(at)} for at in range(count)))["ids"]
    for id_ in ids:
        assert outcomes(service, id_) == {"inapp": ("delivered", None)}
    return ids


def test_an_empty_inbox(service: RunningDispatcher, user: str) -> None:
    answer = service.request("inbox.list", user_id=user)
    assert answer == {"ok": True, "items": [], "next": None, "unread": 0}


def test_an_inbox_is_read_in_pages(service: RunningDispatcher, user: str) -> None:
    ids = filled_inbox(service, user, 7)
    seen: list[dict[str, Any]] = []
    cursor = None
    sizes = []
    while True:
        page = service.request("inbox.list", user_id=user, limit=3, **({"cursor": cursor} if cursor else {}))
        sizes.append(len(page["items"]))
        seen += page["items"]
        assert page["unread"] == 7
        cursor = page["next"]
        if cursor is None:
            break
    assert sizes == [3, 3, 1]
    assert [item["id"] for item in seen] == ids
    assert [item["title"] for item in seen] == [str(at) for at in range(7)]
    assert [item["cursor"] for item in seen] == list(range(seen[0]["cursor"], seen[0]["cursor"] + 7))
    after = service.request("inbox.list", user_id=user, cursor=seen[4]["cursor"])
    assert [item["id"] for item in after["items"]] == ids[5:]


def test_an_inbox_item_carries_the_notification(service: RunningDispatcher, user: str) -> None:
    notification = {
        "user_id": user,
        "category": "marketing",
        "type": "warning",
        "priority": 3,
        "title": "Grüße 😀",
        "body": "b",
        "payload": {"order": 17, "lines": [1.5, None]},
        "metadata": {"trace": "abc"},
    }
    id_ = service.client.submit(notification)["ids"][0]
    assert outcomes(service, id_)["inapp"] == ("delivered", None)
    item = service.request("inbox.list", user_id=user)["items"][0]
    assert {key: item[key] for key in notification} == {**notification, "priority": "critical"}
    assert (item["id"], item["state"]) == (id_, "new")


def test_only_inapp_deliveries_are_in_the_inbox(service: RunningDispatcher, user: str) -> None:
    assert outcomes_of(service, user_id=user, channels=["email"]) == {"email": ("delivered", None)}
    assert service.request("inbox.list", user_id=user)["items"] == []


def test_marking_changes_the_state_and_the_unread_count(service: RunningDispatcher, user: str) -> None:
    ids = filled_inbox(service, user, 4)
    for state, id_, unread in (("seen", ids[0], 4), ("read", ids[1], 3), ("archived", ids[2], 2), ("read", ids[1], 2)):
        answer = service.request("inbox.mark", user_id=user, ids=[id_], state=state)
        assert [(item["id"], item["state"]) for item in answer["items"]] == [(id_, state)]
        assert answer["unread"] == unread
    listed = service.request("inbox.list", user_id=user)
    assert [item["state"] for item in listed["items"]] == ["seen", "read", "archived", "new"]
    assert listed["unread"] == 2
    assert service.request("inbox.mark", user_id=user, ids=ids, state="read")["unread"] == 0
    assert service.request("inbox.mark", user_id=user, ids=[], state="read")["items"] == []


def test_only_what_is_in_the_users_inbox_can_be_marked(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    user, other = new_user(), new_user()
    mine, theirs = filled_inbox(service, user, 1)[0], filled_inbox(service, other, 1)[0]
    by_email = service.client.submit({"user_id": user, "title": "t", "channels": ["email"]})["ids"][0]
    for id_ in (theirs, by_email, "x", "a-b-c-d"):
        error = service.client.refused("inbox.mark", user_id=user, ids=[mine, id_], state="read")
        assert error["code"] == "not_found", id_
    assert service.request("inbox.list", user_id=user)["unread"] == 1  # of a refused request nothing is done
    assert service.request("inbox.list", user_id=other)["unread"] == 1


# --- dead letters ---------------------------------------------------------------------------------------------------


def killed(service: RunningDispatcher, *users: str, **more: Any) -> list[str]:
    """Ids of one notification each, whose webhook delivery is dead."""
    notifications = [{"user_id": user, "title": "hello", "channels": ["webhook"], **more} for user in users]
    ids: list[str] = service.client.submit(*notifications)["ids"]
    for id_ in ids:
        assert outcomes(service, id_) == {"webhook": ("dead", "max_retries")}
    return ids


def test_a_dead_letter_says_what_an_operator_needs(service: RunningDispatcher, user: str) -> None:
    before_ms = int(time.time() * 1000) - 1
    id_ = killed(service, user, category="marketing", payload={"order": 17}, idempotency_key="k")[0]
    letter = dead_letters(service, 1, user_id=user)[0]
    assert before_ms <= letter.pop("died_at") <= int(time.time() * 1000) + 1
    assert letter.pop("last_error")
    notification = letter.pop("notification")
    assert {key: notification[key] for key in ("user_id", "title", "payload", "category", "idempotency_key")} == {
        "user_id": user,
        "title": "hello",
        "payload": {"order": 17},
        "category": "marketing",
        "idempotency_key": "k",
    }
    assert letter == {
        "id": id_,
        "user_id": user,
        "channel": "webhook",
        "category": "marketing",
        "reason": "max_retries",
        "error_class": "transient",
        "attempts": 1,
    }


def test_dead_letters_are_listed_by_filter_and_page(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    user, other = new_user(), new_user()
    ids = killed(service, *[user] * 5, category="marketing") + killed(service, user)
    killed(service, other)
    assert len(dead_letters(service, 6, user_id=user)) == 6
    assert len(dead_letters(service, 5, user_id=user, category="marketing")) == 5
    assert len(dead_letters(service, 6, user_id=user, channel="webhook", reason="max_retries")) == 6
    assert len(dead_letters(service, 6, user_id=user, error_class="transient")) == 6
    assert dead_letters(service, 0, user_id=user, channel="email") == []
    assert dead_letters(service, 0, user_id=user, reason="rejected") == []
    assert [letter["id"] for letter in dead_letters(service, 1, id=ids[3])] == [ids[3]]
    now_ms = int(time.time() * 1000)
    assert len(dead_letters(service, 6, user_id=user, since=now_ms - HOUR_MS)) == 6
    assert dead_letters(service, 0, user_id=user, since=now_ms + HOUR_MS) == []
    assert dead_letters(service, 0, user_id=user, since="2999-01-31T08:00:00Z") == []
    assert len(dead_letters(service, 6, user_id=user, since="2020-01-31T08:00:00+01:00")) == 6
    listed: list[str] = []
    cursor: dict[str, Any] = {}
    for size in (4, 2):
        page = service.request("dead.list", user_id=user, limit=4, **cursor)
        assert len(page["items"]) == size
        listed += [letter["id"] for letter in page["items"]]
        cursor = {"cursor": page["next"]}
    assert cursor == {"cursor": None}
    assert sorted(listed) == sorted(ids)


def test_a_replay_makes_the_delivery_pending_again(service: RunningDispatcher, user: str) -> None:
    ids = killed(service, user, user)
    first = {letter["id"]: letter["died_at"] for letter in dead_letters(service, 2, user_id=user)}
    before = service.settled_stats()
    assert service.request("dead.replay", user_id=user, id=ids[0])["count"] == 1

    def died_again() -> bool:  # the channel still fails
        letters = service.request("dead.list", user_id=user)["items"]
        return {letter["id"]: letter["died_at"] for letter in letters}.keys() == first.keys() and any(
            letter["id"] == ids[0] and letter["died_at"] > first[ids[0]] for letter in letters
        )

    wait_until(died_again, what="the second death")
    after = service.settled_stats()
    assert after["planned"] == before["planned"]
    assert after["outcomes"] == before["outcomes"]
    assert after["channels"]["webhook"]["attempts"] == before["channels"]["webhook"]["attempts"] + 1
    assert after["conserved"]


def test_a_replay_of_nothing_counts_nothing(service: RunningDispatcher, user: str) -> None:
    assert service.request("dead.replay", user_id=user)["count"] == 0
    assert service.request("dead.purge", user_id=user)["count"] == 0


def test_a_purge_removes_the_letter_and_changes_no_count(service: RunningDispatcher, user: str) -> None:
    ids = killed(service, user, user, user)
    dead_letters(service, 3, user_id=user)
    before = service.settled_stats()
    assert service.request("dead.purge", user_id=user, id=ids[0])["count"] == 1
    assert {letter["id"] for letter in dead_letters(service, 2, user_id=user)} == set(ids[1:])
    assert service.request("dead.purge", user_id=user)["count"] == 2
    dead_letters(service, 0, user_id=user)
    after = service.settled_stats()
    assert (after["planned"], after["outcomes"]) == (before["planned"], before["outcomes"])
    assert after["dead_letters"]["max_retries"] == before["dead_letters"]["max_retries"] - 3 or (
        "max_retries" not in after["dead_letters"]
    )
    assert outcomes(service, ids[0]) == {"webhook": ("dead", "max_retries")}
    assert service.request("dead.replay", user_id=user)["count"] == 0


@pytest.mark.parametrize("op", ["dead.replay", "dead.purge"])
def test_a_limit_holds_over_all_shards(service: RunningDispatcher, new_user: Callable[[], str], op: str) -> None:
    since = int(time.time() * 1000)
    killed(service, *(new_user() for _ in range(8)), category="transaction")
    filters = {"category": "transaction", "since": since, "limit": 3}
    assert service.request(op, **filters)["count"] == 3


def test_of_concurrent_requests_each_letter_is_counted_once(service: RunningDispatcher, user: str) -> None:
    killed(service, *[user] * 20)
    dead_letters(service, 20, user_id=user)
    before = service.settled_stats()["dead_letters"]["max_retries"]
    answers = service.client.pipelined(
        *({"op": op, "user_id": user, "limit": 8} for op in ("dead.purge", "dead.replay", "dead.purge", "dead.purge"))
    )
    purged = answers[0]["count"] + answers[2]["count"] + answers[3]["count"]
    assert all(answer["ok"] for answer in answers)
    assert purged + answers[1]["count"] >= 20  # what is replayed dies again, and may be purged then
    dead_letters(service, 20 - purged, user_id=user)
    after = service.settled_stats()
    assert after["dead_letters"].get("max_retries", 0) == before - purged
    assert after["conserved"]


def test_what_waits_for_a_retry_is_pending_and_survives_a_kill(user: str) -> None:
    config = """
    [retry]
    base = "1h"
    max = "1h"
    jitter = "none"
    [channels.email]
    provider = "simulated"
    [channels.webhook]
    provider = "simulated"
    failure_rate = 1.0
    """
    with RunningDispatcher(textwrap.dedent(config), shards=1) as own:
        started_ms = int(time.time() * 1000)
        id_ = own.client.submit({"user_id": user, "title": "t", "channels": ["email", "webhook", "inapp"]})["ids"][0]

        def attempted() -> list[dict[str, Any]] | None:
            deliveries: list[dict[str, Any]] = own.request("status", id=id_)["deliveries"]
            return deliveries if [one["outcome"] for one in deliveries].count("pending") == 0 else None

        def is_kept() -> None:
            email, webhook, inapp = wait_until(attempted, what="the first attempts")
            assert (email["outcome"], inapp["outcome"]) == ("delivered", "delivered")
            assert (webhook["outcome"], webhook["attempts"]) == ("retrying", 1)
            assert webhook["last_error"]
            assert 3_590_000 < webhook["next_attempt_at"] - started_ms < 3_660_000
            stats = own.request("stats")
            assert (stats["planned"], stats["pending"], stats["outcomes"]["delivered"]) == (3, 1, 2)
            assert stats["conserved"]

        is_kept()
        own.kill()
        own.start()
        is_kept()


# --- stats ----------------------------------------------------------------------------------------------------------


def test_stats_account_for_every_delivery(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    before = service.settled_stats()
    user = new_user()
    quiet = new_user()
    service.request("user.put", user_id=quiet, user={"preferences": {"channels": {"email": False}}})
    service.client.submit(
        {"user_id": user, "title": "t", "category": "transaction", "idempotency_key": "k"},  # 2 delivered, 1 suppressed
        {"user_id": user, "title": "t", "category": "transaction", "idempotency_key": "k"},  # a duplicate plans none
        {"user_id": user, "title": "t", "priority": "urgent"},  # neither does a rejection
        {"recipients": [user, quiet], "title": "t", "channels": ["email"]},  # 1 delivered, 1 suppressed
        {"user_id": user, "title": "t", "channels": ["webhook", "sms"]},  # 2 dead
        {"user_id": user, "title": "t", "expires_at": 1},  # 1 expired
        *({"user_id": user, "title": "t", "channels": ["system"]} for _ in range(3)),  # 2 delivered, 1 rate_limited
    )
    after = service.settled_stats()

    def grown(path: Callable[[dict[str, Any]], int]) -> int:
        return path(after) - path(before)

    assert grown(lambda stats: stats["accepted"]) == 8
    assert grown(lambda stats: stats["duplicates"]) == 1
    assert grown(lambda stats: stats["rejected"]) == 1
    assert grown(lambda stats: stats["planned"]) == 11
    assert {name: grown(lambda stats, name=name: stats["outcomes"][name]) for name in FINAL} == {  # type: ignore[misc]
        "delivered": 5,
        "suppressed": 2,
        "dead": 2,
        "expired": 1,
        "rate_limited": 1,
        "cancelled": 0,
    }
    assert grown(lambda stats: stats["attempts"]) == 6
    assert grown(lambda stats: stats["failed_attempts"]) == 1
    assert grown(lambda stats: stats["channels"]["email"]["planned"]) == 3
    assert grown(lambda stats: stats["channels"]["email"]["outcomes"]["delivered"]) == 2
    assert grown(lambda stats: sum(stats["dead_letters"].values())) == 2


def test_every_answer_of_stats_is_conserved(service: RunningDispatcher, new_user: Callable[[], str]) -> None:
    user = new_user()
    batch = [{"user_id": f"{user}-{at}", "title": "t", "category": "transaction"} for at in range(500)]
    for _ in range(5):
        service.client.submit(*batch)
        stats = service.request("stats")
        assert stats["planned"] == sum(stats["outcomes"].values()) + stats["pending"]
        assert stats["conserved"] is True
        for channel in stats["channels"].values():
            assert set(channel["outcomes"]) == FINAL
    settled = service.settled_stats()
    assert settled["planned"] == sum(settled["outcomes"].values())
    assert settled["planned"] == sum(channel["planned"] for channel in settled["channels"].values())


def test_stats_have_depths_health_latency_and_window(service: RunningDispatcher, user: str) -> None:
    assert outcomes_of(service, user_id=user)
    stats = service.settled_stats()
    assert len(stats["shards"]) == 2
    assert sorted(shard["shard"] for shard in stats["shards"]) == [0, 1]
    for process in (*stats["shards"], stats["router"], stats["collector"]):
        assert process["pid"] > 0
        assert process["rss_mb"] > 0
        assert process["cpu_s"] >= 0
    for channel in stats["channels"].values():
        assert (channel["queued"], channel["in_flight"], channel["retrying"]) == (0, 0, 0)
    assert {"p50", "p99", "max"} == stats["latency_ms"].keys()
    assert 0 < stats["latency_ms"]["p50"] <= stats["latency_ms"]["p99"]
    assert stats["idempotency_window_s"] == 86_400
    assert len(set(service.child_pids().values())) == 4
