"""Several devices are one delivery: what it ends as, and which tokens are dead."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import pytest

from shards.answers import TABLES
from shards.channels.base import Context, SendError, Sent
from shards.channels.push import PushChannel
from shards.preferences import parse_document
from tests.support.logs import captured_logs
from tests.support.push import apns, fcm, settings, tokens
from tests.support.push.apns import ApnsServer
from tests.support.push.fcm import FcmServer
from tests.support.push.sending import delivery, outcomes, recipient, refused, sent
from tests.support.push.server import Answer, Fault, Reply
from tests.support.service import ROOT


class Services:
    def __init__(self) -> None:
        self.fcm, self.apns, self.webpush = FcmServer(), ApnsServer(), settings.webpush_server()
        self.all = (self.fcm, self.apns, self.webpush)

    @property
    def settings(self) -> PushChannel.Settings:
        return PushChannel.Settings(
            settings.for_fcm(self.fcm), settings.for_apns(self.apns), settings.for_webpush(self.webpush)
        )

    def devices(self) -> tuple[tuple[str, str], ...]:
        return ("fcm", "phone-1"), ("apns", "00aa"), ("webpush", self.webpush.subscription())

    def fail(self, *replies: Reply) -> None:
        for service, reply in zip(self.all, replies, strict=True):
            service.then(reply)


@pytest.fixture
def services() -> Iterator[Services]:
    services = Services()
    with services.fcm, services.apns, services.webpush:
        yield services


GUIDE = ROOT / "docs" / "push.md"
UNREGISTERED, GONE = apns.error(410, "Unregistered"), Answer(410, b"gone")
BUSY = Answer(429, b"slow down", {"Retry-After": "9"})


def test_every_device_gets_it(services: Services) -> None:
    assert sent(services.settings, delivery(*services.devices())).bad == ()
    assert services.fcm.messages()[0]["notification"]["title"] == "Order 17"
    assert services.apns.messages()[0]["aps"]["alert"]["title"] == "Order 17"
    assert services.webpush.messages()[0]["title"] == "Order 17"


def test_it_is_delivered_if_any_takes_it_and_dead_tokens_are_named(services: Services) -> None:
    services.fail(fcm.UNREGISTERED, UNREGISTERED, Answer(201))
    outcome = sent(services.settings, delivery(*services.devices()))
    assert outcome.bad == ("phone-1", "00aa")
    assert "fcm ...phone-1: HTTP 404: UNREGISTERED" in outcome.detail


def test_the_others_do_not_wait_for_one_that_hangs(services: Services) -> None:
    services.apns.then(Answer(200), Fault.HANG)
    one = delivery(*services.devices())
    _, outcome = outcomes(services.settings, one, one, timeout_s=2.0)
    assert isinstance(outcome, Sent)
    assert re.search(r"apns \.\.\.00aa: .*no answer", outcome.detail)


def test_no_device_waits_for_the_connection_of_another(services: Services) -> None:
    only = PushChannel.Settings(fcm=settings.for_fcm(services.fcm))

    async def work() -> None:
        channel = PushChannel(only, Context("push", 30.0, concurrency=1))
        await channel.send(delivery(("fcm", "phone-1"), ("fcm", "phone-2"), ("fcm", "phone-3")))
        await channel.close()

    asyncio.run(work())
    assert services.fcm.connections == 1 + 3, "one for the access token"


def test_a_user_with_very_many_devices_has_few_connections_at_a_time(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.channels.push.AT_ONCE", 1)
    services.apns.then(*[Answer(200)] * 3, *[Fault.HANG] * 3)
    one = delivery(("apns", "00aa"), ("apns", "00bb"), ("apns", "00cc"))
    _, outcome = outcomes(services.settings, one, one, timeout_s=2.0)
    assert isinstance(outcome, SendError)
    assert outcome.error_class == "ambiguous"
    assert "apns ...00cc: the user's other devices took all of" in outcome.message
    assert "/3/device/00cc" not in [request.path for request in services.apns.requests[3:]]


def test_the_log_says_once_that_a_service_refuses_us_though_another_takes_it(services: Services) -> None:
    secret = tokens.pem(apns.key()).splitlines()[1]
    refused = apns.error(403, f"InvalidProviderToken {secret}")
    services.apns.then(refused, refused)
    one = delivery(*services.devices())
    with captured_logs() as lines:
        assert all(isinstance(outcome, Sent) for outcome in outcomes(services.settings, one, one))
    said = repr(lines)
    assert said.count("InvalidProviderToken") == 1
    assert secret not in said


def test_without_any_left_all_are_bad(services: Services) -> None:
    services.fail(fcm.UNREGISTERED, UNREGISTERED, GONE)
    error = refused(services.settings, delivery(*services.devices()))
    assert error.error_class == "bad_address"
    assert error.bad == tuple(token for _, token in services.devices())


@pytest.mark.parametrize(
    ("replies", "error_class", "bad"),
    [
        ((fcm.UNREGISTERED, apns.error(503, "Shutdown"), GONE), "transient", 2),
        ((Fault.DROP, apns.error(503, "Shutdown"), GONE), "ambiguous", 1),
        ((Fault.DROP, BUSY, BUSY), "ambiguous", 0),
        ((fcm.error(503, "UNAVAILABLE"), apns.error(403, "InvalidProviderToken"), BUSY), "throttled", 0),
        ((fcm.UNREGISTERED, apns.error(403, "InvalidProviderToken"), GONE), "misconfigured", 2),
        ((fcm.UNREGISTERED, apns.error(413, "PayloadTooLarge"), GONE), "permanent", 2),
    ],
)
def test_the_error_is_that_of_the_device_most_worth_a_retry(
    services: Services, replies: tuple[Reply, ...], error_class: str, bad: int
) -> None:
    services.fail(*replies)
    error = refused(services.settings, delivery(*services.devices()))
    assert error.error_class == error_class
    assert len(error.bad) == bad
    assert error.retry_after_s == (9.0 if BUSY in replies else None)


def test_what_only_messagepack_can_say(services: Services) -> None:
    payload = {"bytes": b"\0", "keys": {1: 2}}
    sent(services.settings, delivery(*services.devices(), payload=payload))
    assert services.fcm.messages()[0]["data"] == {"delivery_id": "d-1", "bytes": '"AA=="', "keys": '{"1":2}'}
    assert services.webpush.messages()[0]["payload"] == {"bytes": "AA==", "keys": {"1": 2}}
    error = refused(services.settings, delivery(*services.devices(), payload={"long": 2**64}))
    assert error.error_class == "permanent"
    assert "the payload cannot be written as JSON" in error.message


def test_devices_of_what_is_not_configured_are_left_out(services: Services) -> None:
    only = PushChannel.Settings(fcm=settings.for_fcm(services.fcm))
    assert sent(only, delivery(*services.devices())).bad == ()
    assert not services.apns.requests


def test_whom_it_reaches(services: Services) -> None:
    async def work() -> None:
        channel = PushChannel(PushChannel.Settings(apns=settings.for_apns(services.apns)), Context("push"))
        assert channel.supports_recipient(recipient(("fcm", "a"), ("apns", "00")))
        assert not channel.supports_recipient(recipient(("fcm", "a"), ("webpush", "{}")))
        assert not channel.supports_recipient(recipient())
        await channel.close()

    asyncio.run(work())


def test_settings_of_none_are_refused() -> None:
    with pytest.raises(ValueError, match="fcm, apns and webpush are all missing"):
        PushChannel.Settings()


def test_what_is_traced_has_no_token_of_ours(services: Services) -> None:
    lines: list[str] = []
    outcomes(services.settings, delivery(*services.devices()), trace=lines.append)
    text = "\n".join(lines)
    assert f"> POST {services.apns.url}/3/device/00aa" in text
    assert f"asking {services.fcm.token_uri} for an access token" in text
    assert f"> POST {services.fcm.url}/v1/projects/shop-1/messages:send" in text
    for secret in (*services.fcm.issued, "bearer ey", "vapid t=ey"):
        assert secret not in text


# --- what the guide shows -------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def test_the_document_of_the_guide_is_valid() -> None:
    (text,) = blocks("json")
    assert len(parse_document(json.loads(text)["user"]).contacts.push) == 3


def test_the_guide_explains_every_code_of_the_table() -> None:
    guide = GUIDE.read_text()
    for service in ("fcm", "apns", "webpush"):
        for code in TABLES[service]:
            assert code.rpartition(" ")[2] in guide, f"{service} {code}"
