"""A receiver of webhooks in Starlette: it checks the signature, and takes each webhook once.

Needs: pip install starlette uvicorn standardwebhooks

Prints:

    received notification.orders: Order 17 has shipped
    webhook: delivered after 1 attempt
    a forged one gets: 401
"""

import queue
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from typing import Any

import uvicorn
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dispatcher import NotificationService

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
received: queue.Queue[dict[str, Any]] = queue.Queue()
known: set[str] = set()  # in a database, in real use


async def hook(request: Request) -> Response:
    body = await request.body()
    try:
        event = Webhook(SECRET).verify(body, dict(request.headers))
    except WebhookVerificationError:
        return Response(status_code=401)
    if request.headers["webhook-id"] not in known:  # it arrives at least once
        known.add(request.headers["webhook-id"])
        received.put(event)
    return Response(status_code=204)


listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
app = Starlette(routes=[Route("/hook", hook, methods=["POST"])])
server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
thread.start()

CONFIG = {
    "categories": {"orders": {"channels": ["webhook"]}},
    "channels": {"webhook": {"provider": "webhook", "allow_private": ["127.0.0.0/8"], "ports": [port]}},
}
url = f"http://127.0.0.1:{port}/hook"

with tempfile.TemporaryDirectory() as directory, NotificationService(directory, config=CONFIG, shards=1) as service:
    service.put_user("shop", {"contacts": {"webhook": {"url": url, "secret": SECRET}}})
    receipt = service.notify(user_id="shop", category="orders", title="Order 17 has shipped")
    event = received.get(timeout=20)
    print(f"received {event['type']}: {event['data']['title']}")
    (delivery,) = service.wait(receipt.id, timeout=20).deliveries
    print(f"webhook: {delivery.outcome} after {delivery.attempts} attempt")

headers = {"webhook-id": "1", "webhook-timestamp": "1764000000", "webhook-signature": "v1,Zm9yZ2Vk"}
try:
    urllib.request.urlopen(urllib.request.Request(url, b"{}", headers))
except urllib.error.HTTPError as error:
    print("a forged one gets:", error.code)

server.should_exit = True
thread.join()
