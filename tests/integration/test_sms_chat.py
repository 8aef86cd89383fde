"""SMS and chat through the whole service, to servers that speak as their providers do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.endpoint import Endpoint, answer
from tests.support.rigs.twilio import ACCOUNT, QUEUED, failed
from tests.support.service import RunningDispatcher, wait_until

PATIENCE_S = 60.0
SECRETS = ("token-17", "key-17", "room-17")
CONFIG = """
[retry]
base = "50ms"
max_retries = 2

[categories.security]
channels = ["chat"]

[channels.sms]
[[channels.sms.providers]]
provider = "twilio"
account_sid = "{account}"
auth_token = "env:TWILIO_TOKEN"
from_number = "+15005550006"
segments_max = 2
url = "http://127.0.0.1:{twilio}"

[channels.texts]
provider = "sms-http"
url = "http://127.0.0.1:{gateway}/send"
encoding = "form"
id_at = "/id"
message_at = "/why"
[channels.texts.headers]
X-Key = "env:SMS_KEY"
[channels.texts.body]
dest = "{{number}}"
msg = "{{text}}"

[channels.chat]
provider = "apprise"
schemes = ["json://127.0.0.1"]
[channels.chat.categories]
security = ["json://127.0.0.1:{rooms}/guards"]
"""


class Services(NamedTuple):
    twilio: Endpoint
    gateway: Endpoint
    rooms: Endpoint


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with Endpoint(usual=QUEUED) as twilio, Endpoint() as gateway, Endpoint() as rooms:
        yield Services(twilio, gateway, rooms)


@pytest.fixture(scope="module")
def service(services: Services) -> Iterator[RunningDispatcher]:
    ports = {name: endpoint.port for name, endpoint in services._asdict().items()}
    running = RunningDispatcher(CONFIG.format(account=ACCOUNT, **ports))
    running.environment = {"TWILIO_TOKEN": "token-17", "SMS_KEY": "key-17"}
    with running:
        contacts = {"phone": "+33612345678", "chat": [f"json://127.0.0.1:{services.rooms.port}/room-17"]}
        running.request("user.put", user_id="ada", user={"contacts": contacts})
        yield running
        assert not [secret for secret in SECRETS if secret in running.log_file.read_text()]


def send(service: RunningDispatcher, channel: str, user: str = "ada", **fields: Any) -> str:
    return str(service.client.submit({"user_id": user, "channels": [channel], "body": "said", **fields})["ids"][0])


def outcome(service: RunningDispatcher, id: str) -> dict[str, Any]:
    """The delivery, once it is final."""

    def final() -> dict[str, Any] | None:
        found: dict[str, Any] = service.request("status", id=id)["deliveries"][0]
        return found if found["outcome"] not in ("pending", "retrying") else None

    return wait_until(final, PATIENCE_S, f"the end of {id}")


@pytest.mark.parametrize(
    ("channel", "endpoint", "refusal", "words"),
    [
        ("sms", "twilio", failed(400, 21408, "no permission for the region"), "21408: no permission for the region"),
        ("texts", "gateway", answer(400, '{"why": "no credit"}'), "HTTP 400: no credit"),
        ("chat", "rooms", answer(413, "the room is full"), "the room is full"),
    ],
    ids=["twilio", "sms-http", "apprise"],
)
def test_delivered_retried_dead_and_replayed(
    service: RunningDispatcher, services: Services, channel: str, endpoint: str, refusal: bytes, words: str
) -> None:
    server: Endpoint = getattr(services, endpoint)
    found = outcome(service, send(service, channel))
    assert (found["outcome"], found["attempts"]) == ("delivered", 1), found

    server.then(answer(503))
    found = outcome(service, send(service, channel))
    assert (found["outcome"], found["attempts"]) == ("delivered", 2), found

    server.then(refusal)
    id = send(service, channel)
    found = outcome(service, id)
    assert (found["outcome"], found["reason"], found["attempts"]) == ("dead", "permanent", 1), found
    assert words in found["last_error"]
    assert service.request("dead.replay", id=id)["count"] == 1
    wait_until(lambda: outcome(service, id)["outcome"] == "delivered", PATIENCE_S, "the replay")
    assert len(server.taken) == 3


@pytest.mark.parametrize(
    ("channel", "reason", "words"),
    [("sms", "no_contact", None), ("texts", "no_contact", None), ("chat", "permanent", "no categories.system")],
)
def test_who_has_no_contact(service: RunningDispatcher, channel: str, reason: str, words: str | None) -> None:
    found = outcome(service, send(service, channel, "nobody"))
    assert found["reason"] == reason
    assert (words or "") in (found["last_error"] or "")


def test_an_sms_that_takes_too_many_segments_is_a_dead_letter(service: RunningDispatcher) -> None:
    found = outcome(service, send(service, "sms", body="é" * 307))
    assert found["reason"] == "permanent"
    assert "takes 3 segments of GSM-7; at most 2 are allowed" in found["last_error"]


def test_a_category_has_a_room_of_its_own(service: RunningDispatcher, services: Services) -> None:
    before = len(services.rooms.taken)
    id = service.client.submit({"user_id": "guard", "category": "security", "title": "break-in"})["ids"][0]
    assert outcome(service, id)["outcome"] == "delivered"
    request = services.rooms.taken[before]
    assert request.line.split()[1].rstrip("/") == "/guards"
    assert json.loads(request.body)["title"] == "break-in"


def test_a_url_that_is_not_allowed_is_a_dead_letter_that_does_not_tell_it(service: RunningDispatcher) -> None:
    contacts = {"chat": ["xml://10.0.0.1/room-17"]}
    service.request("user.put", user_id="mallory", user={"contacts": contacts})
    id = send(service, "chat", "mallory")
    found = outcome(service, id)
    assert found["reason"] == "permanent"
    assert "is not allowed in contacts.chat" in found["last_error"]
    assert "room-17" not in found["last_error"]
    assert service.request("user.get", user_id="mallory")["user"]["contacts"] == contacts


def test_a_room_that_is_gone_is_not_tried_again(service: RunningDispatcher, services: Services) -> None:
    contacts = {"chat": [f"json://127.0.0.1:{services.rooms.port}/gone"]}
    service.request("user.put", user_id="bob", user={"contacts": contacts})
    services.rooms.then(answer(404))
    assert outcome(service, send(service, "chat", "bob"))["reason"] == "bad_address"
    requests = len(services.rooms.requests)
    assert outcome(service, send(service, "chat", "bob"))["outcome"] == "suppressed"
    assert len(services.rooms.requests) == requests
