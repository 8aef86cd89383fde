"""Devices of Android, and whatever else has Firebase: FCM, by its HTTP v1 API.

firebase.google.com/docs/reference/fcm/rest/v1/projects.messages; its token is that of a service account, by the JWT
bearer grant (RFC 7523, developers.google.com/identity/protocols/oauth2/service-account).
"""

from __future__ import annotations

import time
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import msgspec
import orjson

from shards.answers import ErrorClass
from shards.channels import devices, http, jwt, urls
from shards.channels.base import Context, Delivery, SendError
from shards.channels.certificates import check_ca_file
from shards.hidden import Secret

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_LIFE_S = 3_600  # what we ask for, and Google's most
MARGIN_S = 300  # a token is renewed that long before its end
UNSAID_S = 60.0  # to be waited after a 429 that does not say how long
RESERVED = ("from", "message_type", "collapse_key")  # keys that data may not have, nor such as begin so:
RESERVED_PREFIXES = ("google", "gcm.")
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
APNS_ERROR = "type.googleapis.com/google.firebase.fcm.v1.ApnsError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"


class ServiceAccount(msgspec.Struct, frozen=True):
    """What of Google's file is used."""

    project_id: str
    private_key_id: str
    private_key: str
    client_email: str
    token_uri: str = "https://oauth2.googleapis.com/token"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    service_account: Secret  # the JSON file
    base_url: str = "https://fcm.googleapis.com"
    ca_file: str = ""

    def __post_init__(self) -> None:
        try:
            jwt.rsa_key(account(self).private_key)
        except (msgspec.DecodeError, ValueError) as error:
            raise ValueError(
                f"service_account: {error}; give the JSON file of a service account, as file:PATH (Firebase console, "
                "project settings, service accounts, generate new private key)"
            ) from None
        if urls.split(uri := account(self).token_uri) is None:
            raise ValueError(f"service_account: token_uri is {uri!r}, which is no URL; give the file as Google made it")
        devices.check_url("base_url", self.base_url, "https", "http")
        check_ca_file(self.ca_file)


def account(settings: Settings) -> ServiceAccount:
    """Raises ``msgspec.DecodeError``, which has nothing of the text."""
    return msgspec.json.decode(settings.service_account.reveal(), type=ServiceAccount)


class Detail(msgspec.Struct, rename="camel"):
    """One of an error's details; which it is, and so which of its fields there are, ``kind`` says."""

    kind: str = msgspec.field(name="@type", default="")
    error_code: str = ""  # FcmError
    reason: str = ""  # ApnsError
    status_code: int = 0
    field_violations: list[dict[str, Any]] = []  # BadRequest


class Refusal(msgspec.Struct):
    message: str = ""
    status: str = ""
    details: list[Detail] = []


class RefusalBody(msgspec.Struct):
    error: Refusal


class Accepted(msgspec.Struct):
    name: str = ""


class Grant(msgspec.Struct):
    access_token: Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]+$")]  # it becomes a header
    expires_in: int = TOKEN_LIFE_S


