"""The channel ``chat``: which URLs are used, and what failures of Apprise mean."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
import requests

from shards import options
from shards.answers import Answers, ErrorClass
from shards.channels.base import Context, Recipient, SendError, Sent
from shards.channels.chat import ChatChannel, Outcome
from shards.contacts import Contacts
from shards.hidden import Secret
from tests.support.deliveries import delivery
from tests.support.endpoint import Endpoint, Request, answer, hang, hang_up
from tests.support.service import wait_until

TOKEN = "secret-token"
SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"  # the shape is right


@pytest.fixture
def service() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


def url_of(service: Endpoint, rest: str = f"/{TOKEN}") -> str:
    return f"json://127.0.0.1:{service.port}{rest}"


def send(
    own: Sequence[str] = (),
    *,
    context: Context = Context("chat", 5.0),  # noqa: B008  it is immutable
    settings: dict[str, Any] | None = None,
    **fields: Any,
) -> Sent:
    read = options.read(ChatChannel, {"schemes": ["json"], **(settings or {})})

    async def once() -> Sent:
        channel = ChatChannel(read, context)
        try:
            return await channel.send(delivery(Contacts(chat=tuple(own)), **fields))
        finally:
            await channel.close()

    return asyncio.run(once())


def failure(own: Sequence[str] = (), **given: Any) -> SendError:
    with pytest.raises(SendError) as raised:
        send(own, **given)
    assert TOKEN not in raised.value.message
    assert raised.value.message.isprintable()
    assert len(raised.value.message) <= 300
    return raised.value


def said(service: Endpoint) -> list[dict[str, Any]]:
    return [json.loads(request.body) for request in service.taken]


def path(request: Request) -> str:
    return request.line.split()[1].rstrip("/")


def test_title_text_and_kind_arrive(service: Endpoint) -> None:
    assert send([url_of(service)], type="error", text="é 😀 <b>") == Sent("JSON")
    (document,) = said(service)
    assert (document["title"], document["message"], document["type"]) == ("Disk full", "é 😀 <b>", "failure")


@pytest.mark.parametrize(("category", "to"), [("system", "/all"), ("security", "/guards"), ("marketing", "/all")])
def test_who_has_no_urls_gets_those_of_the_category(service: Endpoint, category: str, to: str) -> None:
    settings = {"urls": [url_of(service, "/all")], "categories": {"security": [url_of(service, "/guards")]}}
    send(settings=settings, category=category)
    send([url_of(service, "/own")], settings=settings, category=category)
    assert [path(request) for request in service.taken] == [to, "/own"]


def test_urls_of_the_configuration_may_have_any_scheme(service: Endpoint) -> None:
    send(settings={"schemes": [], "urls": [url_of(service)]})
    assert len(service.requests) == 1


def test_a_category_without_urls_is_permanent() -> None:
    error = failure(settings={"categories": {"security": [SLACK]}})
    assert error.error_class == "permanent"
    assert "categories.system" in error.message


@pytest.mark.parametrize(
    ("contacts", "settings", "supported"),
    [
        (Contacts(), {}, False),
        (Contacts(chat=(SLACK,)), {}, True),
        (Contacts(), {"urls": [SLACK]}, True),
        (Contacts(), {"categories": {"security": [SLACK]}}, True),
    ],
)
def test_who_is_supported(contacts: Contacts, settings: dict[str, Any], supported: bool) -> None:
    channel = ChatChannel(options.read(ChatChannel, settings), Context())
    assert channel.supports_recipient(Recipient("ada", contacts)) is supported


# --- what users may not do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["json", "xml", "form", "mmost", "ntfy", "apprise", "syslog", "dbus", "mailto"])
def test_by_default_users_do_not_choose_hosts(service: Endpoint, scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{service.port}/{TOKEN}"
    error = failure([url], settings={"schemes": list(ChatChannel.Settings().schemes)})
    assert error.error_class in {"permanent", "bad_address"}
    assert not service.requests


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("json://127.0.0.1:1/x", True),
        ("json://127.0.0.9:1/x", True),
        ("json://127.0.1.1:1/x", False),
        ("json://10.0.0.1/127.0.0.1", False),
        ("jsons://127.0.0.1:1/x", False),
        ("xml://127.0.0.1:1/x", False),
    ],
)
def test_a_scheme_may_be_bound_to_hosts(url: str, allowed: bool) -> None:
    error = failure([url], settings={"schemes": ["json://127.0.0.*"]})
    assert ("not allowed" in error.message) is not allowed
    assert error.error_class == ("transient" if allowed else "permanent")  # nobody listens


@pytest.mark.parametrize(
    "parameter",
    [
        "template=/etc/passwd",
        "rto=99999",
        "verify=no",
        "redirect=yes",
        "retry=9",
        "optional=yes",
        "+Host=x",
        "method=PUT",
    ],
)
def test_parameters_with_power_are_not_for_users(service: Endpoint, parameter: str) -> None:
    error = failure([url_of(service, f"/x?{parameter}")])
    assert error.error_class == "permanent"
    assert "is not allowed" in error.message
    assert not service.requests


def test_redirects_are_not_followed(service: Endpoint) -> None:
    service.then(answer(302, Location="/elsewhere"))
    assert failure([url_of(service)]).error_class == "permanent"
    assert len(service.requests) == 1


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "own", "configured"),
    [
        (401, "bad_address", "misconfigured"),
        (404, "bad_address", "misconfigured"),
        (413, "permanent", "permanent"),
        (429, "throttled", "throttled"),
        (500, "transient", "transient"),
        (0, "ambiguous", "ambiguous"),
    ],
)
def test_what_an_answer_means(service: Endpoint, status: int, own: ErrorClass, configured: ErrorClass) -> None:
    service.then(*[answer(status, "no_service") if status else hang_up] * 2)
    error = failure([url_of(service)])
    assert error.error_class == own
    assert error.bad == ((url_of(service),) if own == "bad_address" else ())
    assert not status or (str(status) in error.message and "no_service" in error.message)
    error = failure(settings={"urls": [url_of(service)]})
    assert (error.error_class, error.bad) == (configured, ())


def test_what_is_sent_says_nothing_of_the_answer(service: Endpoint) -> None:
    service.then(answer(503))
    text = "WARNING: error=404. DEBUG: Socket Exception: SSLError"
    error = failure([url_of(service)], title=text, text=f"\n{text}")
    assert (error.error_class, error.bad) == ("transient", ())


def test_the_operator_may_say_what_an_answer_means(service: Endpoint) -> None:
    service.then(answer(413))
    context = Context("chat", 5.0, answers=Answers({"apprise": {"413": "transient"}}))
    assert failure([url_of(service)], context=context).error_class == "transient"


def test_nobody_listening_is_transient() -> None:
    assert failure([f"json://127.0.0.1:1/{TOKEN}"]).error_class == "transient"


def test_a_service_that_does_not_answer_in_time_is_ambiguous(service: Endpoint) -> None:
    service.then(hang)
    assert failure([url_of(service)], context=Context("chat", 0.5)).error_class == "ambiguous"


def drip(connection: socket.socket, ended: threading.Event) -> None:
    """An answer that never ends."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not ended.wait(0.05):
        connection.sendall(b"1\r\nx\r\n")


