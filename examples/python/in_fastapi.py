"""Embedded in a FastAPI application: it starts and stops with the application, and a request waits for its receipt.

Run as a program it asks itself; in real use: ``uvicorn in_fastapi:app``. With several server processes start one
dispatcher beside them, and connect each: ``AsyncNotificationService(submit=...)``.

Needs: pip install fastapi uvicorn

Prints:

    POST /orders/17/ship: 202, order-17
    the same again: 202, order-17, duplicate
    GET /users/ada/inbox: ['Order 17 has shipped']
"""

import contextlib
import json
import socket
import tempfile
import threading
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from dispatcher import AsyncNotificationService


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory() as directory:
        async with AsyncNotificationService(directory, shards=1) as app.state.notifications:
            yield


app = FastAPI(lifespan=lifespan)


@app.post("/orders/{number}/ship", status_code=202)
async def ship(number: int, user: str, request: Request) -> dict[str, Any]:
    key = f"order-{number}"
    receipt = await request.app.state.notifications.notify(
        user_id=user, title=f"Order {number} has shipped", idempotency_key=key
    )
    return {"key": key, "duplicate": receipt.duplicate}


@app.get("/users/{user}/inbox")
async def inbox(user: str, request: Request) -> list[str | None]:
    return [item.title async for item in request.app.state.notifications.inbox(user)]


def ask(url: str, method: str = "GET") -> tuple[int, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        return answer.status, json.load(answer)


def demonstrate() -> None:
    """The same server in a thread, and three requests."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    status, answer = ask(f"{url}/orders/17/ship?user=ada", "POST")
    print(f"POST /orders/17/ship: {status}, {answer['key']}")
    status, answer = ask(f"{url}/orders/17/ship?user=ada", "POST")
    print(f"the same again: {status}, {answer['key']}{', duplicate' if answer['duplicate'] else ''}")
    titles: list[str] = []
    while not titles:  # it is delivered a moment after its receipt
        _, titles = ask(f"{url}/users/ada/inbox")
    print("GET /users/ada/inbox:", titles)
    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    demonstrate()
