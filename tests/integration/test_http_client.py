"""What servers do to a client of HTTP, in good and in bad faith: on real sockets, each with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gzip
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import trustme

from shards.answers import Answers
from shards.channels.base import Context, SendError
from shards.channels.guard import Guard
from shards.channels.http import Answer, HttpClient, refused
from tests.support.endpoint import Endpoint, Script, answer, hang, hang_up
from tests.support.waiting import until

TEST_S = 30.0
BOUND = 20_000


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as opened:
        yield opened


def ask(url: str, *, timeout_s: float = 10.0, headers: Any = None, service: str = "http", **options: Any) -> Answer:
    return ask_all([url], timeout_s=timeout_s, headers=headers, service=service, **options)[0]


def ask_all(
    urls: list[str], *, timeout_s: float = 10.0, headers: Any = None, service: str = "http", **options: Any
) -> list[Answer]:
    """One after the other with one client, to the last answer or the first error."""
    trace = options.pop("trace", None)

    async def work() -> list[Answer]:
        client = HttpClient(service, Context(timeout_s=timeout_s, trace=trace), **options)
        try:
            async with asyncio.timeout(TEST_S):
                return [await client.request("POST", url, b"hello", headers) for url in urls]
        finally:
            await client.close()

    return asyncio.run(work())


def error_of(*args: Any, **options: Any) -> SendError:
    with pytest.raises(SendError) as caught:
        ask(*args, **options)
    return caught.value


# --- servers that do not behave ---------------------------------------------------------------------------------


def repeated(first: bytes, then: bytes, pause_s: float = 0.0) -> Script:
    """Some bytes, then others without an end."""

    def script(connection: socket.socket, ended: threading.Event) -> None:
        connection.sendall(first)
        while not ended.wait(pause_s):
            connection.sendall(then)

    return script


def half_close(connection: socket.socket, ended: threading.Event) -> None:
    connection.shutdown(socket.SHUT_WR)
    ended.wait(TEST_S)


def reset(connection: socket.socket, ended: threading.Event) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


HEAD = b"HTTP/1.1 200 OK\r\n"
UNANSWERED: dict[str, bytes | Script] = {
    "it hangs": hang,
    "it closes": hang_up,
    "it resets": reset,
    "it closes its half": half_close,
    "it drips its headers": repeated(HEAD + b"X-", b"a", 0.05),
    "it drips its status": repeated(b"", b"H", 0.05),
    "garbage": b"\x16\x03\x01 what is this\r\n\r\n",
    "a status that is none": b"HTTP/1.1 abc OK\r\n\r\n",
    "one header without an end": repeated(HEAD + b"X-Long: ", b"a" * 4_096),
    "headers without an end": repeated(HEAD, b"X-Many: 1\r\n" * 100),
    "it goes on to say 100": repeated(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
}


@pytest.mark.parametrize("script", UNANSWERED.values(), ids=UNANSWERED)
def test_an_answer_that_does_not_come_is_ambiguous_and_in_time(endpoint: Endpoint, script: bytes | Script) -> None:
    endpoint.then(script)
    started = time.monotonic()
    error = error_of(endpoint.url, timeout_s=1.0)
    assert error.error_class == "ambiguous"
    assert "sent, but" in error.message
    assert time.monotonic() - started < TEST_S / 2
    assert len(endpoint.requests) == 1  # a POST is never sent again unasked


CUT: dict[str, bytes | Script] = {
    "without an end": repeated(HEAD + b"Content-Length: 99999999\r\n\r\n", b"a" * 4_096),
    "chunks without an end": repeated(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"a" * 4_096 + b"\r\n"
    ),
    "a bomb": HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"a" * 10_000_000),
}


@pytest.mark.parametrize("script", CUT.values(), ids=CUT)
def test_of_a_long_answer_no_more_is_read_than_allowed(endpoint: Endpoint, script: bytes | Script) -> None:
    endpoint.then(script if callable(script) else lambda connection, _: connection.sendall(script))
    found = ask(endpoint.url, answer_bytes=BOUND)
    assert (found.status, found.text) == (200, "a" * BOUND)


def test_the_status_counts_where_the_text_does_not_come(endpoint: Endpoint) -> None:
    endpoint.then(repeated(HEAD + b"Content-Length: 100000\r\n\r\n", b"a", 0.05))
    found = ask(endpoint.url, timeout_s=1.0)
    assert found.ok
    assert set(found.text) <= {"a"}


def test_endpoints_that_hang_are_not_in_the_way_of_others(endpoint: Endpoint) -> None:
    async def work() -> None:
        client = HttpClient("http", Context(timeout_s=TEST_S))
        with Endpoint(usual=b"") as silent:  # no byte is an answer that never comes
            waiting = [asyncio.create_task(client.request("POST", silent.url)) for _ in range(50)]
            await until(lambda: len(silent.requests) >= 50)
            assert (await client.request("POST", endpoint.url)).ok
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        await client.close()

    asyncio.run(work())


def test_connections_that_are_kept_are_bounded(endpoint: Endpoint) -> None:
    async def work(others: list[Endpoint]) -> None:
        client = HttpClient("http", Context(concurrency=1))
        for other in [*others, endpoint]:
            await client.request("POST", other.url)
        await client.close()

    with (
        contextlib.ExitStack() as stack,
        mock.patch("shards.channels.http.IDLE_MAX", 3),
        mock.patch("shards.channels.http.IDLE_S", TEST_S),
    ):
        others = [stack.enter_context(Endpoint()) for _ in range(6)]
        asyncio.run(work(others))
    asked = [other.requests[0].headers.get("connection") for other in [*others, endpoint]]
    assert asked[:4] == [None] * 4
    assert asked[4] == asked[-1] == "close"


# --- no connection ----------------------------------------------------------------------------------------------


def test_no_server_is_transient() -> None:
    with Endpoint() as endpoint:
        url = endpoint.url
    error = error_of(url)
    assert error.error_class == "transient"
    assert error.message.endswith(": Connection refused")


def test_a_name_that_nobody_has_is_transient() -> None:
    with resolving({"hook.test": []}):
        error = error_of("http://hook.test/")
    assert error.error_class == "transient"
    assert error.message == "no connection to hook.test, port 80: Name or service not known"


def test_a_connection_that_is_not_made_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        filling = [socket.socket() for _ in range(3)]
        for one in filling:  # until the queue is full, and the system lets nobody in
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        error = error_of(f"http://127.0.0.1:{port}/", timeout_s=1.0, service="webhook")
        for one in filling:
            one.close()
    assert error.error_class == "throttled"  # so that it is left alone for a minute
    assert "no connection in time" in error.message


def test_a_name_server_that_hangs_holds_up_neither_others_nor_the_end(endpoint: Endpoint) -> None:
    real, answering = socket.getaddrinfo, threading.Event()

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if host.startswith("slow"):
            answering.wait(TEST_S)
        return real("127.0.0.1", *rest, **more)

    async def work() -> None:
        client = HttpClient("http", Context(timeout_s=2.0))
        urls = (f"http://slow{number}.test:{endpoint.port}/" for number in range(50))
        slow = [asyncio.create_task(client.request("POST", url)) for url in urls]
        await until(lambda: len(resolving_threads()) == 50)
        assert (await client.request("POST", f"http://fast.test:{endpoint.port}/")).ok
        for error in await asyncio.gather(*slow, return_exceptions=True):
            assert isinstance(error, SendError)
            assert (error.error_class, "no connection in time" in error.message) == ("transient", True)
        await client.close()

    with mock.patch.object(socket, "getaddrinfo", getaddrinfo):
        asyncio.run(work())
        waiting = resolving_threads()
        assert all(thread.daemon for thread in waiting)  # so that no process waits for them
        answering.set()
        for thread in waiting:
            thread.join()


def resolving_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "resolver"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/",
        "http://",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "file:///etc/",
        f"http://{'a' * 64}.test/",
    ],
)
def test_what_is_no_url_of_http_is_permanent(url: str) -> None:
    assert error_of(url).error_class == "permanent"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
def test_a_header_that_is_none_is_permanent_and_nothing_is_sent(endpoint: Endpoint, value: str) -> None:
    error = error_of(endpoint.url, headers={"X-Title": value})
    assert error.error_class == "permanent"
    assert "nothing was sent" in error.message
    assert endpoint.requests == []


# --- TLS --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def test_a_certificate_of_ones_own_authority_is_trusted(authority: trustme.CA, ca_file: str) -> None:
    with Endpoint(server_context(authority.issue_cert("localhost"))) as endpoint:
        assert ask_all([endpoint.url, endpoint.url], ca_file=ca_file)[1].ok
        assert endpoint.connections <= 2  # those that Python's server saw: the second request had the first's


YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
UNTRUSTED: dict[str, tuple[Callable[[trustme.CA], trustme.LeafCert], str]] = {
    "expired": (
        lambda ca: ca.issue_cert("localhost", not_before=YESTERDAY - datetime.timedelta(9), not_after=YESTERDAY),
        "expired",
    ),
    "wrong name": (lambda ca: ca.issue_cert("other.example.org"), "not valid for 'localhost'"),
    "unknown authority": (lambda ca: trustme.CA().issue_cert("localhost"), "unable to get local issuer"),
}


@pytest.mark.parametrize(("issue", "says"), UNTRUSTED.values(), ids=UNTRUSTED)
def test_a_certificate_not_to_be_trusted_is_misconfigured_and_nothing_is_sent(
    authority: trustme.CA, ca_file: str, issue: Callable[[trustme.CA], trustme.LeafCert], says: str
) -> None:
    with Endpoint(server_context(issue(authority))) as endpoint:
        error = error_of(endpoint.url, ca_file=ca_file)
        assert error.error_class == "misconfigured"
        assert says in error.message
        assert error_of(endpoint.url, ca_file=ca_file, service="webhook").error_class == "transient"
    assert endpoint.requests == []


def test_without_tls_on_the_other_side_nothing_is_sent(endpoint: Endpoint) -> None:
    error = error_of(endpoint.url.replace("http:", "https:"), timeout_s=1.0)
    assert error.error_class == "transient"
    assert not any("POST" in request.line for request in endpoint.requests)


# --- where it does not go ---------------------------------------------------------------------------------------


def resolving(names: dict[str, list[str]], *, rounds: bool = False) -> Any:
    """Instead of the system's resolver. With ``rounds`` a name has one of its addresses after the other."""
    real, turns = socket.getaddrinfo, {name: cycle(addresses or [""]) for name, addresses in names.items()}

    def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host not in names:
            return real(host, port, *rest, **more)
        if not names[host]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = [next(turns[host])] if rounds else names[host]
        return [found for address in addresses for found in real(address, port, *rest, **more)]

    return mock.patch.object(socket, "getaddrinfo", getaddrinfo)


