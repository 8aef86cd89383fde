"""An HTTP service that takes the JSON of Apprise."""

from __future__ import annotations

import json

from shards.answers import ErrorClass
from shards.channels.base import Context, Recipient
from shards.channels.chat import ChatChannel
from shards.contacts import Contacts
from tests.support.endpoint import Endpoint, Script, answer, hang, hang_up

TOKEN = "secret-token"
FAILURES: dict[ErrorClass, bytes | Script] = {
    "transient": answer(500),
    "permanent": answer(422, f"the words of the service, with {TOKEN}"),
    "bad_address": answer(404),
    "throttled": answer(429),
    "ambiguous": hang_up,
}


class ChatRig:
    name = "chat"
    classes: frozenset[ErrorClass] = frozenset(FAILURES)
    secrets = (TOKEN,)

    def open(self) -> None:
        self._endpoint = Endpoint()
        self._endpoint.open()

    def close(self) -> None:
        self._endpoint.close()

    def channel(self, timeout_s: float = 5.0) -> ChatChannel:
        return ChatChannel(ChatChannel.Settings(schemes=("json",)), Context("chat", timeout_s))

    def recipient(self) -> Recipient:
        return Recipient("ada", Contacts(chat=(f"json://127.0.0.1:{self._endpoint.port}/{TOKEN}",)))

    def stranger(self) -> Recipient:
        return Recipient("bob", Contacts(email="bob@example.org"))

    def received(self) -> list[str]:
        documents = [json.loads(request.body) for request in tuple(self._endpoint.taken)]
        return [f"{document['title']}\n{document['message']}" for document in documents]

    def fail(self, error_class: ErrorClass) -> None:
        self._endpoint.then(FAILURES[error_class])

    def hang(self) -> None:
        self._endpoint.then(hang)
