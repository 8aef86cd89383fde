"""The provider ``sms-http``: what the settings make of a notification, and of an answer."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from shards import options
from shards.answers import Answers, ErrorClass
from shards.channels.base import Context, SendError, Sent
from shards.channels.sms import SmsChannel
from shards.contacts import Contacts
from tests.support.deliveries import delivery
from tests.support.endpoint import Endpoint, Request, answer

URL = "https://sms.example.org/send"
KEY = "k&y of the account"


@pytest.fixture
def gateway() -> Iterator[Endpoint]:
    with Endpoint(usual=answer(200, '{"id": 17}')) as endpoint:
        yield endpoint


def send(gateway: Endpoint, given: dict[str, Any], context: Context = Context("sms", 5.0), **fields: Any) -> Sent:  # noqa: B008 - it is immutable
    async def once() -> Sent:
        channel = SmsChannel(options.read(SmsChannel, {"url": gateway.url, **given}), context)
        try:
            return await channel.send(delivery(Contacts(phone="+33612345678"), **fields))
        finally:
            await channel.close()

    return asyncio.run(once())


def sent(gateway: Endpoint, **given: Any) -> Request:
    text = given.pop("text", "said")
    send(gateway, given, text=text)
    return gateway.taken[-1]


# --- what is sent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['" \\ {to} {secret} </script> é 😀\nline', "{", "}{text}"])
def test_whatever_is_said_stays_a_text(gateway: Endpoint, text: str) -> None:
    body = {"message": {"to": ["{to}"], "text": "» {text}"}, "from": "{from}", "ref": "{id}", "flash": False, "n": 1}
    request = sent(gateway, body=body, sender="Shop", text=text)
    assert json.loads(request.body) == {
        "message": {"to": ["+33612345678"], "text": f"» {text}"},
        "from": "Shop",
        "ref": "1a2b-3-0",
        "flash": False,
        "n": 1,
    }
    form = sent(gateway, encoding="form", body={"m": "{text}", "n": "{number}"}, text=text)
    assert parse_qs(form.body.decode(), strict_parsing=True) == {"m": [text], "n": ["33612345678"]}
    url = f"{gateway.url}?to={{to}}&m={{text}}"
    query = sent(gateway, method="GET", encoding="none", url=url, text=text)
    method, path, _ = query.line.split(" ")
    assert (method, query.body) == ("GET", b"")
    assert parse_qs(path.partition("?")[2], strict_parsing=True) == {"to": ["+33612345678"], "m": [text]}


@pytest.mark.parametrize(
    ("encoding", "kind"), [("json", "application/json"), ("form", "application/x-www-form-urlencoded")]
)
def test_the_body_says_what_it_is(gateway: Endpoint, encoding: str, kind: str) -> None:
    assert sent(gateway, encoding=encoding).headers["content-type"] == kind
    own = sent(gateway, encoding=encoding, headers={"content-type": "text/plain"})
    assert own.headers["content-type"] == "text/plain"


def test_secrets_stand_where_they_are_asked_for(gateway: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMS_KEY", KEY)
    request = sent(
        gateway,
        secrets={"key": "env:SMS_KEY"},
        headers={"X-Key": "{key}", "X-Id": "{id}"},
        url=gateway.url + "?key={key}",
        body={"key": "{key}"},
    )
    assert request.headers["x-key"] == KEY
    assert request.headers["x-id"] == "1a2b-3-0"
    assert request.line.split()[1].endswith("?key=k%26y%20of%20the%20account")
    assert json.loads(request.body) == {"key": KEY}


def test_user_name_and_password(gateway: Endpoint) -> None:
    request = sent(gateway, username="ada", password="é")
    assert request.headers["authorization"] == "Basic " + base64.b64encode("ada:é".encode()).decode()


def test_what_is_too_long_is_not_sent(gateway: Endpoint) -> None:
    with pytest.raises(SendError, match="segments_max"):
        send(gateway, {"segments_max": 1}, text="é" * 161)
    assert sent(gateway, segments_max=1, too_long="cut", text="é" * 161).body.endswith(b'..."}')
    assert len(gateway.requests) == 1


# --- what an answer means -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text", "detail"),
    [
        ({}, "anything", ""),
        ({"id_at": "/id"}, '{"id": 17}', "17"),
        ({"id_at": "/messages/0/a~1b"}, '{"messages": [{"a/b": "x"}]}', "x"),
        ({"id_at": "/messages/1"}, '{"messages": []}', ""),
        ({"id_at": "/id"}, "no JSON", ""),
        ({"success": "^OK"}, "OK 17", ""),
        ({"success_at": "/ok", "success": "^true$"}, '{"ok": true}', ""),
    ],
)
def test_successes(gateway: Endpoint, given: dict[str, Any], text: str, detail: str) -> None:
    gateway.then(answer(200, text))
    assert send(gateway, given) == Sent(detail)


@pytest.mark.parametrize(
    ("given", "status", "text", "error_class", "message"),
    [
        ({}, 400, "no such sender", "permanent", "HTTP 400: no such sender"),
        ({}, 401, "", "misconfigured", "HTTP 401"),
        ({}, 302, "", "permanent", "HTTP 302"),
        ({}, 503, "", "transient", "HTTP 503"),
        ({"success": "^OK"}, 200, "ERROR 5", "permanent", "HTTP 200: ERROR 5"),
        ({"success_at": "/ok", "success": "true"}, 200, '{"ok": false}', "permanent", '{"ok": false}'),
        ({"success_at": "/ok", "success": "true"}, 200, "<html>", "ambiguous", "<html>"),
        ({"success_at": "/ok", "success": "true"}, 200, "[" * 10_000, "ambiguous", "[[["),
        ({"code_at": "/code"}, 400, '{"code": 42}', "bad_address", "HTTP 400: 42"),
        ({"code_at": "/code"}, 503, '{"code": 42}', "bad_address", "HTTP 503: 42"),
        (
            {"code_at": "/e/0", "message_at": "/e/1"},
            400,
            '{"e": [7, "no credit"]}',
            "permanent",
            "HTTP 400: 7 no credit",
        ),
        ({"success_at": "/code", "success": "^0$", "code_at": "/code"}, 200, '{"code": 42}', "bad_address", "42"),
    ],
)
def test_failures(
    gateway: Endpoint, given: dict[str, Any], status: int, text: str, error_class: ErrorClass, message: str
) -> None:
    gateway.then(answer(status, text))
    with pytest.raises(SendError) as raised:
        send(gateway, given, Context("sms", 5.0, answers=Answers({"sms": {"42": "bad_address"}})))
    assert raised.value.error_class == error_class
    assert message in raised.value.message


def test_it_waits_as_long_as_it_is_asked_to(gateway: Endpoint) -> None:
    gateway.then(answer(503, Retry_After="9"))
    with pytest.raises(SendError) as raised:
        send(gateway, {})
    assert (raised.value.error_class, raised.value.retry_after_s) == ("throttled", 9.0)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "sms.example.org"}, "url is no URL"),
        ({"url": "https://sms.example.org:99999/send"}, "url is no URL"),
        ({"url": "https://sms example.org/send"}, "url is no URL"),
        ({"url": "https://[::1/send"}, "url is no URL"),
        ({"headers": {"X Key": "1"}}, "headers has 'X Key', which is no name of a header"),
        ({"headers": {"": "1"}}, "headers has '', which is no name of a header"),
        ({"headers": {"X-Key": "1\r\nX-Other: 2"}}, "headers.X-Key has a line's end, or another control character"),
        ({"headers": {"X-Key": "{key}"}, "secrets": {"key": "1\n2"}}, "headers.X-Key has a line's end"),
        ({"headers": {"authorization": "1"}, "username": "ada", "password": "1"}, "headers has authorization"),
        ({"url": "https://shop:hush@sms.example.org/"}, "url has a user name or password, and is shown"),
        ({"url": URL + "?m={txt}"}, "url has {txt}; the placeholders are to, number, text, from, id"),
        ({"headers": {"X": "{key}"}}, "headers has {key}"),
        ({"headers": {"X": "{text}"}}, "headers has {text}"),
        ({"body": {"a": [{"b": "{nope}"}]}}, "body has {nope}"),
        ({"encoding": "form", "body": {"a": 1}}, "body is to have texts alone"),
        ({"secrets": {"to": "x"}}, "secrets has to"),
        ({"username": "ada"}, "username and password belong together"),
        ({"password": "x"}, "username and password belong together"),
        ({"id_at": "id"}, "id_at is 'id'; it is to be like /messages/0/id"),
        ({"success": "("}, "success is no regular expression"),
        ({"success_at": "/ok"}, "success is missing"),
        ({"segments_max": 0}, "segments_max is 0; it must be between 1 and 255"),
        ({"method": "DELETE"}, "method"),
    ],
)
def test_wrong_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        options.read(SmsChannel, {"url": URL, **given})
    assert message in str(raised.value)
