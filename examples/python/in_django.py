"""Embedded in a Django project of one file: one service for the process, used by all of its threads.

With several server processes start one dispatcher beside them, and connect each: ``NotificationService(submit=...)``.

Needs: pip install django

Prints:

    POST /orders/17/ship: 202
    GET /users/ada/inbox: ['Order 17 has shipped']
"""

import json
import tempfile
import threading
import urllib.request
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from dispatcher import NotificationService

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="of an example", ALLOWED_HOSTS=["127.0.0.1"])
django.setup()

directory = tempfile.TemporaryDirectory()
notifications = NotificationService(directory.name, shards=1)  # in real use: in ready() of an AppConfig


def ship(request: HttpRequest, number: int) -> JsonResponse:
    receipt = notifications.notify(
        user_id=request.GET["user"], title=f"Order {number} has shipped", idempotency_key=f"order-{number}"
    )
    return JsonResponse({"id": receipt.id}, status=202)


def inbox(request: HttpRequest, user: str) -> JsonResponse:
    return JsonResponse([item.title for item in notifications.inbox(user)], safe=False)


urlpatterns = [path("orders/<int:number>/ship", ship), path("users/<str:user>/inbox", inbox)]


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def ask(path: str, method: str = "GET") -> tuple[int, Any]:
    with urllib.request.urlopen(urllib.request.Request(url + path, method=method)) as answer:
        return answer.status, json.load(answer)


server = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"

status, _ = ask("/orders/17/ship?user=ada", "POST")
print("POST /orders/17/ship:", status)
titles: list[str] = []
while not titles:  # it is delivered a moment after its receipt
    _, titles = ask("/users/ada/inbox")
print("GET /users/ada/inbox:", titles)

server.shutdown()
notifications.shutdown()
directory.cleanup()