def flood(connection: socket.socket, ended: threading.Event) -> None:
    """A small answer that is a gigabyte, decompressed."""
    body = gzip.compress(bytes(2**20)) * 1_000
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def test_an_answer_that_never_ends_keeps_no_thread(service: Endpoint) -> None:
    service.then(drip)
    assert failure([url_of(service)], context=Context("chat", 0.5)).error_class == "ambiguous"


def test_of_a_large_answer_only_the_start_is_read(service: Endpoint) -> None:
    service.then(flood)
    tracemalloc.start()
    try:
        assert send([url_of(service)]) == Sent("JSON")
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_what_others_ask_for_in_the_same_process_is_not_bounded(service: Endpoint) -> None:
    service.then(answer(200), answer(200, "x" * 100_000))
    send([url_of(service)])
    assert len(requests.get(service.url, timeout=5.0).content) == 100_000


def test_many_targets_in_one_url_have_one_deadline(service: Endpoint) -> None:
    targets = ",".join(f"room{number}" for number in range(500))
    url = f"mmost://127.0.0.1:{service.port}/{'a' * 24}?channel={targets}"  # with a wait between
    error = failure([url], settings={"schemes": ["mmost"]}, context=Context("chat", 1.0))
    assert error.error_class == "ambiguous"
    assert 1 <= len(service.requests) < 500


