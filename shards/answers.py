"""What the answers of services mean: one table, for retries, breakers, fail-over and suppressed contacts alike.

A service has a table of codes. One is looked up from the most special to the most general: the status with a detail
("403 SENDER_ID_MISMATCH"), the detail alone, its group ("5.1.x" for "5.1.1"), the status ("403"), its class ("4xx");
then the same in the table of what the service speaks ("http"). The operator's own table goes first.
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

# By reply code (RFC 5321, 4.2.3), with the enhanced status code as detail (RFC 3463, and IANA's list of them); of a
# server that gives none, with the command.
SMTP: dict[str, ErrorClass] = {
    "4xx": "transient",
    "5xx": "permanent",
    "unreachable": "transient",  # no connection, or it broke: the server does not have the mail
    "tls": "misconfigured",  # no certificate to be trusted, or no encryption at all: nothing was sent
    "unanswered": "ambiguous",  # it got the whole mail, and said nothing
    # the mailbox
    "550 RCPT": "bad_address",  # not found
    "551 RCPT": "bad_address",  # not local
    "553 RCPT": "bad_address",  # its name is not allowed
    "550 MAIL": "misconfigured",
    "553 MAIL": "misconfigured",
    "5.1.x": "bad_address",  # the address: unknown mailbox, unknown host, bad syntax, moved, null MX
    "4.1.1": "bad_address",  # an unknown mailbox is one whatever the reply code
    "5.1.7": "misconfigured",  # the sender's syntax
    "5.1.8": "misconfigured",  # the sender's domain
    "5.2.1": "bad_address",  # the mailbox is disabled
    # too much at once
    "421": "throttled",  # the server closes: RFC 5321, 3.8
    "421 4.4.2": "transient",  # we said nothing for too long
    "452 4.5.3": "throttled",  # too many recipients
    "4.7.x": "throttled",  # reputation, rate: support.google.com/a/answer/3726730
    "4.7.1": "transient",  # mostly greylisting, RFC 6647
    # credentials and encryption: RFC 4954 (4.7, 6) and RFC 3207
    "454 4.7.0": "transient",
    "454 MAIL": "throttled",  # so Amazon SES says that it is more than the account may send
    "454 RCPT": "throttled",
    "454 DATA": "throttled",
    "432 4.7.12": "misconfigured",
    "530": "misconfigured",
    "534": "misconfigured",
    "535": "misconfigured",
    "538": "misconfigured",
}

TABLES: dict[str, dict[str, ErrorClass]] = {
    "http": HTTP,
    "webhook": {  # whoever runs the endpoint may mend it: all but 410 is tried again
        "410": "bad_address",
        "429": "throttled",
        "503 retry-after": "throttled",
        "1xx": "transient",
        "3xx": "transient",
        "4xx": "transient",
        "5xx": "transient",
        "unreachable timeout": "throttled",  # it is left alone for as long as after any other timeout
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
        "400 IdleTimeout": "transient",
        "400 BadTopic": "misconfigured",
        "400 MissingTopic": "misconfigured",
        "400 TopicDisallowed": "misconfigured",
        "410": "bad_address",
        "429 TooManyRequests": "transient",  # to one device, so that the others need not wait
    },
    "webpush": {  # RFC 8030; what one push service says is not to pause the others
        "401": "permanent",
        "403": "permanent",  # the subscription is of another VAPID key, or the subject is not liked
        "404": "bad_address",
        "406": "throttled",  # of WNS, which serves Edge
        "410": "bad_address",
        "tls": "transient",
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
        "21601": "misconfigured",  # the sender's number is not the account's
        "21603": "misconfigured",  # no sender
        "21606": "misconfigured",  # the sender's number is not the account's, or has no SMS
        "21610": "bad_address",  # unsubscribed, by answering STOP
        "21611": "throttled",  # the sender's queue is full
        "21614": "bad_address",  # not a mobile number
        "21635": "bad_address",  # landline
        "21659": "misconfigured",  # the sender is none of Twilio's numbers
        "21660": "misconfigured",  # the sender is another account's
        "21661": "misconfigured",  # the sender's number has no SMS
        "21701": "misconfigured",  # there is no such messaging service
        "21703": "misconfigured",  # it has no number
        "21705": "misconfigured",  # its id is none
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
    "smtp": SMTP,
}
SPEAKS = dict.fromkeys(("webhook", "fcm", "oauth", "apns", "webpush", "twilio", "sms", "apprise"), "http")


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
        if "." in detail:
            yield f"{detail.rpartition('.')[0]}.x"
    yield status
    yield f"{status[:1]}xx"
