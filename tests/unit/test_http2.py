"""HTTP/2: what is known of a request that got no answer, and that one connection serves many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from shards.channels import http2
from shards.channels.base import Context, SendError
from shards.channels.http import Answer
from shards.channels.http2 import Http2Client
from tests.support.push.server import Answer as Reply
from tests.support.push.server import Fault, Server
from tests.support.service import free_endpoints
from tests.support.waiting import until


class Http2Server(Server):
    http2 = encrypted = True


@pytest.fixture
def server() -> Iterator[Http2Server]:
    with Http2Server() as server:
        yield server


def used(server: Http2Server, work: Callable[[Http2Client], Awaitable[None]], timeout_s: float = 30.0) -> None:
    async def body() -> None:
        client = Http2Client("apns", Context("push", timeout_s), server.url, ca_file=server.ca_file)
        try:
            await work(client)
        finally:
            await client.close()
            await client.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(body())


async def post(client: Http2Client, path: str = "/x", body: bytes = b"body") -> Answer:
    return await client.post(path, body, [("x-name", "value")])


async def failed(client: Http2Client) -> SendError:
    with pytest.raises(SendError) as caught:
        await post(client)
    return caught.value


def test_a_request_arrives_and_its_answer_comes_back(server: Http2Server) -> None:
    async def work(client: Http2Client) -> None:
        server.then(Reply(429, b"slow down", {"Retry-After": "7"}))
        answer = await post(client, "/path?q=1", b"x" * 4_096)
        assert (answer.status, answer.text, answer.retry_after_s()) == (429, "slow down", 7.0)

    used(server, work)
    (request,) = server.requests
    assert request.path == "/path?q=1"
    assert request.body == b"x" * 4_096
    assert request.headers["x-name"] == "value"
    assert request.headers[":authority"] == f"localhost:{server.port}"


def test_many_at_once_share_one_connection(server: Http2Server) -> None:
    """500 bodies of 4 KB are many times the window that the server opens."""

    async def work(client: Http2Client) -> None:
        answers = await asyncio.gather(*(post(client, f"/{n}", b"x" * 4_000) for n in range(500)))
        assert {answer.status for answer in answers} == {200}

    used(server, work)
    assert {request.path for request in server.accepted} == {f"/{n}" for n in range(500)}
    assert server.connections == 1


def test_no_more_are_open_than_the_server_allows(server: Http2Server) -> None:
    """It ends the connection of whoever opens more."""
    server.streams_max = 3

    async def work(client: Http2Client) -> None:
        answers = await asyncio.gather(*(post(client) for _ in range(50)))
        assert {answer.status for answer in answers} == {200}

    used(server, work)
    assert server.connections == 1


def test_what_waits_for_room_goes_elsewhere_when_its_connection_dies(server: Http2Server) -> None:
    server.streams_max = 1
    server.then(Fault.HANG)

    async def work(client: Http2Client) -> None:
        hanging, waiting = asyncio.create_task(failed(client)), asyncio.create_task(post(client))
        await until(lambda: server.requests)
        server.disconnect()
        assert (await hanging).error_class == "ambiguous"
        assert (await waiting).status == 200

    used(server, work)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("fault", "error_class", "words"),
    [
        (Fault.DROP, "ambiguous", "the connection was lost before the answer"),
        (Fault.RESET, "ambiguous", "the server reset the request"),
        (Fault.NONSENSE, "ambiguous", "not answered as HTTP/2 has it"),
        (Fault.REFUSE, "transient", "the server reset the request"),
        (Fault.GO_AWAY_WITHOUT, "transient", "Shutdown"),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_a_request_without_an_answer_says_whether_it_may_have_been_taken(
    server: Http2Server, fault: Fault, error_class: str, words: str
) -> None:
    async def work(client: Http2Client) -> None:
        assert (await post(client)).status == 200
        server.then(fault)
        error = await failed(client)
        assert error.error_class == error_class
        assert words in error.message
        assert (await post(client)).status == 200

    used(server, work)


def test_a_graceful_end_answers_what_is_under_way(server: Http2Server) -> None:
    async def work(client: Http2Client) -> None:
        server.then(Fault.GO_AWAY)
        assert (await post(client)).status == 200
        assert (await post(client)).status == 200

    used(server, work)
    assert server.connections == 2


def test_what_hangs_ends_by_its_time_and_takes_its_connection_along(server: Http2Server) -> None:
    """A connection that nothing comes from may be dead, and nobody would say so."""

    async def work(client: Http2Client) -> None:
        await post(client)
        server.then(Fault.HANG)
        error = await failed(client)
        assert error.error_class == "ambiguous"
        assert "no answer within 1.9 s" in error.message
        assert (await post(client)).status == 200

    used(server, work, timeout_s=2.0)
    assert server.connections == 2


def test_an_idle_connection_is_not_trusted(server: Http2Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(client: Http2Client) -> None:
        assert (await post(client)).status == 200
        assert (await post(client)).status == 200
        assert server.connections == 1
        monkeypatch.setattr(http2, "IDLE_S", 0.0)
        assert (await post(client)).status == 200

    used(server, work)
    assert server.connections == 2


def test_a_cancelled_one_is_taken_back_and_does_not_disturb_the_others(server: Http2Server) -> None:
    async def work(client: Http2Client) -> None:
        server.then(Fault.HANG)
        hanging = asyncio.create_task(post(client))
        await until(lambda: server.requests)
        assert (await post(client)).status == 200
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        assert (await post(client)).status == 200

    used(server, work)
    assert server.connections == 1
    assert server.cancelled == 1


def test_what_never_got_room_was_not_sent(server: Http2Server) -> None:
    server.streams_max = 1
    server.then(Reply(200), Fault.HANG)

    async def work(client: Http2Client) -> None:
        await post(client)
        ends = await asyncio.gather(post(client), post(client), return_exceptions=True)
        assert sorted(end.error_class for end in ends if isinstance(end, SendError)) == ["ambiguous", "transient"]

    used(server, work, timeout_s=2.0)
    assert len(server.requests) == 2


def test_nobody_there() -> None:
    async def work() -> None:
        url = free_endpoints(1)[0].replace("tcp", "https")
        error = await failed(Http2Client("apns", Context("push", 30.0), url))
        assert error.error_class == "transient"
        assert "127.0.0.1, port" in error.message

    asyncio.run(work())


def test_a_server_of_an_unknown_authority_is_not_trusted(server: Http2Server) -> None:
    async def work() -> None:
        error = await failed(Http2Client("apns", Context("push", 30.0), server.url))
        assert error.error_class == "misconfigured"
        assert "the certificate of localhost is not to be trusted, nothing was sent" in error.message

    asyncio.run(work())
    assert not server.requests


def test_the_name_in_the_certificate_counts(server: Http2Server) -> None:
    async def work() -> None:
        url = server.url.replace("localhost", "127.0.0.1")
        error = await failed(Http2Client("apns", Context("push", 30.0), url, ca_file=server.ca_file))
        assert error.error_class == "misconfigured"

    asyncio.run(work())


def test_a_server_without_http2() -> None:
    class Http1Server(Server):
        encrypted = True

    with Http1Server() as server:

        async def work() -> None:
            error = await failed(Http2Client("apns", Context("push", 30.0), server.url, ca_file=server.ca_file))
            assert error.error_class == "transient"
            assert "does not speak HTTP/2" in error.message

        asyncio.run(work())