def test_what_no_thread_was_free_for_was_not_sent(service: Endpoint) -> None:
    released = threading.Event()

    def hold(connection: socket.socket, ended: threading.Event) -> None:
        released.wait(5.0)

    service.then(hold)
    read = options.read(ChatChannel, {"schemes": ["json"]})

    async def both() -> tuple[str, str]:
        channel = ChatChannel(read, Context("chat", 5.0, 1))
        try:
            first, second = (delivery(Contacts(chat=(url_of(service),))) for _ in range(2))
            begun = asyncio.create_task(channel.send(first))
            await asyncio.to_thread(wait_until, lambda: service.requests, 5.0, "the first")
            with pytest.raises(SendError) as raised:
                async with asyncio.timeout(0.1):
                    await channel.send(second)
            released.set()
            await asyncio.wait([begun])
            return raised.value.error_class, raised.value.message
        finally:
            await channel.close()

    assert asyncio.run(both()) == ("transient", "no thread is free: all wait for the services of others")
    assert len(service.requests) == 1


def test_one_url_that_accepts_is_enough(service: Endpoint) -> None:
    with Endpoint(usual=answer(410)) as gone:
        urls = [url_of(gone), url_of(service)]
        assert send(urls) == Sent("JSON", (urls[0],))


def test_of_several_failures_that_which_can_be_retried_counts(service: Endpoint) -> None:
    service.then(answer(503))
    with Endpoint(usual=answer(410)) as gone:
        urls = [url_of(gone), url_of(service)]
        error = failure(urls)
    assert error.error_class == "transient"
    assert error.bad == (urls[0],)
    assert "410" in error.message
    assert "503" in error.message


def test_what_is_no_url_of_apprise_is_a_bad_address() -> None:
    error = failure([f"slack://{TOKEN}"], settings={"schemes": ["slack"]})
    assert (error.error_class, error.bad) == ("bad_address", (f"slack://{TOKEN}",))


def test_the_conversation_is_shown_without_secrets(service: Endpoint) -> None:
    lines: list[str] = []
    send([url_of(service)], context=Context("chat", 5.0, trace=lines.append))
    assert any("POST" in line for line in lines)
    assert not any(TOKEN in line for line in lines)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"urls": [TOKEN]}, "urls: entry 1: it is no URL of Apprise, such as slack://A/B/C"),
        ({"urls": [SLACK, f"slak://{TOKEN}"]}, "urls: entry 2: unknown scheme 'slak'; did you mean slack"),
        ({"urls": [f"slack://{TOKEN}"]}, "urls: entry 1: Apprise does not accept this URL of slack; compare it"),
        ({"urls": [f"https://example.org/{TOKEN}"]}, "urls: entry 1: Apprise does not accept this URL of https"),
        ({"categories": {"security": [SLACK, TOKEN]}}, "categories.security: entry 2: it is no URL"),
        ({"schemes": ["slack", "jsn"]}, "schemes: entry 2: unknown scheme 'jsn'; did you mean json"),
        ({"schemes": ["json://"]}, "schemes: entry 1: give a scheme such as slack, or mmosts://"),
    ],
)
def test_wrong_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        options.read(ChatChannel, given)
    assert message in str(raised.value)
    assert TOKEN not in str(raised.value)


def test_the_urls_are_secrets() -> None:
    settings = ChatChannel.Settings(urls=(Secret(SLACK),), categories={"a": (Secret(SLACK),)})
    assert "T1JJ3T3L2" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        (
            "https://prod-12.logic.azure.com:443/workflows/ab1/triggers/manual/paths/invoke?api-version=1&sig=c",
            True,
        ),
        ("https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", True),
        ("https://evil.example.org/workflows/ab1/triggers/manual/paths/invoke?api-version=1&sig=c", False),
        ("workflows://x.logic.azure.com:443@10.0.0.1/ab1/c", False),
        ("workflows://10.0.0.1/ab1/c#.logic.azure.com", False),
    ],
)
def test_users_may_give_what_their_service_shows_them(monkeypatch: pytest.MonkeyPatch, url: str, allowed: bool) -> None:
    told: list[str] = []

    def notify(_: object, url: str, *others: object) -> Outcome:
        told.append(url)
        return Outcome("it")

    monkeypatch.setattr(ChatChannel, "_notify", notify)
    if allowed:
        assert send([url], settings={"schemes": list(ChatChannel.Settings().schemes)}) == Sent("it")
    else:
        failure([url], settings={"schemes": list(ChatChannel.Settings().schemes)})
    assert told == [url] * allowed
