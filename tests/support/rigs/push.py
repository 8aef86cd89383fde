"""One device, by each of the three services."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from shards.answers import ErrorClass
from shards.channels.base import Context, Recipient
from shards.channels.push import PushChannel
from shards.contacts import Contacts, PushContact
from tests.support.push import apns, fcm, settings, tokens
from tests.support.push.apns import ApnsServer
from tests.support.push.fcm import FcmServer
from tests.support.push.server import Answer, Fault, Reply, Server
from tests.support.push.webpush import WebPushServer

Kind = TypeVar("Kind", bound=Server)


class _Rig(Generic[Kind]):
    name: str
    failures: ClassVar[dict[ErrorClass, Reply]]

    def __init__(self, server: Kind) -> None:
        self.server = server
        self.classes = frozenset(self.failures)

    def open(self) -> None:
        self.server.open()

    def close(self) -> None:
        self.server.close()

    def channel(self, timeout_s: float = 5.0) -> PushChannel:
        return PushChannel(self.settings(), Context("push", timeout_s))

    def recipient(self) -> Recipient:
        return Recipient("ada", Contacts(push=(PushContact(self.name.removeprefix("push-"), self.token()),)))

    def fail(self, error_class: ErrorClass) -> None:
        self.server.then(self.failures[error_class])

    def hang(self) -> None:
        self.server.then(Fault.HANG)

    def settings(self) -> PushChannel.Settings:
        raise NotImplementedError

    def token(self) -> str:
        raise NotImplementedError


class FcmRig(_Rig[FcmServer]):
    name = "push-fcm"
    failures: ClassVar[dict[ErrorClass, Reply]] = {
        "transient": fcm.error(500, "INTERNAL", "INTERNAL", "Internal error encountered."),
        "permanent": fcm.error(400, "INVALID_ARGUMENT", "", "Invalid JSON payload received."),
        "bad_address": fcm.UNREGISTERED,
        "throttled": fcm.error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Quota exceeded.", Retry_After="7"),
        "ambiguous": Fault.DROP,
        "misconfigured": fcm.error(403, "PERMISSION_DENIED", "", "Permission denied."),
    }
    secrets = tuple(tokens.pem(fcm.key()).splitlines())

    def __init__(self) -> None:
        super().__init__(FcmServer())

    def settings(self) -> PushChannel.Settings:
        return PushChannel.Settings(fcm=settings.for_fcm(self.server))

    def token(self) -> str:
        return "fcm-token-1"

    def stranger(self) -> Recipient:
        return Recipient("bob", Contacts(push=(PushContact("apns", "00"),)))

    def keys(self) -> list[str]:
        return [message["data"]["delivery_id"] for message in self.server.messages()]

    def received(self) -> list[str]:
        return [_text(message["notification"]) for message in self.server.messages()]


class ApnsRig(_Rig[ApnsServer]):
    name = "push-apns"
    failures: ClassVar[dict[ErrorClass, Reply]] = {
        "transient": apns.error(503, "Shutdown"),
        "permanent": apns.error(413, "PayloadTooLarge"),
        "bad_address": apns.error(410, "Unregistered"),
        "throttled": apns.error(429, "TooManyProviderTokenUpdates"),
        "ambiguous": Fault.DROP,
        "misconfigured": apns.error(403, "InvalidProviderToken"),
    }
    secrets = tuple(tokens.pem(apns.key()).splitlines())

    def __init__(self) -> None:
        super().__init__(ApnsServer())

    def settings(self) -> PushChannel.Settings:
        return PushChannel.Settings(apns=settings.for_apns(self.server))

    def token(self) -> str:
        return "00aa11bb"

    def stranger(self) -> Recipient:
        return Recipient("bob", Contacts(email="bob@example.org"))

    def keys(self) -> list[str]:
        return [message["delivery_id"] for message in self.server.messages()]

    def received(self) -> list[str]:
        return [_text(message["aps"]["alert"]) for message in self.server.messages()]


class WebPushRig(_Rig[WebPushServer]):
    name = "push-webpush"
    failures: ClassVar[dict[ErrorClass, Reply]] = {
        "transient": Answer(500, b"Internal Server Error"),
        "permanent": Answer(413, b"Payload Too Large"),
        "bad_address": Answer(410, b"push subscription has unsubscribed or expired."),
        "throttled": Answer(429, b"Too Many Requests", {"Retry-After": "7"}),
        "ambiguous": Fault.DROP,
    }
    secrets = tuple(tokens.pem(settings.vapid_key()).splitlines())

    def __init__(self) -> None:
        super().__init__(settings.webpush_server())

    def settings(self) -> PushChannel.Settings:
        return PushChannel.Settings(webpush=settings.for_webpush(self.server))

    def token(self) -> str:
        return self.server.subscription()

    def stranger(self) -> Recipient:
        return Recipient("bob", Contacts(push=(PushContact("fcm", "00"),)))

    def keys(self) -> list[str]:
        return [message["id"] for message in self.server.messages()]

    def received(self) -> list[str]:
        return [_text(message) for message in self.server.messages()]


def _text(message: Any) -> str:
    return f"{message['title']}\n{message['body']}"
