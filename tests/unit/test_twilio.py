"""The provider ``twilio``: what is asked of it, and what its answers mean."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from shards import options
from shards.answers import ErrorClass
from shards.channels.base import Context, SendError, Sent
from shards.channels.twilio import TwilioChannel
from shards.contacts import Contacts
from tests.support.deliveries import delivery
from tests.support.endpoint import Endpoint, Script, answer, hang, hang_up
from tests.support.rigs.twilio import ACCOUNT, QUEUED, TOKEN, failed

GIVEN = {"account_sid": ACCOUNT, "auth_token": TOKEN, "from_number": "+15005550006"}
KEY = "SK" + "1" * 32
SERVICE = "MG" + "2" * 32


@pytest.fixture
def twilio() -> Iterator[Endpoint]:
    with Endpoint(usual=QUEUED) as endpoint:
        yield endpoint


def send(twilio: Endpoint, given: dict[str, Any] | None = None, timeout_s: float = 5.0, **fields: Any) -> Sent:
    url = f"http://127.0.0.1:{twilio.port}"

    async def once() -> Sent:
        channel = TwilioChannel(
            options.read(TwilioChannel, {**(given or GIVEN), "url": url}), Context("sms", timeout_s)
        )
        try:
            return await channel.send(delivery(Contacts(phone="+33612345678"), **fields))
        finally:
            await channel.close()

    return asyncio.run(once())


def form(twilio: Endpoint) -> dict[str, str]:
    return {key: value for key, [value] in parse_qs(twilio.taken[-1].body.decode()).items()}


def test_what_is_asked(twilio: Endpoint) -> None:
    assert send(twilio, text="é & 😀\n=") == Sent("SM1")
    (request,) = twilio.taken
    assert request.line == f"POST /2010-04-01/Accounts/{ACCOUNT}/Messages.json HTTP/1.1"
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["authorization"] == "Basic " + base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    assert form(twilio) == {"To": "+33612345678", "From": "+15005550006", "Body": "é & 😀\n="}


def test_an_api_key_and_a_messaging_service(twilio: Endpoint) -> None:
    given = {"account_sid": ACCOUNT, "api_key": KEY, "api_key_secret": "s", "messaging_service_sid": SERVICE}
    send(twilio, given)
    assert twilio.taken[0].headers["authorization"] == "Basic " + base64.b64encode(f"{KEY}:s".encode()).decode()
    assert form(twilio).keys() == {"To", "Body", "MessagingServiceSid"}


@pytest.mark.parametrize(("left_s", "expected"), [(-5, {1}), (600, set(range(500, 601))), (10**6, {36_000})])
def test_what_expires_is_not_sent_later(twilio: Endpoint, left_s: int, expected: set[int]) -> None:
    send(twilio, expires_ms=int((time.time() + left_s) * 1000))
    assert int(form(twilio)["ValidityPeriod"]) in expected


@pytest.mark.parametrize(
    ("script", "error_class", "message"),
    [
        (failed(400, 21211, "no number"), "bad_address", "21211: no number (www.twilio.com/docs/api/errors/21211)"),
        (failed(400, 21614, "landline"), "bad_address", "21614"),
        (failed(400, 21635, "landline"), "bad_address", "21635"),
        (failed(400, 21661, "not SMS-capable"), "misconfigured", "21661"),
        (failed(400, 21408, "no permission for this region"), "permanent", "no permission"),
        (failed(401, 20003, "Authenticate"), "misconfigured", "Authenticate"),
        (failed(400, 14107, "rate"), "throttled", "14107"),
        (failed(400, 99999, "new"), "permanent", "new"),
        (failed(500, 99999, "new"), "transient", "new"),
        (answer(201, '{"sid": "SM1", "error_code": 30005, "error_message": "gone"}'), "bad_address", "30005: gone"),
        (answer(503, "<html>"), "transient", "HTTP 503: <html>"),
        (answer(302, Location="https://example.org"), "permanent", "HTTP 302"),
        (hang, "ambiguous", "no answer"),
        (hang_up, "ambiguous", "sent"),
    ],
)
def test_what_an_answer_means(twilio: Endpoint, script: bytes | Script, error_class: ErrorClass, message: str) -> None:
    twilio.then(script)
    with pytest.raises(SendError) as raised:
        send(twilio, timeout_s=0.5 if script is hang else 5.0)
    assert raised.value.error_class == error_class
    assert message in raised.value.message
    assert TOKEN not in raised.value.message


def test_it_waits_as_long_as_twilio_asks(twilio: Endpoint) -> None:
    twilio.then(answer(429, '{"code": 20429, "message": "Too Many Requests"}', Retry_After="7"))
    with pytest.raises(SendError) as raised:
        send(twilio)
    assert (raised.value.error_class, raised.value.retry_after_s) == ("throttled", 7.0)


def test_what_is_too_long_is_not_sent(twilio: Endpoint) -> None:
    with pytest.raises(SendError, match="segments_max"):
        send(twilio, {**GIVEN, "segments_max": 1}, text="a" * 161)
    assert not twilio.requests


@pytest.mark.parametrize("left_out", ["created", "<html>", "[" * 10_000])
def test_a_success_without_an_id_is_one(twilio: Endpoint, left_out: str) -> None:
    twilio.then(answer(201, left_out))
    assert send(twilio) == Sent("")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"account_sid": "17"}, "account_sid is '17'; it is to be AC and 32 digits"),
        ({"account_sid": ""}, "account_sid is ''"),
        ({"auth_token": None}, "auth_token or api_key is to be given, and not both"),
        ({"api_key": KEY}, "auth_token or api_key is to be given, and not both"),
        ({"auth_token": None, "api_key": KEY}, "api_key_secret belongs to api_key"),
        ({"from_number": ""}, "from_number or messaging_service_sid"),
        ({"messaging_service_sid": SERVICE}, "from_number or messaging_service_sid"),
        ({"segments_max": 11}, "segments_max is 11; it must be between 1 and 10"),
        ({"url": "http://api.twilio.com"}, "url is 'http://api.twilio.com'"),
        ({"url": "https://api twilio.com"}, "url is 'https://api twilio.com'"),
        ({"too_long": "drop"}, "too_long"),
    ],
)
def test_wrong_settings(changed: dict[str, Any], message: str) -> None:
    given = {key: value for key, value in {**GIVEN, **changed}.items() if value is not None}
    with pytest.raises(msgspec.ValidationError) as raised:
        options.read(TwilioChannel, given)
    assert message in str(raised.value)
    assert TOKEN not in str(raised.value)