LOOPBACK = [
    *("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]", "localhost", "LocalHost"),
    *("2130706433", "0x7f.1", "0x7f000001", "0177.0.0.1", "127.1", "127。0。0。1", "①②⑦.⓪.⓪.①", "127.0.0.1."),
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_however_it_is_written_nothing_goes_inside(endpoint: Endpoint, host: str) -> None:
    error = error_of(f"http://{host}:{endpoint.port}/", guard=Guard(ports=[endpoint.port]), timeout_s=5.0)
    assert error.error_class == "permanent"
    assert endpoint.connections == 0


@pytest.fixture
def inside_and_outside() -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two endpoints of one port: the guard of ``half_open`` allows the address of the second."""
    with Endpoint() as inside, Endpoint(host="127.0.0.2", port=inside.port) as outside:
        yield inside, outside


def half_open(outside: Endpoint) -> Guard:
    return Guard(["127.0.0.2/32"], ports=[outside.port])


def test_a_name_that_changes_its_address_leads_nowhere_else(inside_and_outside: tuple[Endpoint, Endpoint]) -> None:
    inside, outside = inside_and_outside
    addresses = ["127.0.0.2", "127.0.0.1"]
    for first in (0, 1):
        names = {f"{n}.rebinding.test": addresses[first:] + addresses[:first] for n in range(20)}
        with resolving(names, rounds=True):
            for name in names:
                url = f"http://{name}:{outside.port}/"
                if first == 0:
                    assert ask_all([url, url], guard=half_open(outside))[1].ok  # the second by the same connection
                else:
                    error = error_of(url, guard=half_open(outside))
                    assert error.error_class == "permanent"
                    assert "127.0.0.1" in error.message
                    assert "`allow_private`" in error.message
    assert inside.connections == 0
    assert outside.connections == 20


@pytest.mark.parametrize("addresses", [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "::1"]])
def test_a_name_with_one_denied_address_is_denied(
    inside_and_outside: tuple[Endpoint, Endpoint], addresses: list[str]
) -> None:
    inside, outside = inside_and_outside
    with resolving({"hook.test": addresses}):
        assert error_of(f"http://hook.test:{outside.port}/", guard=half_open(outside)).error_class == "permanent"
    assert inside.connections == outside.connections == 0


def test_of_several_addresses_the_next_is_tried(inside_and_outside: tuple[Endpoint, Endpoint]) -> None:
    _, outside = inside_and_outside
    guard = Guard(["127.0.0.2/31"], ports=[outside.port])
    with resolving({"hook.test": ["127.0.0.3", "127.0.0.2"]}):
        assert ask(f"http://hook.test:{outside.port}/", guard=guard).ok


def test_the_socket_is_guarded_whatever_the_resolver_said(inside_and_outside: tuple[Endpoint, Endpoint]) -> None:
    inside, outside = inside_and_outside
    guard = half_open(outside)
    with (
        resolving({"hook.test": ["127.0.0.1"]}),
        mock.patch("shards.channels.http._Resolver.resolve", _unguarded),
    ):
        assert error_of(f"http://hook.test:{outside.port}/", guard=guard).error_class == "permanent"
    assert inside.connections == 0


async def _unguarded(self: Any, host: str, port: int, family: int) -> Any:
    return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}]


def test_a_port_that_is_not_listed_is_denied(endpoint: Endpoint) -> None:
    error = error_of(endpoint.url, guard=Guard(["127.0.0.0/8"]))
    assert (error.error_class, f"port {endpoint.port}" in error.message) == ("permanent", True)
    assert endpoint.connections == 0


def test_redirects_proxies_and_cookies_are_left_alone(endpoint: Endpoint) -> None:
    with Endpoint() as other:
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), other.url)
        endpoint.then(answer(307, "", Location=other.url, Set_Cookie="a=b"))
        with mock.patch.dict(os.environ, proxies):
            moved, there = ask_all([endpoint.url, endpoint.url])
        assert (moved.status, moved.headers["location"], there.status) == (307, other.url, 200)
    assert (other.connections, endpoint.connections) == (0, 1)
    assert "cookie" not in endpoint.requests[1].headers


# --- what is said -----------------------------------------------------------------------------------------------


def test_the_trace_has_the_conversation_without_what_authorizes(endpoint: Endpoint) -> None:
    lines: list[str] = []
    endpoint.then(answer(201, "taken", Server="x"))
    ask(endpoint.url, headers={"Authorization": "Bearer hunter2", "X-A": "b"}, trace=lines.append)
    said = "\n".join(lines)
    assert f"> POST {endpoint.url}\n> Authorization: ***\n> X-A: b" in said
    assert f"connecting to 127.0.0.1, port {endpoint.port}" in said
    assert "< HTTP 201" in said
    assert "< taken" in said
    assert "hunter2" not in said


@pytest.fixture
def far_away() -> Iterator[None]:
    """Where it is hours later than UTC has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("9" * 400, 86_400.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        *(
            (text, None)
            for text in ("", "soon", "-1", "1.5", "٣", "Wed, 99 Foo 2015", "Wed, 21 Oct 99999 07:28:00 GMT")
        ),
    ],
)
@pytest.mark.usefixtures("far_away")
def test_retry_after(value: str, seconds: float | None) -> None:
    assert Answer(503, {"Retry-After": value}, "").retry_after_s() == seconds


@pytest.mark.usefixtures("far_away")
def test_a_date_without_a_zone_is_of_utc_wherever_we_are() -> None:
    date = time.asctime(time.gmtime(time.time() + 7_200))
    assert Answer(503, {"Retry-After": date}, "").retry_after_s() == pytest.approx(7_200, abs=600)


@pytest.mark.parametrize(
    ("status", "headers", "error_class"),
    [
        (401, {}, "misconfigured"),
        (404, {}, "permanent"),
        (429, {"Retry-After": "7"}, "throttled"),
        (500, {}, "transient"),
        (503, {}, "transient"),
        (503, {"Retry-After": "7"}, "throttled"),
    ],
)
def test_a_refusal_has_its_class_and_the_words_of_the_service(status: int, headers: Any, error_class: str) -> None:
    error = refused(Answers(), "http", Answer(status, headers, "no\r\n\x1b[31m way" + "!" * 999))
    assert error.error_class == error_class
    assert error.message.startswith(f"HTTP {status}: no [31m way!!!")
    assert error.message.isprintable()
    assert len(error.message) < 400
    assert error.retry_after_s == (7.0 if headers else None)
