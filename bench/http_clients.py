"""How fast do clients send webhooks to a server on the same machine? Beside a bare session of aiohttp.

httpx-aiohttp and pyreqwest are no dependencies: each is measured where it is installed.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any

import aiohttp
import httpx

from bench.receiver import receiver
from bench.report import Figure, medians, options, result, show
from shards.channels.base import Context
from shards.channels.guard import Guard
from shards.channels.http import HttpClient

BODY = b'{"type":"notification.transaction","timestamp":"2026-11-22T09:00:00Z","data":{"title":"Order 17 has shipped"}}'
HEADERS = {
    "Content-Type": "application/json",
    "webhook-id": "AZqrs0F3c1yfAAAAAAAAAAEAAAAB",
    "webhook-timestamp": "1763800000",
    "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
}
CONNECTIONS = 64

Post = Callable[[], Awaitable[Any]]
Client = Callable[[str], AbstractAsyncContextManager[Post]]


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[Post]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def post() -> None:
            async with session.post(url, data=BODY, headers=HEADERS) as response:
                await response.read()

        yield post


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Post]:
    guard = Guard(["127.0.0.0/8"], ports=())
    client = HttpClient("webhook", Context(concurrency=CONNECTIONS, timeout_s=60.0), guard=guard)
    try:
        yield partial(client.request, "POST", url, BODY, HEADERS)
    finally:
        await client.close()


@asynccontextmanager
async def over_httpx(url: str, transport: Callable[[], httpx.AsyncBaseTransport | None]) -> AsyncIterator[Post]:
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(limits=limits, transport=transport(), trust_env=False, timeout=60.0) as client:
        yield partial(client.post, url, content=BODY, headers=HEADERS)


class OverAiohttp(httpx.AsyncBaseTransport):
    """The least that httpx needs of a transport."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        async with self._session.request(
            request.method, str(request.url), headers=headers, data=request.content
        ) as got:
            return httpx.Response(got.status, headers=got.raw_headers, content=await got.read())

    async def aclose(self) -> None:
        await self._session.close()


@asynccontextmanager
async def pyreqwest(url: str) -> AsyncIterator[Post]:
    async with importlib.import_module("pyreqwest.client").ClientBuilder().no_proxy().build() as client:

        async def post() -> None:
            response = await client.post(url).headers(HEADERS).body_bytes(BODY).build().send()
            await response.bytes()

        yield post


def clients() -> dict[str, Client]:
    found: dict[str, Client] = {
        "aiohttp, bare": bare,
        "HttpClient": ours,
        "httpx over aiohttp": partial(over_httpx, transport=OverAiohttp),
        "httpx": partial(over_httpx, transport=lambda: None),
    }
    if importlib.util.find_spec("httpx_aiohttp"):
        found["httpx-aiohttp"] = partial(
            over_httpx, transport=importlib.import_module("httpx_aiohttp").AiohttpTransport
        )
    if importlib.util.find_spec("pyreqwest"):
        found["pyreqwest"] = pyreqwest
    return found


async def rate(client: Client, url: str, requests: int) -> float:
    """Requests per second, over connections that are open already."""
    async with client(url) as post:

        async def several(count: int) -> None:
            for _ in range(count):
                await post()

        await asyncio.gather(*(several(1) for _ in range(CONNECTIONS)))
        each = max(1, requests // CONNECTIONS)
        started = perf_counter()
        await asyncio.gather(*(several(each) for _ in range(CONNECTIONS)))
        return CONNECTIONS * each / (perf_counter() - started)


def run(rounds: int = 3, requests: int = 10_000) -> dict[str, Any]:
    found = clients()
    with receiver() as (url, _):
        measures = [
            # httpx alone takes so long that a tenth of the requests says the same
            partial(
                lambda client, count: asyncio.run(rate(client, url, count)),
                client,
                requests // 10 if name == "httpx" else requests,
            )
            for name, client in found.items()
        ]
        rates = medians(rounds, *measures)
    floor = rates[0]
    figures = [
        Figure(f"requests over {name}", value, floor, "events/s") for name, value in zip(found, rates, strict=True)
    ]
    return result("http_clients", rounds, figures[1:], requests=requests, connections=CONNECTIONS)


def main() -> None:
    chosen = options("bench.http_clients", __doc__, 3, requests=10_000)
    show(run(chosen.rounds, chosen.requests), chosen.json)


if __name__ == "__main__":
    main()
