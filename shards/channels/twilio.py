"""SMS by Twilio (www.twilio.com/docs/messaging/api/message-resource).

It has no idempotency keys: where an answer is lost, a retry may send the message again.
"""

from __future__ import annotations

import base64
import re
import time
from urllib.parse import urlencode

import msgspec

from shards.channels.base import Context, Delivery, Recipient, Sent
from shards.channels.segments import TooLong, said
from shards.hidden import Secret

SERVICE = "twilio"
ACCOUNT = re.compile(r"AC[0-9a-f]{32}")
KEY = re.compile(r"SK[0-9a-f]{32}")
MESSAGING_SERVICE = re.compile(r"MG[0-9a-f]{32}")
URL = re.compile(r"https://[A-Za-z0-9.-]+(:\d+)?|http://(127\.0\.0\.1|localhost)(:\d+)?")
SEGMENTS_MAX = 10  # Twilio refuses more than 1,600 characters, which is as many of GSM-7
VALIDITY_S = range(1, 36_001)


class TwilioChannel:
    name = "sms"

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """``auth_token``, or ``api_key`` and its secret; ``from_number``, or ``messaging_service_sid``."""

        account_sid: str
        auth_token: Secret | None = None
        api_key: str = ""
        api_key_secret: Secret | None = None
        from_number: str = ""  # or a short code, or an alphanumeric sender
        messaging_service_sid: str = ""
        segments_max: int = SEGMENTS_MAX
        too_long: TooLong = "refuse"
        url: str = "https://api.twilio.com"  # or that of a region, such as https://api.dublin.ie1.twilio.com

        def __post_init__(self) -> None:
            patterns = (("account_sid", ACCOUNT), ("api_key", KEY), ("messaging_service_sid", MESSAGING_SERVICE))
            for key, pattern in patterns:
                value = getattr(self, key)
                if (value or key == "account_sid") and not pattern.fullmatch(value):
                    raise ValueError(f"{key} is {value!r}; it is to be {pattern.pattern[:2]} and 32 digits of 0-9a-f")
            if bool(self.auth_token) == bool(self.api_key):
                raise ValueError("auth_token or api_key is to be given, and not both")
            if bool(self.api_key) != bool(self.api_key_secret):
                raise ValueError("api_key_secret belongs to api_key: give both, or neither")
            if bool(self.from_number) == bool(self.messaging_service_sid):
                raise ValueError("from_number or messaging_service_sid is to be given, and not both")
            if not 1 <= self.segments_max <= SEGMENTS_MAX:
                raise ValueError(f"segments_max is {self.segments_max}; it must be between 1 and {SEGMENTS_MAX}")
            if not URL.fullmatch(self.url):
                raise ValueError(f"url is {self.url!r}; it is to be like https://api.twilio.com, without a path")

    def __init__(self, settings: Settings, context: Context) -> None:
        from shards.channels.http import HttpClient, refused

        self._settings = settings
        self._answers = context.answers
        self._refused = refused
        self._http = HttpClient(SERVICE, context)
        self._url = f"{settings.url}/2010-04-01/Accounts/{settings.account_sid}/Messages.json"
        user, secret = settings.api_key or settings.account_sid, settings.api_key_secret or settings.auth_token
        assert secret is not None
        credentials = base64.b64encode(f"{user}:{secret.reveal()}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {credentials}",
            "Content-Type": "application/x-www-form-urlencoded",
        }

    def supports_recipient(self, recipient: Recipient) -> bool:
        return bool(recipient.contacts.phone)

    async def send(self, delivery: Delivery) -> Sent:
        settings = self._settings
        form = {
            "To": delivery.recipient.contacts.phone or "",
            "Body": said(delivery, settings.segments_max, settings.too_long),
        }
        if settings.messaging_service_sid:
            form["MessagingServiceSid"] = settings.messaging_service_sid
        else:
            form["From"] = settings.from_number
        if delivery.expires_ms is not None:
            left_s = int(delivery.expires_ms / 1000 - time.time())
            form["ValidityPeriod"] = str(min(max(left_s, VALIDITY_S[0]), VALIDITY_S[-1]))
        answer = await self._http.request("POST", self._url, urlencode(form).encode(), self._headers)
        message = _read(answer.text)
        code = message.code or message.error_code
        if code or not answer.ok:
            said_why = message.message or message.error_message or ""
            words = f"{code}: {said_why} (www.twilio.com/docs/api/errors/{code})" if code else ""
            raise self._refused(self._answers, SERVICE, answer, str(code or ""), words)
        return Sent(message.sid)

    async def close(self) -> None:
        await self._http.close()


class _Message(msgspec.Struct):
    """Of an answer: the message, or what is wrong with the request, or both."""

    sid: str = ""
    code: int | None = None
    message: str = ""
    error_code: int | None = None
    error_message: str | None = None


def _read(text: str) -> _Message:
    try:
        return msgspec.json.decode(text, type=_Message)
    except (msgspec.MsgspecError, RecursionError):
        return _Message()
