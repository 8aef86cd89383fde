"""Webhooks through the whole service, to servers of their own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.support.endpoint import Endpoint, answer, hang
from tests.support.service import RunningDispatcher, wait_until

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
CONFIG = """
[channels.webhook]
provider = "webhook"
allow_private = ["127.0.0.1/32"]
ports = []
retry = { max_retries = 2, base = "50ms" }
timeout = "30s"

[errors.webhook]
"404" = "permanent"
"""
LONG_S = 60.0


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG) as running:
        yield running


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as opened:
        yield opened


@pytest.fixture
def user(service: RunningDispatcher, endpoint: Endpoint, request: pytest.FixtureRequest) -> str:
    """Of this test alone, with the endpoint."""
    return put(service, request.node.name, endpoint.url)


def put(service: RunningDispatcher, user: str, url: str, **more: Any) -> str:
    service.request("user.put", user_id=user, user={"contacts": {"webhook": {"url": url, "secret": SECRET}}, **more})
    return user


def submit(service: RunningDispatcher, user: str, **more: Any) -> str:
    answered = service.client.submit({"user_id": user, "title": "Hello", "channels": ["webhook"], **more})
    assert answered["rejected"] == []
    return str(answered["ids"][0])


def ended(service: RunningDispatcher, id_: str) -> dict[str, Any]:
    """The only delivery of a notification, once it is final."""

    def final() -> dict[str, Any] | None:
        (delivery,) = service.request("status", id=id_)["deliveries"]
        return None if delivery["outcome"] in {"pending", "retrying", "deferred"} else delivery

    return wait_until(final, LONG_S, "the end of the delivery")


def test_it_arrives_signed(service: RunningDispatcher, endpoint: Endpoint, user: str) -> None:
    id_ = submit(service, user, body="World \N{ROCKET}", payload={"order": 17}, category="transaction")
    assert ended(service, id_)["outcome"] == "delivered"
    (request,) = endpoint.requests
    document: Any = Webhook(SECRET).verify(request.body, request.headers)
    assert document["type"] == "notification.transaction"
    data = document["data"]
    assert (data["id"], data["user_id"], data["title"], data["body"]) == (id_, user, "Hello", "World \N{ROCKET}")
    assert data["payload"] == {"order": 17}


def test_after_a_failure_it_comes_again_under_the_same_id(
    service: RunningDispatcher, endpoint: Endpoint, user: str
) -> None:
    endpoint.then(answer(500), answer(302, "", Location="http://127.0.0.1/"))
    delivery = ended(service, submit(service, user))
    assert (delivery["outcome"], delivery["attempts"]) == ("delivered", 3)
    assert len(endpoint.requests) == 3
    assert len({request.headers["webhook-id"] for request in endpoint.requests}) == 1


def test_what_fails_for_good_is_a_dead_letter_in_the_words_of_the_endpoint_and_its_replay_arrives(
    service: RunningDispatcher, endpoint: Endpoint, user: str
) -> None:
    endpoint.then(answer(404, "no such hook"))
    id_ = submit(service, user)
    assert ended(service, id_)["outcome"] == "dead"
    (letter,) = dead_letters(service, user)
    assert (letter["error_class"], letter["last_error"], letter["attempts"]) == (
        "permanent",
        "HTTP 404: no such hook",
        1,
    )
    assert service.request("dead.replay", user_id=user)["count"] == 1
    assert ended(service, id_)["outcome"] == "delivered"
    first, second = endpoint.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


def dead_letters(service: RunningDispatcher, user: str) -> list[dict[str, Any]]:
    return wait_until(lambda: service.request("dead.list", user_id=user)["items"], LONG_S, "a dead letter")


def test_what_is_gone_is_not_asked_again_until_the_user_names_another(
    service: RunningDispatcher, endpoint: Endpoint, user: str
) -> None:
    endpoint.then(answer(410, "I have left"))
    id_ = submit(service, user)
    assert ended(service, id_)["outcome"] == "dead"
    (alert,) = (event for event in service.events() if event.get("id") == id_)
    assert (alert["event"], alert["channel"]) == ("a contact is not used again", "webhook")
    (letter,) = dead_letters(service, user)
    assert (letter["error_class"], letter["last_error"]) == ("bad_address", "HTTP 410: I have left")
    delivery = ended(service, submit(service, user))
    assert (delivery["outcome"], delivery["reason"]) == ("suppressed", "bad_address")
    assert len(endpoint.requests) == 1
    put(service, user, f"{endpoint.url}/new")
    assert ended(service, submit(service, user))["outcome"] == "delivered"


def test_what_never_works_ends_with_the_last_words(service: RunningDispatcher, endpoint: Endpoint, user: str) -> None:
    endpoint.then(*(answer(500, f"sorry {n}") for n in range(3)))
    assert ended(service, submit(service, user))["attempts"] == 3
    (letter,) = dead_letters(service, user)
    assert (letter["reason"], letter["last_error"]) == ("max_retries", "HTTP 500: sorry 2")


def test_an_address_inside_is_not_reached_and_the_dead_letter_says_how_it_would_be(
    service: RunningDispatcher, request: pytest.FixtureRequest
) -> None:
    with Endpoint(host="127.0.0.2") as inside:
        user = put(service, request.node.name, inside.url)
        assert ended(service, submit(service, user))["outcome"] == "dead"
        (letter,) = dead_letters(service, user)
        assert (letter["error_class"], "allow_private" in letter["last_error"]) == ("permanent", True)
        assert inside.connections == 0


def test_an_endpoint_that_hangs_holds_up_nobody_else(service: RunningDispatcher, endpoint: Endpoint) -> None:
    with Endpoint() as silent:
        silent.then(*[hang] * 1_000)
        slow = [put(service, f"slow-{n}", silent.url) for n in range(10)]
        fine = [put(service, f"fine-{n}", endpoint.url) for n in range(10)]
        service.client.submit(*({"user_id": slow[n % 10], "title": "x", "channels": ["webhook"]} for n in range(1_000)))
        wait_until(lambda: len(silent.requests) >= 2, LONG_S, "attempts that hang")
        ids = [submit(service, user, channels=[channel]) for user in fine for channel in ("webhook", "inapp")]
        assert {ended(service, id_)["outcome"] for id_ in ids} == {"delivered"}
        stats = service.request("stats")["channels"]["webhook"]
        assert stats["waiting_for_endpoints"] > 0
        assert len(endpoint.requests) == 10
        assert json.loads(endpoint.requests[0].body)["data"]["user_id"].startswith("fine-")


def test_what_was_under_way_at_a_crash_comes_again_under_the_same_id(
    service: RunningDispatcher, endpoint: Endpoint, user: str
) -> None:
    endpoint.then(hang)
    id_ = submit(service, user)
    wait_until(lambda: endpoint.requests, LONG_S, "the attempt that hangs")
    service.kill()
    service.start()
    assert ended(service, id_)["outcome"] == "delivered"
    first, second = endpoint.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
