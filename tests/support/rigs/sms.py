"""A provider of SMS with an HTTP interface of its own."""

from __future__ import annotations

import json

from shards.answers import Answers, ErrorClass
from shards.channels.base import Context, Recipient
from shards.channels.sms import SmsChannel
from shards.contacts import Contacts
from shards.hidden import Secret
from tests.support.endpoint import Endpoint, Script, answer, hang, hang_up

KEY = "key-of-the-account"
FAILURES: dict[ErrorClass, bytes | Script] = {
    "transient": answer(502),
    "permanent": answer(400, '{"error": {"code": "E1", "why": "no credit"}}'),
    "bad_address": answer(400, '{"error": {"code": "NO_SUCH_NUMBER"}}'),
    "throttled": answer(429),
    "misconfigured": answer(403),
    "ambiguous": hang_up,
}


class SmsRig:
    name = "sms"
    classes: frozenset[ErrorClass] = frozenset(FAILURES)
    has_title = False
    secrets = (KEY,)

    def open(self) -> None:
        self._endpoint = Endpoint(usual=answer(200, '{"status": "queued", "messages": [{"id": 17}]}'))
        self._endpoint.open()

    def close(self) -> None:
        self._endpoint.close()

    def channel(self, timeout_s: float = 5.0) -> SmsChannel:
        settings = SmsChannel.Settings(
            url=self._endpoint.url,
            headers={"X-Key": Secret(KEY)},
            body={"id": "{id}", "to": "{to}", "text": "{text}"},
            success_at="/status",
            success="queued",
            id_at="/messages/0/id",
            code_at="/error/code",
            message_at="/error/why",
        )
        answers = Answers({"sms": {"NO_SUCH_NUMBER": "bad_address"}})
        return SmsChannel(settings, Context("sms", timeout_s, answers=answers))

    def recipient(self) -> Recipient:
        return Recipient("ada", Contacts(phone="+33612345678"))

    def stranger(self) -> Recipient:
        return Recipient("bob", Contacts(email="bob@example.org"))

    def received(self) -> list[str]:
        return [json.loads(request.body)["text"] for request in tuple(self._endpoint.taken)]

    def keys(self) -> list[str]:
        return [json.loads(request.body)["id"] for request in tuple(self._endpoint.taken)]

    def fail(self, error_class: ErrorClass) -> None:
        self._endpoint.then(FAILURES[error_class])

    def hang(self) -> None:
        self._endpoint.then(hang)
