"""APNs: what is sent, the provider's token, and what each of its answers means."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from shards.channels.base import Context, SendError, Sent
from shards.channels.push import PushChannel
from shards.hidden import Secret
from tests.support.push import apns, fcm, settings, tokens
from tests.support.push.apns import ApnsServer, error
from tests.support.push.sending import delivery, outcomes, refused, sent
from tests.support.push.server import Answer, Fault

PHONE = ("apns", "00aa11bb")


@pytest.fixture
def server() -> Iterator[ApnsServer]:
    with ApnsServer() as server:
        yield server


def push(server: ApnsServer) -> PushChannel.Settings:
    return PushChannel.Settings(apns=settings.for_apns(server))


def provider_tokens(server: ApnsServer) -> list[str]:
    return [request.headers["authorization"].removeprefix("bearer ") for request in server.requests]


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_a_message(server: ApnsServer) -> None:
    now = time.time()
    one = delivery(
        PHONE,
        priority="critical",
        collapse="c" * 100,
        expires_ms=int((now + 600) * 1_000),
        payload={"order": 17, "aps": {"badge": 3}},
    )
    detail = sent(push(server), one).detail
    (request,) = server.accepted
    assert request.path == "/3/device/00aa11bb"
    assert detail == f"apns {uuid.UUID(request.headers['apns-id'])}"
    assert request.headers["apns-topic"] == apns.TOPIC
    assert request.headers["apns-priority"] == "10"
    assert request.headers["apns-push-type"] == "alert"
    assert len(request.headers["apns-collapse-id"]) == 32
    assert abs(int(request.headers["apns-expiration"]) - now - 600) < 60
    assert server.messages() == [
        {
            "delivery_id": "d-1",
            "order": 17,
            "aps": {"alert": {"title": "Order 17", "body": "It has shipped"}, "sound": "default", "badge": 3},
        }
    ]


@pytest.mark.parametrize(("priority", "said"), [("high", "10"), ("normal", "5"), ("low", "1")])
def test_priorities(server: ApnsServer, priority: str, said: str) -> None:
    sent(push(server), delivery(PHONE, priority=priority, expires_ms=1))
    (request,) = server.accepted
    assert request.headers["apns-priority"] == said
    assert request.headers["apns-expiration"] == "0"
    assert "apns-collapse-id" not in request.headers


def test_its_id_is_the_same_at_every_attempt_and_another_for_each_device(server: ApnsServer) -> None:
    other = ("apns", "22cc")
    outcomes(push(server), delivery(PHONE), delivery(PHONE, attempt=2), delivery(other), delivery(PHONE, id="d-2"))
    ids = [request.headers["apns-id"] for request in server.accepted]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_a_token_cannot_lead_elsewhere(server: ApnsServer) -> None:
    sent(push(server), delivery(("apns", "../x y?z")))
    assert server.accepted[0].path == "/3/device/..%2Fx%20y%3Fz"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"text": "é" * 2_100}, "more than the 4096 that APNs takes; shorten them"),
        ({"payload": {"aps": "alert"}}, "payload.aps is no map"),
    ],
)
def test_what_apns_would_refuse_is_not_sent(server: ApnsServer, more: Any, words: str) -> None:
    error = refused(push(server), delivery(PHONE, **more))
    assert error.error_class == "permanent"
    assert words in error.message
    assert not server.requests


# --- the provider's token --------------------------------------------------------------------------------------------


def test_one_token_is_used_for_all(server: ApnsServer) -> None:
    outcomes(push(server), *(delivery(PHONE) for _ in range(3)))
    assert len(provider_tokens(server)) == 3
    assert len(set(provider_tokens(server))) == 1
    assert server.connections == 1


def test_an_expired_token_is_renewed_once_by_all(server: ApnsServer) -> None:
    async def work() -> None:
        channel = PushChannel(push(server), Context("push", 30.0))
        await channel.send(delivery(PHONE))
        server.expired.update(provider_tokens(server))
        await asyncio.gather(*(channel.send(delivery(PHONE)) for _ in range(20)))
        await channel.close()

    asyncio.run(work())
    assert len(server.accepted) == 21
    assert len(set(provider_tokens(server))) == 2


def test_a_token_that_is_always_expired_is_a_misconfiguration(server: ApnsServer) -> None:
    """As on a machine whose clock is wrong."""
    server.then(error(403, "ExpiredProviderToken"), error(403, "ExpiredProviderToken"))
    assert refused(push(server), delivery(PHONE)).error_class == "misconfigured"
    assert len(server.requests) == 2


def test_a_team_that_apple_does_not_know(server: ApnsServer) -> None:
    wrong = msgspec.structs.replace(settings.for_apns(server), team_id="ZZZZZZZZZZ")
    error = refused(PushChannel.Settings(apns=wrong), delivery(PHONE))
    assert error.error_class == "misconfigured"
    assert error.message == "apns ...00aa11bb: HTTP 403: InvalidProviderToken"


# --- its answers ------------------------------------------------------------------------------------------------------


ANSWERS: list[tuple[Any, str, float | None]] = [
    (error(400, "BadDeviceToken"), "bad_address", None),
    (error(400, "DeviceTokenNotForTopic"), "bad_address", None),
    (error(410, "Unregistered"), "bad_address", None),
    (error(410, "ExpiredToken"), "bad_address", None),
    (error(400, "BadPriority"), "permanent", None),
    (error(400, "IdleTimeout"), "transient", None),
    (error(400, "TopicDisallowed"), "misconfigured", None),
    (error(403, "InvalidProviderToken"), "misconfigured", None),
    (error(403, "BadCertificateEnvironment"), "misconfigured", None),
    (error(404, "BadPath"), "permanent", None),
    (error(413, "PayloadTooLarge"), "permanent", None),
    (error(429, "TooManyRequests"), "transient", None),
    (error(429, "TooManyProviderTokenUpdates", **{"Retry-After": "7"}), "throttled", 7.0),
    (error(500, "InternalServerError"), "transient", None),
    (error(503, "ServiceUnavailable"), "transient", None),
    (error(503, "Shutdown"), "transient", None),
    (Answer(500, b"\xff{"), "transient", None),
    (Fault.DROP, "ambiguous", None),
    (Fault.GO_AWAY_WITHOUT, "transient", None),
]


@pytest.fixture(scope="module")
def ends() -> list[Sent | SendError]:
    """What became of a message for each of ``ANSWERS``."""
    with ApnsServer() as server:
        server.then(*(answer for answer, *_ in ANSWERS))
        found = outcomes(push(server), *[delivery(PHONE)] * len(ANSWERS))
        assert len(server.requests) == len(ANSWERS)
    return found


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_what_an_answer_means(ends: list[Sent | SendError], number: int) -> None:
    _, error_class, retry_after_s = ANSWERS[number]
    found = ends[number]
    assert isinstance(found, SendError)
    assert found.error_class == error_class
    assert found.retry_after_s == retry_after_s
    assert len(found.bad) == (error_class == "bad_address")


def test_a_lost_connection_is_made_again(server: ApnsServer) -> None:
    server.then(Answer(200), Fault.DROP)
    first, second, third = outcomes(push(server), delivery(PHONE), delivery(PHONE), delivery(PHONE))
    assert isinstance(first, Sent)
    assert not isinstance(second, Sent)
    assert isinstance(third, Sent)
    assert server.connections == 2


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"key": Secret("hunter2")}, "key: it is no private key in PEM"),
        ({"key": Secret(tokens.pem(fcm.key()))}, "key: .*not one of the curve P-256"),
        ({"key_id": "abc"}, "key_id is 'abc'; it has 10 capitals and digits"),
        ({"team_id": ""}, "team_id is ''; it has 10 capitals and digits"),
        ({"topic": "a b"}, "topic is 'a b'; it is the app's bundle id"),
        ({"base_url": "http://localhost"}, "base_url is 'http://localhost'; it is to be like https://"),
        ({"ca_file": "/nowhere"}, "ca_file is '/nowhere', which has no certificates"),
    ],
)
def test_wrong_settings_are_refused(server: ApnsServer, changed: Any, words: str) -> None:
    fields = {**msgspec.structs.asdict(settings.for_apns(server)), **changed}
    with pytest.raises(ValueError, match=words) as caught:
        type(settings.for_apns(server))(**fields)
    assert "hunter2" not in str(caught.value)