class Fcm:
    """A device's token is what the app was given by ``getToken`` of Firebase Messaging."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._answers = context.answers
        self._trace = context.trace
        self._account = account(settings)
        self._key = jwt.rsa_key(self._account.private_key)
        self._url = f"{settings.base_url}/v1/projects/{quote(self._account.project_id, safe='')}/messages:send"
        self._client = http.HttpClient("fcm", context, ca_file=settings.ca_file)
        self._issuer = http.HttpClient("oauth", context._replace(trace=None), ca_file=settings.ca_file)
        self._access_token = jwt.Renewed(self._issue)

    async def send(self, token: str, delivery: Delivery) -> str:
        data = _data(delivery)
        notification = {"title": delivery.title, "body": delivery.text}
        devices.body("FCM", [notification, data])
        body = orjson.dumps({"message": {"token": token, "notification": notification, "data": data, **_how(delivery)}})
        access_token = await self._access_token.get()
        answer = await self._post(body, access_token)
        if answer.status == 401 and "THIRD_PARTY_AUTH_ERROR" not in answer.text:
            answer = await self._post(body, await self._access_token.get(refused=access_token))
        if answer.ok:
            return _name(answer.text)
        raise self._refused(answer)

    async def close(self) -> None:
        await self._client.close()
        await self._issuer.close()

    async def _post(self, body: bytes, access_token: str) -> http.Answer:
        headers = {"Authorization": f"Bearer {access_token}", "Content-Type": "application/json"}
        return await self._client.request("POST", self._url, body, headers)

    def _refused(self, answer: http.Answer) -> SendError:
        try:
            refusal = msgspec.json.decode(answer.text, type=RefusalBody).error
        except msgspec.DecodeError:
            return http.refused(self._answers, "fcm", answer)
        code, apple = _code(refusal)
        words = f"{code or refusal.status}: {refusal.message}"
        error = http.refused(self._answers, "fcm", answer, code if answer.status < 500 else "", words)
        if apple:
            error.error_class = self._answers.error_class("apns", apple.status_code, apple.reason)
        if answer.status == 429 and error.retry_after_s is None:
            error.retry_after_s = UNSAID_S
        return error

    async def _issue(self) -> jwt.Issued:
        now = int(time.time())
        claims = {
            "iss": self._account.client_email,
            "scope": SCOPE,
            "aud": self._account.token_uri,
            "iat": now,
            "exp": now + TOKEN_LIFE_S,
        }
        assertion = jwt.sign(self._key, claims, kid=self._account.private_key_id)
        body = urlencode({"grant_type": GRANT, "assertion": assertion}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if self._trace:
            self._trace(f"asking {self._account.token_uri} for an access token")
        try:
            answer = await self._issuer.request("POST", self._account.token_uri, body, headers)
            if not answer.ok:
                raise http.refused(self._answers, "oauth", answer)
            grant = msgspec.json.decode(answer.text, type=Grant)
        except (SendError, msgspec.DecodeError) as error:
            known: ErrorClass = error.error_class if isinstance(error, SendError) else "transient"
            raise SendError(
                "transient" if known == "ambiguous" else known,  # no device was sent anything
                f"no access token from {self._account.token_uri}: {error}",
                retry_after_s=getattr(error, "retry_after_s", None),
            ) from None
        return jwt.Issued(grant.access_token, now + max(0, grant.expires_in - MARGIN_S))


def _data(delivery: Delivery) -> dict[str, str]:
    """The payload, of which FCM takes texts only: what is none, is JSON."""
    data = {"delivery_id": delivery.id}
    for key, value in delivery.payload.items():
        if key in RESERVED or key.startswith(RESERVED_PREFIXES):
            raise SendError("permanent", f"payload.{key}: FCM keeps this key for itself; name it otherwise")
        data[key] = value if isinstance(value, str) else devices.encoded(value).decode()
    return data


def _how(delivery: Delivery) -> dict[str, Any]:
    """How each platform is to treat it; FCM reaches Apple's devices and browsers too."""
    urgent = delivery.priority in ("critical", "high")
    ttl = devices.ttl_s(delivery)
    android: dict[str, Any] = {"priority": "HIGH" if urgent else "NORMAL", "ttl": f"{ttl}s"}
    apple = {"apns-priority": "10" if urgent else "5", "apns-expiration": str(int(time.time()) + ttl if ttl else 0)}
    browser = {"TTL": str(ttl), "Urgency": devices.URGENCIES[delivery.priority]}
    if collapse := devices.collapse_id(delivery):
        android |= {"collapse_key": collapse, "notification": {"tag": collapse}}
        apple["apns-collapse-id"] = collapse
        browser["Topic"] = collapse
    sound = {"payload": {"aps": {"sound": "default"}}}
    return {"android": android, "apns": {"headers": apple, **sound}, "webpush": {"headers": browser}}


def _code(refusal: Refusal) -> tuple[str, Detail | None]:
    """FCM's own code, and what Apple said where it was asked.

    INVALID_ARGUMENT is said of a bad token, and of a bad message, at times with FcmError too ("Android message is too
    big"): so it is the token's only where that is named (firebase.google.com/docs/cloud-messaging/error-codes).
    """
    details = {detail.kind: detail for detail in refusal.details}
    code = details[FCM_ERROR].error_code if FCM_ERROR in details else ""
    fields = [violation.get("field") for violation in details.get(BAD_REQUEST, Detail()).field_violations]
    is_of_token = "message.token" in fields if fields else "token" in refusal.message
    if code == "INVALID_ARGUMENT" and not is_of_token:
        code = ""
    return code, details.get(APNS_ERROR)


def _name(text: str) -> str:
    try:
        return http.quoted(msgspec.json.decode(text, type=Accepted).name)
    except msgspec.DecodeError:
        return ""
