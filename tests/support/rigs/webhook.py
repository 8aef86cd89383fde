"""An endpoint of one user."""

from __future__ import annotations

from shards.answers import ErrorClass
from shards.channels.base import Context, Recipient
from shards.channels.webhook import WebhookChannel
from shards.contacts import Contacts, WebhookContact
from tests.support.endpoint import Endpoint, Script, answer, hang, hang_up

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FAILURES: dict[ErrorClass, bytes | Script] = {
    "transient": answer(500, "we are sorry"),
    "throttled": answer(429, "too many", Retry_After="1"),
    "bad_address": answer(410, "gone"),
    "ambiguous": hang_up,
}


class WebhookRig:
    name = "webhook"
    classes: frozenset[ErrorClass] = frozenset(FAILURES)
    secrets = (SECRET,)

    def open(self) -> None:
        self._endpoint = Endpoint()
        self._endpoint.open()

    def close(self) -> None:
        self._endpoint.close()

    def channel(self, timeout_s: float = 5.0) -> WebhookChannel:
        settings = WebhookChannel.Settings(allow_private=("127.0.0.0/8",), ports=(self._endpoint.port,))
        return WebhookChannel(settings, Context("webhook", timeout_s))

    def recipient(self) -> Recipient:
        return Recipient("ada", Contacts(webhook=WebhookContact(self._endpoint.url, SECRET)))

    def stranger(self) -> Recipient:
        return Recipient("bob", Contacts(email="bob@example.org"))

    def received(self) -> list[str]:
        return [request.body.decode() for request in tuple(self._endpoint.taken)]

    def keys(self) -> list[str]:
        return [request.headers["webhook-id"] for request in tuple(self._endpoint.taken)]

    def fail(self, error_class: ErrorClass) -> None:
        self._endpoint.then(FAILURES[error_class])

    def hang(self) -> None:
        self._endpoint.then(hang)
