"""FCM: what is sent, the access token's life, and what each of its answers means."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shards.channels import jwt
from shards.channels.base import Context, SendError, Sent
from shards.channels.fcm import Settings
from shards.channels.push import PushChannel
from shards.hidden import Secret
from tests.support.push import apns, fcm, settings, tokens
from tests.support.push.fcm import FcmServer, error
from tests.support.push.sending import delivery, outcomes, refused, sent
from tests.support.push.server import Answer, Fault

PHONE = ("fcm", "phone-1")


@pytest.fixture
def server() -> Iterator[FcmServer]:
    with FcmServer() as server:
        yield server


def push(server: FcmServer) -> PushChannel.Settings:
    return PushChannel.Settings(fcm=settings.for_fcm(server))


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_a_message(server: FcmServer) -> None:
    now = time.time()
    one = delivery(
        PHONE,
        priority="high",
        collapse="order 17",
        expires_ms=int((now + 600) * 1_000),
        payload={"order": 17, "link": "shop://17", "lines": [1, None]},
    )
    assert sent(push(server), one).detail == "fcm projects/shop-1/messages/1"
    (message,) = server.messages()
    assert message["token"] == "phone-1"
    assert message["notification"] == {"title": "Order 17", "body": "It has shipped"}
    assert message["data"] == {"delivery_id": "d-1", "order": "17", "link": "shop://17", "lines": "[1,null]"}
    android, headers, browser = message["android"], message["apns"]["headers"], message["webpush"]["headers"]
    assert android["priority"] == "HIGH"
    assert 0 < int(android["ttl"].removesuffix("s")) <= 600
    assert android["collapse_key"] == android["notification"]["tag"] == headers["apns-collapse-id"] == browser["Topic"]
    assert abs(int(headers["apns-expiration"]) - now - 600) < 60
    assert headers["apns-priority"] == "10"
    assert browser["Urgency"] == "high"


def test_what_may_wait_says_so(server: FcmServer) -> None:
    sent(push(server), delivery(PHONE, priority="low"))
    (message,) = server.messages()
    assert message["android"] == {"priority": "NORMAL", "ttl": "2419200s"}
    assert message["webpush"]["headers"]["Urgency"] == "very-low"


def test_what_has_expired_is_for_now_or_never(server: FcmServer) -> None:
    sent(push(server), delivery(PHONE, expires_ms=1))
    (message,) = server.messages()
    assert message["android"]["ttl"] == "0s"
    assert message["apns"]["headers"]["apns-expiration"] == "0"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"text": "é" * 2_100}, "more than the 4096 that FCM takes; shorten them"),
        ({"payload": {"from": "me"}}, "payload.from: FCM keeps this key for itself"),
        ({"payload": {"google.x": 1}}, "payload.google.x: FCM keeps this key for itself"),
    ],
)
def test_what_fcm_would_refuse_is_not_sent(server: FcmServer, more: Any, words: str) -> None:
    """It would call the token invalid, for no fault of the token's."""
    error = refused(push(server), delivery(PHONE, **more))
    assert error.error_class == "permanent"
    assert error.bad == ()
    assert words in error.message
    assert not server.requests


# --- the access token ------------------------------------------------------------------------------------------------


def test_one_token_is_fetched_for_all(server: FcmServer) -> None:
    async def work() -> None:
        channel = PushChannel(push(server), Context("push", 30.0))
        await asyncio.gather(*(channel.send(delivery(("fcm", f"phone-{n}"))) for n in range(20)))
        await channel.close()

    asyncio.run(work())
    assert len(server.messages()) == 20
    assert len(server.issued) == 1


def test_a_refused_token_is_fetched_anew_once_by_all(server: FcmServer) -> None:
    async def work() -> None:
        channel = PushChannel(push(server), Context("push", 30.0))
        await channel.send(delivery(PHONE))
        server.revoked.add(server.issued[0])
        await asyncio.gather(*(channel.send(delivery(("fcm", f"phone-{n}"))) for n in range(20)))
        await channel.close()

    asyncio.run(work())
    assert len(server.messages()) == 21
    assert len(server.issued) == 2


