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
        "400 INVALID_ARGUMENT": "bad_address",  # only with the detail of FcmError; without it, it is a plain 400
        "403 SENDER_ID_MISMATCH": "bad_address",
        "404 UNREGISTERED": "bad_address",
    },
    "apns": {  # developer.apple.com, "Handling notification responses from APNs"
        "400 BadDeviceToken": "bad_address",
        "400 DeviceTokenNotForTopic": "bad_address",
        "410": "bad_address",
    },
    "webpush": {  # RFC 8030
        "404": "bad_address",
        "410": "bad_address",
    },
    "apprise": {  # by the status that its log has of an answer
        "401 contact": "bad_address",  # the credentials are part of the user's URL
        "403 contact": "bad_address",
        "404 contact": "bad_address",
        "410 contact": "bad_address",
        "404": "misconfigured",  # the URL is the operator's
        "410": "misconfigured",
    },
    "dbus": {  # the called method and the last part of an error's name, as of org.freedesktop.DBus.Error.*
        "NoDesktop": "misconfigured",  # ours: there is no bus, or it refuses us
        "ServiceUnknown": "misconfigured",  # no notification daemon runs, and the bus knows none to start
        "NameHasNoOwner": "misconfigured",
        "UnknownMethod": "misconfigured",
        "AccessDenied": "misconfigured",
        "Spawn": "misconfigured",  # .Spawn.*: it was to be started, and ended at once
        "LimitsExceeded": "throttled",
        "ExcessNotificationGeneration": "throttled",  # org.freedesktop.Notifications.Error: "too many similar"
        "NoReply": "ambiguous",
        "Timeout": "ambiguous",
        "TimedOut": "ambiguous",
        "Disconnected": "ambiguous",
        "GetCapabilities Disconnected": "transient",  # which is called first
        "GetCapabilities NoReply": "transient",
    },
    "twilio": {  # twilio.com/docs/api/errors; by its code
        "14107": "throttled",  # rate limit of messages
        "20003": "misconfigured",  # authentication
        "20005": "misconfigured",  # account not active
        "20404": "misconfigured",  # there is no such account
        "20429": "throttled",
        "20500": "transient",
        "20503": "transient",
        "21211": "bad_address",  # no valid number
        "21212": "misconfigured",  # nor is the sender's
        "21214": "bad_address",  # cannot be reached
        "21217": "bad_address",  # does not appear to be valid
        "21265": "bad_address",  # a short code
        "21603": "misconfigured",  # no sender
        "21606": "misconfigured",  # the sender's number is not the account's, or has no SMS
        "21610": "bad_address",  # unsubscribed, by answering STOP
        "21611": "throttled",  # the sender's queue is full
        "21614": "bad_address",  # not a mobile number
        "21659": "misconfigured",  # the sender is none of Twilio's numbers
        "21660": "misconfigured",  # the sender is another account's
        "21701": "misconfigured",  # there is no such messaging service
        "21703": "misconfigured",  # it has no number
        "30001": "throttled",  # queue overflow
        "30002": "misconfigured",  # account suspended
        "30003": "transient",  # the handset is off
        "30005": "bad_address",  # unknown handset
        "30006": "bad_address",  # landline
        "30008": "transient",  # unknown error of the carrier
        "30022": "throttled",  # rate limit of A2P 10DLC
        "30023": "throttled",  # its daily cap
        "63038": "throttled",  # daily limit of the account
    },
    "sms": {"unreadable": "ambiguous"},  # a success, but without what the settings look for
    "smtp": {  # by reply code, with the enhanced status code of RFC 3463 as detail
        "4xx": "transient",
        "5xx": "permanent",
    },
}
SPEAKS = dict.fromkeys(("webhook", "fcm", "apns", "webpush", "twilio", "sms", "apprise"), "http")


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
