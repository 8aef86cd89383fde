"""What the answers of services mean: one table, for retries, breakers, fail-over and suppressed contacts alike.

A service has a table of codes. One is looked up from the most special to the most general: the status with a detail
("403 SENDER_ID_MISMATCH"), the detail alone, the status ("403"), its class ("4xx"); then the same in the table of what
the service speaks ("http"). The operator's own table goes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

ErrorClass = Literal["transient", "throttled", "ambiguous", "permanent", "bad_address", "misconfigured"]
ERROR_CLASSES: tuple[ErrorClass, ...] = get_args(ErrorClass)

HTTP: dict[str, ErrorClass] = {
    "401": "misconfigured",
    "403": "misconfigured",
    "408": "transient",
    "425": "transient",
    "429": "throttled",
    "503 retry-after": "throttled",
    "3xx": "permanent",
    "4xx": "permanent",
    "5xx": "transient",
    "unreachable": "transient",  # no connection: nothing was sent
    "tls": "misconfigured",  # no certificate to be trusted: nothing was sent
    "denied": "permanent",  # an address that nobody is to connect to
    "unanswered": "ambiguous",  # sent, and then a time-out, a disconnection, or no HTTP
}

TABLES: dict[str, dict[str, ErrorClass]] = {
    "http": HTTP,
    "webhook": {  # whoever runs the endpoint may mend it: all but 410 is tried again
        "410": "bad_address",
        "429": "throttled",
        "503 retry-after": "throttled",
        "3xx": "transient",
        "4xx": "transient",
        "5xx": "transient",
        "tls": "transient",  # of one endpoint, so that the others need not wait
    },
    "fcm": {  # firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
        "400 INVALID_ARGUMENT": "bad_address",  # only with the detail of FcmError and of the token; else a plain 400
        "403 SENDER_ID_MISMATCH": "bad_address",
        "404 UNREGISTERED": "bad_address",
    },
    "oauth": {  # RFC 6749, 5.2: Google's server of the access tokens for FCM
        "408": "transient",
        "429": "throttled",
        "4xx": "misconfigured",
        "3xx": "misconfigured",
    },
    "apns": {  # developer.apple.com, "Handling notification responses from APNs"
        "400 BadDeviceToken": "bad_address",
        "400 DeviceTokenNotForTopic": "bad_address",
        "400 BadTopic": "misconfigured",
        "400 MissingTopic": "misconfigured",
        "400 TopicDisallowed": "misconfigured",
        "410": "bad_address",
    },
    "webpush": {  # RFC 8030; what one push service says is not to pause the others
        "401": "permanent",
        "403": "permanent",  # the subscription is of another VAPID key, or the subject is not liked
        "404": "bad_address",
        "410": "bad_address",
        "tls": "transient",
    },
    "twilio": {},
    "sms": {},
    "smtp": {  # by reply code, with the enhanced status code of RFC 3463 as detail
        "4xx": "transient",
        "5xx": "permanent",
    },
}
SPEAKS = dict.fromkeys(("webhook", "fcm", "oauth", "apns", "webpush", "twilio", "sms"), "http")


class Answers:
    """The table, with what the operator has changed of it."""

    def __init__(self, changed: Mapping[str, Mapping[str, ErrorClass]] | None = None) -> None:
        self._changed = changed or {}

    def error_class(self, service: str, status: int | str, detail: str = "") -> ErrorClass:
        """What an answer means. One that no table knows is ``permanent``."""
        keys = list(_keys(str(status), detail))
        for name in (service, SPEAKS.get(service, service)):
            for table in (self._changed.get(name, {}), TABLES.get(name, {})):
                for key in keys:
                    if key in table:
                        return table[key]
        return "permanent"


def _keys(status: str, detail: str) -> Iterator[str]:
    if detail:
        yield f"{status} {detail}"
        yield detail
    yield status
    yield f"{status[:1]}xx"
