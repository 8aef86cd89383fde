"""Webhooks as their receivers see them: what is signed, what is in the body, and what each answer means."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

from shards import options
from shards.answers import Answers
from shards.channels.base import Context, Delivery, Recipient, SendError
from shards.channels.webhook import WebhookChannel, signed
from shards.contacts import Contacts, WebhookContact
from tests.support.endpoint import Endpoint, Request, Script, answer, hang, hang_up

NOW_S = 1_764_000_000
OLD, NEW, OURS, FORMER = (f"whsec_{base64.b64encode(bytes([n]) * 32).decode()}" for n in range(4))
SETTINGS = {"allow_private": ["127.0.0.0/8"], "ports": []}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as opened:
        yield opened


def delivery(url: str, *secrets: str, **more: Any) -> Delivery:
    contact = WebhookContact(url, *secrets)
    fields: dict[str, Any] = {
        "id": "Ab-c_1",
        "notification_id": "n1",
        "channel": "webhook",
        "attempt": 1,
        "recipient": Recipient("ada", Contacts(webhook=contact)),
        "category": "transaction",
        "type": "success",
        "priority": "high",
        "title": "Order 17",
        "text": "It has shipped \N{ROCKET}",
        "payload": {"order": 17, "lines": [{"sku": "é"}]},
        "metadata": {"trace": "x"},
        "created_ms": 1_764_000_000_123,
    }
    return Delivery(**fields | more)


def send(*deliveries: Delivery, answers: Answers | None = None, timeout_s: float = 10.0, **settings: Any) -> None:
    """One after the other."""

    async def work() -> None:
        read = options.read(WebhookChannel, SETTINGS | settings)
        channel = WebhookChannel(read, Context("webhook", timeout_s, answers=answers or Answers()))
        try:
            for one in deliveries:
                await channel.send(one)
        finally:
            await channel.close()

    asyncio.run(work())


def error_of(*deliveries: Delivery, **more: Any) -> SendError:
    with pytest.raises(SendError) as caught:
        send(*deliveries, **more)
    return caught.value


# --- the signature ----------------------------------------------------------------------------------------------


def verify(request: Request, secret: str) -> Any:
    return Webhook(secret).verify(request.body, request.headers)


def test_the_library_of_the_specification_verifies_it(endpoint: Endpoint) -> None:
    send(delivery(endpoint.url, NEW))
    (request,) = endpoint.requests
    assert verify(request, NEW) == json.loads(request.body)
    assert request.headers["webhook-id"] == "Ab-c_1"
    for wrong in (
        Request(request.line, request.headers, request.body.replace(b"17", b"18")),
        *(
            Request(request.line, request.headers | {name: "1"}, request.body)
            for name in request.headers
            if "-id" in name
        ),
        Request(request.line, request.headers | {"webhook-signature": "v1,AAAA"}, request.body),
    ):
        with pytest.raises(WebhookVerificationError):
            verify(wrong, NEW)
    with pytest.raises(WebhookVerificationError):
        verify(request, OLD)


def test_the_example_of_the_specification() -> None:
    """github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md, "Signature scheme"."""
    headers = signed(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("away_s", [-600, 600])
def test_a_replay_after_ten_minutes_is_rejected(
    monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint, away_s: int
) -> None:
    import time

    real = time.time
    monkeypatch.setattr("shards.channels.webhook.time.time", lambda: real() + away_s)
    send(delivery(endpoint.url, NEW))
    monkeypatch.undo()
    with pytest.raises(WebhookVerificationError, match="timestamp"):
        verify(endpoint.requests[0], NEW)


def test_a_retry_has_the_same_id_and_a_time_and_signature_of_its_own(
    monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint
) -> None:
    endpoint.then(answer(500))
    monkeypatch.setattr("shards.channels.webhook.time.time", lambda: NOW_S)
    error_of(delivery(endpoint.url, NEW))
    monkeypatch.setattr("shards.channels.webhook.time.time", lambda: NOW_S + 300)
    send(delivery(endpoint.url, NEW, attempt=2))
    first, second = (request.headers for request in endpoint.requests)
    assert first["webhook-id"] == second["webhook-id"]
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == (str(NOW_S), str(NOW_S + 300))
    assert first["webhook-signature"] != second["webhook-signature"]
    assert endpoint.requests[0].body == endpoint.requests[1].body


@pytest.mark.parametrize(
    ("secrets", "settings", "by"),
    [
        ((NEW,), {}, [NEW]),
        ((NEW, OLD), {}, [NEW, OLD]),
        ((), {"secret": OURS}, [OURS]),
        ((), {"secret": OURS, "previous_secret": FORMER}, [OURS, FORMER]),
        ((NEW,), {"secret": OURS, "previous_secret": FORMER}, [NEW]),
        ((), {}, []),
    ],
)
def test_which_secrets_sign(endpoint: Endpoint, secrets: tuple[str, ...], settings: Any, by: list[str]) -> None:
    send(delivery(endpoint.url, *secrets), **settings)
    (request,) = endpoint.requests
    assert len(request.headers.get("webhook-signature", "").split()) == len(by)
    for secret in (OLD, NEW, OURS, FORMER):
        if secret in by:
            verify(request, secret)
        else:
            with pytest.raises((WebhookVerificationError, KeyError)):
                verify(request, secret)


# --- the body ---------------------------------------------------------------------------------------------------


def test_the_body_says_what_happened_and_to_whom(endpoint: Endpoint) -> None:
    send(delivery(endpoint.url))
    (request,) = endpoint.requests
    assert request.line == "POST /hook HTTP/1.1"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {
        "type": "notification.transaction",
        "timestamp": "2025-11-24T16:00:00.123000Z",
        "data": {
            "id": "n1",
            "user_id": "ada",
            "category": "transaction",
            "type": "success",
            "priority": "high",
            "title": "Order 17",
            "body": "It has shipped \N{ROCKET}",
            "payload": {"order": 17, "lines": [{"sku": "é"}]},
            "metadata": {"trace": "x"},
        },
    }


def test_a_part_of_the_template_is_the_body_as_it_is(endpoint: Endpoint) -> None:
    send(delivery(endpoint.url, parts={"body": '{ "a": "é" }'}))
    assert endpoint.requests[0].body == '{ "a": "é" }'.encode()


@pytest.mark.parametrize("body", ["", "{", "order 17", '{"a": NaN}', '{"a": 1} x'])
def test_a_part_that_is_no_json_is_permanent(endpoint: Endpoint, body: str) -> None:
    error = error_of(delivery(endpoint.url, parts={"body": body}))
    assert (error.error_class, "webhook.body is not JSON" in error.message) == ("permanent", True)
    assert endpoint.connections == 0


def test_a_payload_of_messagepack_is_written_as_json_has_it_or_permanent(endpoint: Endpoint) -> None:
    send(delivery(endpoint.url, payload={"picture": b"\0\1", "sizes": {1: 2}}))
    assert json.loads(endpoint.requests[0].body)["data"]["payload"] == {"picture": "AAE=", "sizes": {"1": 2}}
    error = error_of(delivery(endpoint.url, payload={"number": 2**70}))
    assert (error.error_class, "cannot be written as JSON" in error.message) == ("permanent", True)


def test_a_long_body_is_permanent_and_not_sent(endpoint: Endpoint) -> None:
    for more in ({"payload": {"a": "x" * 20_000}}, {"parts": {"body": f'"{"x" * 20_000}"'}}):
        error = error_of(delivery(endpoint.url, **more))
        assert (error.error_class, "at most 20000 are allowed by body_bytes" in error.message) == ("permanent", True)
    assert endpoint.connections == 0
    send(delivery(endpoint.url, payload={"a": "x" * 20_000}), body_bytes=30_000)


def test_headers_of_the_settings_are_sent(endpoint: Endpoint) -> None:
    send(delivery(endpoint.url), headers={"Authorization": "Bearer hunter2", "X-Source": "us"}, user_agent="ours/1")
    headers = endpoint.requests[0].headers
    assert (headers["authorization"], headers["x-source"], headers["user-agent"]) == ("Bearer hunter2", "us", "ours/1")


# --- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "headers", "error_class", "retry_after_s"),
    [
        (101, {}, "transient", None),
        (301, {"Location": "http://127.0.0.1/"}, "transient", None),
        (400, {}, "transient", None),
        (401, {}, "transient", None),
        (404, {}, "transient", None),
        (408, {}, "transient", None),
        (410, {}, "bad_address", None),
        (429, {}, "throttled", None),
        (429, {"Retry-After": "300"}, "throttled", 300.0),
        (500, {}, "transient", None),
        (503, {}, "transient", None),
        (503, {"Retry-After": "5"}, "throttled", 5.0),
    ],
)
def test_what_an_answer_means(
    endpoint: Endpoint, status: int, headers: Any, error_class: str, retry_after_s: float | None
) -> None:
    endpoint.then(answer(status, "the reason", **headers))
    error = error_of(delivery(endpoint.url))
    assert (error.error_class, error.retry_after_s) == (error_class, retry_after_s)
    assert error.bad == ((endpoint.url,) if status == 410 else ())
    assert f"HTTP {status}" in error.message
    assert {101: "", 301: "it points to http://127.0.0.1/"}.get(status, "the reason") in error.message


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_success(endpoint: Endpoint, status: int) -> None:
    endpoint.then(answer(status))
    send(delivery(endpoint.url), delivery(endpoint.url))
    assert len(endpoint.requests) == 2


def test_an_operator_may_mean_something_else(endpoint: Endpoint) -> None:
    endpoint.then(answer(404))
    assert (
        error_of(delivery(endpoint.url), answers=Answers({"webhook": {"404": "permanent"}})).error_class == "permanent"
    )


@pytest.mark.parametrize("script", [hang, hang_up])
def test_without_an_answer_it_is_ambiguous(endpoint: Endpoint, script: Script) -> None:
    endpoint.then(script)
    assert error_of(delivery(endpoint.url), timeout_s=0.5).error_class == "ambiguous"


def test_an_address_inside_is_permanent_and_says_how_to_allow_it(endpoint: Endpoint) -> None:
    error = error_of(delivery(endpoint.url), allow_private=[])
    assert (error.error_class, "`allow_private`" in error.message) == ("permanent", True)
    assert endpoint.connections == 0


# --- settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"secret": "hunter2"}, "secret is not whsec_ and the base64"),
        ({"previous_secret": NEW}, "previous_secret is there without secret"),
        ({"secret": NEW, "previous_secret": "whsec_x"}, "previous_secret is not whsec_"),
        ({"headers": {"X Y": "a"}}, "headers: 'X Y'"),
        ({"headers": {"X-Y": "a\r\nb"}}, "headers: 'X-Y'"),
        ({"headers": {"Webhook-Id": "a"}}, "headers: 'Webhook-Id' is set by the channel itself"),
        ({"headers": {"host": "a"}}, "headers: 'host' is set by the channel itself"),
        ({"user_agent": "a\nb"}, "headers: 'user_agent'"),
        ({"allow_private": ["10.0.0.1/8"]}, "allow_private: 10.0.0.1/8 has host bits set; it is to be a list such as"),
        ({"ports": [0]}, "ports: 0 is no port"),
        ({"ca_file": "/nowhere"}, "ca_file is '/nowhere', which has no certificates"),
        ({"ca_file": "ca.pem"}, "ca_file is 'ca.pem', which is relative"),
        ({"body_bytes": 1}, "body_bytes is 1; it must be between 256 and 16777216"),
        ({"answer_bytes": 10**9}, "answer_bytes is 1000000000"),
        ({"alow_private": []}, "alow_private"),
    ],
)
def test_a_wrong_setting_is_named_and_no_secret_shown(wrong: Any, says: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        options.read(WebhookChannel, wrong)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_settings_that_are_right(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    settings = options.read(WebhookChannel, {"secret": NEW, "headers": {"X-Key": "hunter2"}, "ca_file": str(ca_file)})
    assert NEW not in repr(settings)
    assert "hunter2" not in repr(settings)


def test_whom_it_reaches(endpoint: Endpoint) -> None:
    async def work() -> None:
        channel = WebhookChannel(WebhookChannel.Settings(), Context("webhook"))
        assert channel.supports_recipient(delivery(endpoint.url).recipient)
        assert not channel.supports_recipient(Recipient("bob"))
        await channel.close()

    asyncio.run(work())
