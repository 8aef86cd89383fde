"""SMS by any provider with an HTTP interface, which the settings describe.

In ``url``, ``headers`` and ``body`` stand placeholders. They are filled in where a text is known to be one: at the
leaves of a JSON document, in the values of a form, in a header's value, and percent-encoded in the URL. So whatever a
notification says stays a text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

import msgspec

from shards.channels import urls
from shards.channels.base import Context, Delivery, Recipient, Sent
from shards.channels.certificates import check_ca_file
from shards.channels.segments import TooLong, said
from shards.hidden import Secret

if TYPE_CHECKING:
    from shards.channels.http import Answer

SERVICE = "sms"
PLACEHOLDERS = ("to", "number", "text", "from", "id")
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110, 5.6.2
PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
TYPES = {"json": "application/json", "form": "application/x-www-form-urlencoded"}
SEGMENTS_MAX = range(1, 256)  # the header of a segment counts in a byte


class SmsChannel:
    name = "sms"

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """``success_at``, ``id_at``, ``code_at`` and ``message_at`` are JSON pointers (RFC 6901) into the answer."""

        url: str
        method: Literal["GET", "POST", "PUT"] = "POST"
        headers: dict[str, Secret] = {}
        username: str = ""
        password: Secret | None = None
        secrets: dict[str, Secret] = {}
        encoding: Literal["json", "form", "none"] = "json"
        body: dict[str, Any] = msgspec.field(default_factory=lambda: {"to": "{to}", "text": "{text}"})
        sender: str = ""
        success_at: str = ""
        success: str = ""
        id_at: str = ""
        code_at: str = ""
        message_at: str = ""
        segments_max: int = 10
        too_long: TooLong = "refuse"
        ca_file: str = ""

        def __post_init__(self) -> None:
            check_ca_file(self.ca_file)
            parts = urls.split(self.url)
            if parts is None or parts.scheme not in {"http", "https"}:
                raise ValueError("url is no URL such as https://sms.example.org/send")
            if "@" in parts.netloc:
                raise ValueError("url has a user name or password, and is shown; give them as username and password")
            known = (*PLACEHOLDERS, *self.secrets)
            places = [("url", self.url), *(("headers", value.reveal()) for value in self.headers.values())]
            if self.encoding != "none":
                places += [("body", text) for text in _texts(self.body)]
            for key, text in places:
                for name in PLACEHOLDER.findall(text):
                    if name not in known:
                        raise ValueError(f"{key} has {{{name}}}; the placeholders are {', '.join(known)}")
            if any("{text}" in value.reveal() for value in self.headers.values()):
                raise ValueError("headers has {text}, which may have several lines; put it into the body or the url")
            filled = dict.fromkeys(PLACEHOLDERS, "") | {name: one.reveal() for name, one in self.secrets.items()}
            for name, value in self.headers.items():
                if not HEADER.fullmatch(name):
                    raise ValueError(f"headers has {name!r}, which is no name of a header")
                if not _fill(value.reveal(), filled).isprintable():
                    raise ValueError(f"headers.{name} has a line's end, or another control character; leave it out")
                if self.username and name.lower() == "authorization":
                    raise ValueError(f"headers has {name}, which username and password make; leave one of both out")
            if self.encoding == "form" and not all(isinstance(value, str) for value in self.body.values()):
                raise ValueError('body is to have texts alone with encoding = "form"')
            if taken := set(self.secrets).intersection(PLACEHOLDERS):
                raise ValueError(f"secrets has {min(taken)}, which is a placeholder already; give it another name")
            if bool(self.username) != bool(self.password):
                raise ValueError("username and password belong together: give both, or neither")
            for key in ("success_at", "id_at", "code_at", "message_at"):
                if (pointer := getattr(self, key)) and not pointer.startswith("/"):
                    raise ValueError(f"{key} is {pointer!r}; it is to be like /messages/0/id")
            try:
                re.compile(self.success)
            except re.error as error:
                raise ValueError(f"success is no regular expression: {error}") from None
            if self.success_at and not self.success:
                raise ValueError("success is missing: the expression that what success_at points to must match")
            if self.segments_max not in SEGMENTS_MAX:
                raise ValueError(f"segments_max is {self.segments_max}; it must be between 1 and {SEGMENTS_MAX[-1]}")

    def __init__(self, settings: Settings, context: Context) -> None:
        from shards.channels.http import HttpClient, quoted, refused

        self._settings = settings
        self._answers = context.answers
        self._refused, self._quoted = refused, quoted
        self._secrets = {name: secret.reveal() for name, secret in settings.secrets.items()}
        self._headers = {name: value.reveal() for name, value in settings.headers.items()}
        if settings.encoding != "none" and "content-type" not in {name.lower() for name in self._headers}:
            self._headers["Content-Type"] = TYPES[settings.encoding]
        password = settings.password.reveal() if settings.password else ""
        if password:
            credentials = base64.b64encode(f"{settings.username}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"
        self._http = HttpClient(SERVICE, context, ca_file=settings.ca_file)

    def supports_recipient(self, recipient: Recipient) -> bool:
        return bool(recipient.contacts.phone)

    async def send(self, delivery: Delivery) -> Sent:
        settings = self._settings
        to = delivery.recipient.contacts.phone or ""
        values = self._secrets | {
            "to": to,
            "number": to.removeprefix("+"),
            "text": said(delivery, settings.segments_max, settings.too_long),
            "from": settings.sender,
            "id": delivery.id,
        }
        url = _fill(settings.url, {name: quote(value, safe="") for name, value in values.items()})
        headers = {name: _fill(value, values) for name, value in self._headers.items()}
        body = b""
        if settings.encoding == "json":
            body = msgspec.json.encode(_filled(settings.body, values))
        elif settings.encoding == "form":
            body = urlencode(_filled(settings.body, values)).encode()
        return self._judge(await self._http.request(settings.method, url, body, headers))

    def _judge(self, answer: Answer) -> Sent:
        settings, document = self._settings, _decoded(answer.text)
        code, words = _at(document, settings.code_at), _at(document, settings.message_at)
        found = _at(document, settings.success_at) if settings.success_at else answer.text
        if answer.ok and re.search(settings.success, found or ""):
            return Sent(self._quoted(_at(document, settings.id_at) or ""))
        detail = code or ("unreadable" if answer.ok and found is None else "")
        words = " ".join(part for part in (code, words) if part) or answer.text
        raise self._refused(self._answers, SERVICE, answer, detail, words)

    async def close(self) -> None:
        await self._http.close()


def _fill(template: str, values: Mapping[str, str]) -> str:
    """In one pass: what is filled in is not looked at again."""
    return PLACEHOLDER.sub(lambda found: values[found[1]], template)


def _filled(template: Any, values: Mapping[str, str]) -> Any:
    if isinstance(template, dict):
        return {key: _filled(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    return _fill(template, values) if isinstance(template, str) else template


def _texts(template: Any) -> list[str]:
    if isinstance(template, str):
        return [template]
    inside = template.values() if isinstance(template, dict) else template if isinstance(template, list) else ()
    return [text for value in inside for text in _texts(value)]


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _at(document: Any, pointer: str) -> str | None:
    """What a JSON pointer points to, as text; None if there is nothing, or no pointer."""
    if not pointer:
        return None
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(part)
        elif isinstance(document, list) and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        else:
            return None
    if document is None:
        return None
    return document if isinstance(document, str) else msgspec.json.encode(document).decode()
