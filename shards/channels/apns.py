"""Devices of Apple: APNs, over HTTP/2 and with a provider's token.

developer.apple.com, "Sending notification requests to APNs" and "Handling notification responses from APNs".
"""

from __future__ import annotations

import re
import time
import uuid
from urllib.parse import quote

import msgspec

from shards.channels import devices, http, jwt
from shards.channels.base import Context, Delivery, SendError
from shards.channels.certificates import check_ca_file
from shards.channels.http2 import Header, Http2Client
from shards.hidden import Secret

PRODUCTION = "https://api.push.apple.com"
SANDBOX = "https://api.sandbox.push.apple.com"
TOKEN_LIFE_S = 2_400  # Apple takes one for an hour, and a new one at most every 20 minutes
NAMESPACE = uuid.UUID("6f9c1d2e-8a47-5a3b-9a0c-1b7f3f0f6a55")  # of apns-id
PRIORITIES = {"critical": "10", "high": "10", "normal": "5", "low": "1"}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: Secret  # the .p8 file
    key_id: str
    team_id: str
    topic: str  # the app's bundle id
    sandbox: bool = False
    base_url: str = ""
    ca_file: str = ""

    def __post_init__(self) -> None:
        try:
            jwt.elliptic_key(self.key.reveal())
        except ValueError as error:
            raise ValueError(f"key: {error}; give the .p8 file of developer.apple.com, as file:PATH") from None
        for name, value in (("key_id", self.key_id), ("team_id", self.team_id)):
            if not re.fullmatch(r"[A-Z0-9]{10}", value):
                raise ValueError(f"{name} is {value!r}; it has 10 capitals and digits, as developer.apple.com shows it")
        if not re.fullmatch(r"[A-Za-z0-9.-]+", self.topic):
            raise ValueError(f"topic is {self.topic!r}; it is the app's bundle id, such as com.example.app")
        if self.base_url:
            devices.check_url("base_url", self.base_url, "https")
        check_ca_file(self.ca_file)


class Refusal(msgspec.Struct):
    """The body of an answer that is not 200."""

    reason: str = ""


class Apns:
    """A device's token is what the app was given in ``didRegisterForRemoteNotificationsWithDeviceToken``, in hex."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._key = jwt.elliptic_key(settings.key.reveal())
        self._provider_token = jwt.Renewed(self._issue)
        self._url = settings.base_url or (SANDBOX if settings.sandbox else PRODUCTION)
        self._client = Http2Client("apns", context, self._url, ca_file=settings.ca_file)

    async def send(self, token: str, delivery: Delivery) -> str:
        body = devices.body("APNs", _content(delivery))
        identifier = str(uuid.uuid5(NAMESPACE, f"{delivery.id}\0{token}"))
        headers = [
            ("apns-topic", self._settings.topic),
            ("apns-push-type", "alert"),
            ("apns-id", identifier),
            ("apns-expiration", str(int(time.time()) + ttl if (ttl := devices.ttl_s(delivery)) else 0)),
            ("apns-priority", PRIORITIES[delivery.priority]),
        ]
        if collapse := devices.collapse_id(delivery):
            headers.append(("apns-collapse-id", collapse))
        path = f"/3/device/{quote(token, safe='')}"
        provider_token = await self._provider_token.get()
        answer, reason = await self._post(path, body, headers, provider_token)
        if reason == "ExpiredProviderToken":
            provider_token = await self._provider_token.get(refused=provider_token)
            answer, reason = await self._post(path, body, headers, provider_token)
        if not answer.ok:
            raise http.refused(self._context.answers, "apns", answer, reason, reason)
        return identifier

    async def close(self) -> None:
        await self._client.close()

    async def _post(
        self, path: str, body: bytes, headers: list[Header], provider_token: str
    ) -> tuple[http.Answer, str]:
        if trace := self._context.trace:
            for line in (
                f"POST {self._url}{path}",
                "authorization: ***",
                *(f"{name}: {value}" for name, value in headers),
            ):
                trace(f"> {line}")
        answer = await self._client.post(path, body, [("authorization", f"bearer {provider_token}"), *headers])
        if trace:
            trace(f"< HTTP {answer.status} {http.quoted(answer.text)}".rstrip())
        return answer, "" if answer.ok else _reason(answer.text)

    async def _issue(self) -> jwt.Issued:
        now = int(time.time())
        claims = {"iss": self._settings.team_id, "iat": now}
        return jwt.Issued(jwt.sign(self._key, claims, kid=self._settings.key_id), now + TOKEN_LIFE_S)


def _content(delivery: Delivery) -> dict[str, object]:
    """``aps`` of the payload adds to ours: a badge, another sound, ..."""
    more = delivery.payload.get("aps", {})
    if not isinstance(more, dict):
        raise SendError("permanent", "payload.aps is no map; it is for the keys that Apple defines, such as badge")
    aps = {"alert": {"title": delivery.title, "body": delivery.text}, "sound": "default", **more}
    return {"delivery_id": delivery.id, **delivery.payload, "aps": aps}


def _reason(text: str) -> str:
    try:
        return http.quoted(msgspec.json.decode(text, type=Refusal).reason)
    except msgspec.DecodeError:
        return ""
