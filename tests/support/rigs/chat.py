"""The channel ``chat`` by Apprise, against an HTTP service that takes its JSON."""

from __future__ import annotations

import json

from shards.channels.base import Context, Recipient
from shards.channels.chat import ChatChannel
from shards.contacts import Contacts
from tests.support.http_service import Answer, HttpService

STATUSES = {"transient": 500, "permanent": 422, "bad_address": 404, "throttled": 429, "ambiguous": 0}


class Rig:
    name = "chat"
    classes = frozenset(STATUSES)

    def open(self) -> None:
        self.service = HttpService()

    def close(self) -> None:
        self.service.close()

    def channel(self, timeout_s: float = 5.0) -> ChatChannel:
        return ChatChannel(ChatChannel.Settings(schemes=("json",)), Context("chat", timeout_s))

    def recipient(self) -> Recipient:
        return Recipient("ada", Contacts(chat=(f"json://127.0.0.1:{self.service.port}/secret-token",)))

    def stranger(self) -> Recipient:
        return Recipient("eve", Contacts(email="eve@example.org"))

    def received(self) -> list[str]:
        documents = [json.loads(request.body) for request in self.service.received]
        return [f"{document['title']}\n{document['message']}" for document in documents]

    def fail(self, error_class: str) -> None:
        self.service.answers.append(Answer(STATUSES[error_class], b"the service's words"))

    def hang(self) -> None:
        self.service.hang()