def test_a_token_about_to_expire_is_renewed(server: FcmServer) -> None:
    server.grants = [Answer(200, b'{"access_token": "short", "expires_in": 200}')]
    server.issued.append("short")
    assert all(isinstance(end, Sent) for end in outcomes(push(server), delivery(PHONE), delivery(PHONE)))
    assert len([request for request in server.requests if request.path == "/token"]) == 2


def test_a_token_that_is_always_refused_is_a_misconfiguration(server: FcmServer) -> None:
    server.then(fcm.UNAUTHENTICATED, fcm.UNAUTHENTICATED)
    error = refused(push(server), delivery(PHONE))
    assert error.error_class == "misconfigured"
    assert len(server.issued) == 2


def test_credentials_of_apple_that_firebase_lacks_need_no_new_token(server: FcmServer) -> None:
    server.then(error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", "Auth error from APNS or Web Push Service"))
    assert refused(push(server), delivery(PHONE)).error_class == "misconfigured"
    assert len(server.issued) == 1


@pytest.mark.parametrize(
    ("grant", "error_class", "words"),
    [
        (Answer(400, b'{"error": "invalid_grant"}'), "misconfigured", "invalid_grant"),
        (Answer(401, b'{"error": "invalid_client"}'), "misconfigured", "invalid_client"),
        (Answer(429, b"", {"Retry-After": "5"}), "throttled", "HTTP 429"),
        (Answer(503, b"busy"), "transient", "busy"),
        (Answer(200, b"<html>"), "transient", "no access token from"),
        (Answer(200, b'{"access_token": ""}'), "transient", "no access token from"),
        (Answer(200, b'{"access_token": "a\\nX-Name: b"}'), "transient", "no access token from"),
        (Fault.DROP, "transient", "no access token from"),
    ],
)
def test_no_access_token(server: FcmServer, grant: Any, error_class: str, words: str) -> None:
    """Nothing was sent to the device, so it is never ambiguous; and the next one is asked for anew."""
    server.grants = [grant]
    first, second = outcomes(push(server), delivery(PHONE), delivery(PHONE))
    assert isinstance(first, SendError)
    assert first.error_class == error_class
    assert words in first.message
    assert f"no access token from {server.url}/token: " in first.message
    assert first.retry_after_s == (5.0 if error_class == "throttled" else None)
    assert isinstance(second, Sent)


def test_a_key_that_google_does_not_know(server: FcmServer) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    account = fcm.account(server.token_uri, private_key=tokens.pem(rsa.generate_private_key(65_537, 2_048)))
    changed = PushChannel.Settings(fcm=Settings(Secret(account), base_url=server.url))
    error = refused(changed, delivery(PHONE))
    assert error.error_class == "misconfigured"
    assert "Invalid JWT Signature" in error.message


# --- its answers ------------------------------------------------------------------------------------------------------

FIELD = "type.googleapis.com/google.rpc.BadRequest"
NO_TOKEN = "The registration token is not a valid FCM registration token"
APPLE = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"


def violation(field: str) -> dict[str, Any]:
    return {"@type": FIELD, "fieldViolations": [{"field": field, "description": "wrong", "more": {"x": 1}}]}


ANSWERS: list[tuple[Any, str, float | None]] = [
    (fcm.UNREGISTERED, "bad_address", None),
    (error(404, "NOT_FOUND", "", "Requested entity was not found."), "permanent", None),
    (error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", "SenderId mismatch"), "bad_address", None),
    (error(403, "PERMISSION_DENIED", "", "no permission"), "misconfigured", None),
    (error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", NO_TOKEN), "bad_address", None),
    (error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Android message is too big"), "permanent", None),
    (error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Request contains an invalid argument."), "permanent", None),
    (error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "x", violation("message.token")), "bad_address", None),
    (error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "x", violation("message.data[0]")), "permanent", None),
    (error(400, "INVALID_ARGUMENT", "", "x", violation("message.data[0].value")), "permanent", None),
    (error(400, "INVALID_ARGUMENT", "", "Invalid JSON payload received."), "permanent", None),
    (
        error(
            400,
            "INVALID_ARGUMENT",
            "INVALID_ARGUMENT",
            "x",
            {"@type": APPLE, "statusCode": 410, "reason": "Unregistered"},
        ),
        "bad_address",
        None,
    ),
    (
        error(
            400,
            "INVALID_ARGUMENT",
            "INVALID_ARGUMENT",
            "x",
            {"@type": APPLE, "statusCode": 413, "reason": "PayloadTooLarge"},
        ),
        "permanent",
        None,
    ),
    (error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "x", Retry_After="7"), "throttled", 7.0),
    (error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "x"), "throttled", 60.0),
    (error(500, "INTERNAL", "INTERNAL", "x"), "transient", None),
    (error(503, "UNAVAILABLE", "UNAVAILABLE", "x"), "transient", None),
    (error(503, "UNAVAILABLE", "UNAVAILABLE", "x", Retry_After="3"), "throttled", 3.0),
    (Answer(502, b"<html>Bad Gateway</html>"), "transient", None),
    (Fault.DROP, "ambiguous", None),
]


@pytest.fixture(scope="module")
def ends() -> list[Sent | SendError]:
    """What became of a message for each of ``ANSWERS``."""
    with FcmServer() as server:
        server.then(*(answer for answer, *_ in ANSWERS))
        found = outcomes(push(server), *[delivery(PHONE)] * len(ANSWERS))
        assert len([request for request in server.requests if server.scripted(request)]) == len(ANSWERS)
    return found


@pytest.mark.parametrize("number", range(len(ANSWERS)))
def test_what_an_answer_means(ends: list[Sent | SendError], number: int) -> None:
    _, error_class, retry_after_s = ANSWERS[number]
    found = ends[number]
    assert isinstance(found, SendError)
    assert found.error_class == error_class
    assert found.retry_after_s == retry_after_s
    assert len(found.bad) == (error_class == "bad_address")


def test_the_words_of_fcm_are_told(server: FcmServer) -> None:
    server.then(fcm.UNREGISTERED)
    assert refused(push(server), delivery(PHONE)).message == (
        "fcm ...phone-1: HTTP 404: UNREGISTERED: Requested entity was not found."
    )


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "missing required field `project_id`"),
        ("hunter2", "JSON is malformed"),
        (json.dumps(dict.fromkeys(("project_id", "private_key_id", "private_key", "client_email"), "hunter2")), "PEM"),
        (None, "not one of RSA"),
        (fcm.account("oauth2"), "token_uri is 'oauth2', which is no URL"),
    ],
)
def test_a_wrong_service_account_is_refused_without_telling_it(server: FcmServer, text: str | None, words: str) -> None:
    account = text or fcm.account(server.token_uri, private_key=tokens.pem(apns.key()))
    with pytest.raises(ValueError, match=words) as caught:
        Settings(Secret(account))
    assert str(caught.value).startswith("service_account: ")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["fcm.googleapis.com", "https://fcm.googleapis.com:99999", "https://[::1"])
def test_a_wrong_url_is_refused(server: FcmServer, url: str) -> None:
    with pytest.raises(ValueError, match=r"base_url is .*; it is to be like https://"):
        Settings(Secret(fcm.account(server.token_uri)), base_url=url)


def test_who_waits_in_vain_for_a_token_has_sent_nothing() -> None:
    async def never() -> jwt.Issued:
        return await asyncio.Event().wait()  # type: ignore[return-value]  # it does not come back

    async def wait(token: jwt.Renewed) -> SendError:
        with pytest.raises(SendError) as caught:
            async with asyncio.timeout(0.05):
                await token.get()
        return caught.value

    async def both() -> tuple[SendError, SendError]:
        token = jwt.Renewed(never)
        return await asyncio.gather(wait(token), wait(token))

    assert [error.error_class for error in asyncio.run(both())] == ["transient"] * 2
