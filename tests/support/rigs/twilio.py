"""What answers as Twilio does."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

from shards.answers import ErrorClass
from shards.channels.base import Context, Recipient
from shards.channels.twilio import TwilioChannel
from shards.contacts import Contacts
from shards.hidden import Secret
from tests.support.endpoint import Endpoint, Script, answer, hang, hang_up

ACCOUNT = "AC" + "0" * 32
TOKEN = "token-of-the-account"
QUEUED = answer(201, json.dumps({"sid": "SM1", "status": "queued", "error_code": None, "num_segments": "1"}))


def failed(status: int, code: int, message: str) -> bytes:
    """An error as Twilio says it."""
    link = f"https://www.twilio.com/docs/errors/{code}"
    return answer(status, json.dumps({"code": code, "message": message, "more_info": link, "status": status}))


FAILURES: dict[ErrorClass, bytes | Script] = {
    "transient": failed(503, 20503, "Service unavailable"),
    "permanent": failed(400, 21617, "The concatenated message body exceeds the 1600 character limit."),
    "bad_address": failed(400, 21610, "Attempt to send to unsubscribed recipient"),
    "throttled": failed(429, 20429, "Too Many Requests"),
    "misconfigured": failed(401, 20003, "Authenticate"),
    "ambiguous": hang_up,
}


class TwilioRig:
    name = "twilio"
    classes: frozenset[ErrorClass] = frozenset(FAILURES)
    has_title = False
    secrets = (TOKEN,)

    def open(self) -> None:
        self._endpoint = Endpoint(usual=QUEUED)
        self._endpoint.open()

    def close(self) -> None:
        self._endpoint.close()

    def channel(self, timeout_s: float = 5.0) -> TwilioChannel:
        settings = TwilioChannel.Settings(
            account_sid=ACCOUNT,
            auth_token=Secret(TOKEN),
            from_number="+15005550006",
            url=f"http://127.0.0.1:{self._endpoint.port}",
        )
        return TwilioChannel(settings, Context("sms", timeout_s))

    def recipient(self) -> Recipient:
        return Recipient("ada", Contacts(phone="+33612345678"))

    def stranger(self) -> Recipient:
        return Recipient("bob", Contacts(email="bob@example.org"))

    def received(self) -> list[str]:
        return [parse_qs(request.body.decode())["Body"][0] for request in tuple(self._endpoint.taken)]

    def fail(self, error_class: ErrorClass) -> None:
        self._endpoint.then(FAILURES[error_class])

    def hang(self) -> None:
        self._endpoint.then(hang)
