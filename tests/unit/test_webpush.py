"""Web Push: encryption by the vectors of the RFC, what is sent, and what each answer means."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from shards import base64url, subscription
from shards.channels import aes128gcm, webpush
from shards.channels.base import Context, SendError, Sent
from shards.channels.push import PushChannel
from shards.hidden import Secret
from tests.support.push import fcm, settings, tokens
from tests.support.push.sending import delivery, outcomes, refused, sent
from tests.support.push.server import Answer, Fault
from tests.support.push.webpush import WebPushServer


@pytest.fixture
def server() -> Iterator[WebPushServer]:
    with settings.webpush_server() as server:
        yield server


def push(server: WebPushServer) -> PushChannel.Settings:
    return PushChannel.Settings(webpush=settings.for_webpush(server))


def browser(server: WebPushServer, name: str = "one") -> tuple[str, str]:
    return "webpush", server.subscription(name)


# --- encryption -----------------------------------------------------------------------------------------------------


def test_the_example_of_rfc_8291() -> None:
    key = base64url.decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw", 32)
    encrypted = aes128gcm.encrypt(
        b"When I grow up, I want to be a watermelon",
        base64url.decode("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", 65),
        base64url.decode("BTBZMqHH6r4Tts7J_aSIgg", 16),
        base64url.decode("DGv6ra1nlYgDCS1FRnbzlw", 16),
        ec.derive_private_key(int.from_bytes(key, "big"), ec.SECP256R1()),
    )
    assert base64url.encode(encrypted) == (
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7"
        "A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_a_message(server: WebPushServer) -> None:
    one = delivery(
        browser(server),
        priority="high",
        collapse="order 17",
        expires_ms=int((time.time() + 600) * 1_000),
        payload={"order": 17},
    )
    assert sent(push(server), one).detail == f"webpush {server.url}/message/0"
    (request,) = server.accepted
    assert request.path == "/push/one"
    assert 0 < int(request.headers["ttl"]) <= 600
    assert request.headers["urgency"] == "high"
    assert len(request.headers["topic"]) == 32
    assert b"Order" not in request.body
    assert server.messages() == [
        {
            "id": "d-1",
            "title": "Order 17",
            "body": "It has shipped",
            "category": "transaction",
            "type": "info",
            "priority": "high",
            "tag": request.headers["topic"],
            "payload": {"order": 17},
        }
    ]


@pytest.mark.parametrize(("priority", "urgency"), [("critical", "high"), ("normal", "normal"), ("low", "very-low")])
def test_urgency(server: WebPushServer, priority: str, urgency: str) -> None:
    sent(push(server), delivery(browser(server), priority=priority))
    (request,) = server.accepted
    assert request.headers["urgency"] == urgency
    assert request.headers["ttl"] == "2419200"
    assert "topic" not in request.headers


def test_the_longest_there_may_be_arrives_and_one_more_byte_is_not_sent(server: WebPushServer) -> None:
    empty = delivery(browser(server), text="")
    sent(push(server), empty)
    room = aes128gcm.PLAIN_BYTES_MAX - len(server.browser.read(server.accepted[0].body))
    sent(push(server), delivery(browser(server), text="x" * room))
    assert len(server.accepted[1].body) == 4_096
    error = refused(push(server), delivery(browser(server), text="x" * (room + 1)))
    assert error.error_class == "permanent"
    assert "more than the 3993 that Web Push takes; shorten them" in error.message
    assert len(server.requests) == 2


def test_each_push_service_has_a_token_of_its_own(server: WebPushServer) -> None:
    """They check whom it is for."""
    with settings.webpush_server() as other:
        devices = browser(server), browser(server, "two"), browser(other)
        both = msgspec.structs.replace(settings.for_webpush(server), ports=(server.port, other.port))
        outcomes(PushChannel.Settings(webpush=both), delivery(*devices), delivery(*devices))
        assert len(other.accepted) == 2
    assert len(server.accepted) == 4
    assert len({request.headers["authorization"] for request in server.accepted}) == 1


def test_the_tokens_that_are_kept_are_bounded(server: WebPushServer) -> None:
    async def work() -> None:
        service = webpush.WebPush(settings.for_webpush(server), Context("push"))
        first = service._token("https://a.example/1")
        assert service._token("https://a.example/2") == first
        for number in range(webpush.ORIGINS_MAX):
            service._token(f"https://{number}.example/")
        assert len(service._tokens) <= webpush.ORIGINS_MAX
        await service.close()

    asyncio.run(work())


# --- where it is sent ------------------------------------------------------------------------------------------------


def test_an_endpoint_inside_is_not_asked(server: WebPushServer) -> None:
    """Users say where their browsers are."""
    guarded = msgspec.structs.replace(settings.for_webpush(server), allow_private=())
    error = refused(PushChannel.Settings(webpush=guarded), delivery(browser(server)))
    assert error.error_class == "permanent"
    assert "denied" in error.message
    assert not server.connections


def test_a_push_service_that_nobody_knows_is_not_asked(server: WebPushServer) -> None:
    usual = msgspec.structs.replace(settings.for_webpush(server), services=webpush.SERVICES)
    error = refused(PushChannel.Settings(webpush=usual), delivery(browser(server)))
    assert error.error_class == "permanent"
    assert error.bad == ()
    assert "the push service localhost is not among `services`" in error.message
    assert not server.connections


@pytest.mark.parametrize(
    ("services", "host", "taken"),
    [
        (webpush.SERVICES, "fcm.googleapis.com", True),
        (webpush.SERVICES, "wns2-par02p.notify.windows.com", True),
        (webpush.SERVICES, "evilnotify.windows.com", False),
        (webpush.SERVICES, "push.apple.com.example.org", False),
        (("*",), "example.org", True),
    ],
)
def test_which_push_services_are_asked(services: tuple[str, ...], host: str, taken: bool) -> None:
    assert webpush.is_among(services, host) is taken


@pytest.mark.parametrize("token", ["", "{}", "not JSON"])
def test_a_token_from_before_they_were_checked_is_dead(server: WebPushServer, token: str) -> None:
    error = refused(push(server), delivery(("webpush", token)))
    assert error.error_class == "bad_address"
    assert error.bad == (token,)


def test_a_key_that_is_no_point_is_dead(server: WebPushServer) -> None:
    document = json.loads(server.subscription())
    document["keys"]["p256dh"] = base64url.encode(b"\x04" + b"\x01" * 64)
    token = json.dumps(document)
    assert subscription.parse(token)
    assert refused(push(server), delivery(("webpush", token))).error_class == "bad_address"


# --- its answers ------------------------------------------------------------------------------------------------------


ANSWERS: list[tuple[Any, str, float | None]] = [
    (Answer(404, b"no such subscription"), "bad_address", None),
    (Answer(410, b"gone"), "bad_address", None),
    (Answer(400, b"UnauthorizedRegistration"), "permanent", None),
    (Answer(401, b"who are you"), "permanent", None),
    (Answer(403, b"BadJwtToken"), "permanent", None),
    (Answer(413, b"too large"), "permanent", None),
    (Answer(406, b""), "throttled", None),
    (Answer(301, b"", {"Location": "https://127.0.0.1/"}), "permanent", None),
    (Answer(429, b"slow down", {"Retry-After": "7"}), "throttled", 7.0),
    (Answer(500, b"sorry"), "transient", None),
    (Answer(503, b"sorry", {"Retry-After": "7"}), "throttled", 7.0),
    (Fault.DROP, "ambiguous", None),
]


@pytest.fixture(scope="module")
def ends() -> list[Sent | SendError]:
    """What became of a message for each of ``ANSWERS``."""
    with settings.webpush_server() as server:
        server.then(*(answer for answer, *_ in ANSWERS))
        found = outcomes(push(server), *[delivery(browser(server))] * len(ANSWERS))
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


@pytest.mark.parametrize("status", [200, 201, 202])
def test_what_is_a_success(server: WebPushServer, status: int) -> None:
    server.then(Answer(status))
    assert sent(push(server), delivery(browser(server))).bad == ()


def test_another_vapid_key_than_the_browser_subscribed_with(server: WebPushServer) -> None:
    """It is of this subscription, and says nothing of others: the channel goes on."""
    other = Secret(tokens.pem(ec.generate_private_key(ec.SECP256R1())))
    changed = msgspec.structs.replace(settings.for_webpush(server), private_key=other)
    error = refused(PushChannel.Settings(webpush=changed), delivery(browser(server)))
    assert error.error_class == "permanent"
    assert "does not correspond to the sender ID" in error.message


def test_an_untrusted_push_service_is_its_users_trouble_alone(server: WebPushServer) -> None:
    unknown = msgspec.structs.replace(settings.for_webpush(server), ca_file="")
    error = refused(PushChannel.Settings(webpush=unknown), delivery(browser(server)))
    assert error.error_class == "transient"
    assert not server.requests


# --- settings ---------------------------------------------------------------------------------------------------------


def test_a_key_as_javascript_writes_it_is_the_same() -> None:
    key = settings.vapid_key()
    raw = base64url.encode(key.private_numbers().private_value.to_bytes(32, "big"))
    assert aes128gcm.public_bytes(webpush.vapid_key(raw)) == aes128gcm.public_bytes(key)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"private_key": Secret("hunter2")}, "private_key: it is neither PEM nor the base64url of the 32 bytes"),
        ({"private_key": Secret(base64url.encode(bytes(32)))}, "private_key: it is neither PEM nor"),
        ({"private_key": Secret(tokens.pem(fcm.key()))}, "private_key: .*not one of the curve P-256"),
        ({"subject": "ops"}, "subject is 'ops'; push services ask for a way to reach you"),
        ({"allow_private": ("10.0.0.0/99",)}, "allow_private: '10.0.0.0/99'"),
        ({"ca_file": "/nowhere"}, "ca_file is '/nowhere', which has no certificates"),
    ],
)
def test_wrong_settings_are_refused(server: WebPushServer, changed: Any, words: str) -> None:
    fields = {**msgspec.structs.asdict(settings.for_webpush(server)), **changed}
    with pytest.raises(ValueError, match=words) as caught:
        webpush.Settings(**fields)
    assert "hunter2" not in str(caught.value)
