"""Chat services (Slack, Discord, Telegram, Teams, ...) by the URLs of Apprise.

A user's URLs are in ``contacts.chat``; who has none gets the configured ones of the category. Users must not make the
dispatcher call hosts of their choice, nor read its files: of theirs, only the schemes, hosts and parameters named here
are used. Those of the configuration are the operator's own, and may be any.

Apprise is synchronous, so each URL has a thread. It says only whether it failed; why, is read from its log.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from shards.answers import ErrorClass
from shards.channels.base import Context, Delivery, Recipient, SendError, Sent
from shards.channels.bounded_requests import end_by
from shards.hidden import Secret, disguised, redact
from shards.nearest import unknown

if importlib.util.find_spec("apprise") is None:
    raise ImportError('chat needs Apprise; run: pip install "notification-dispatcher[chat]"')

SCHEMES = (  # services whose host is not part of the URL, or is bound to theirs
    *("dingtalk", "discord", "feishu", "flock", "gchat", "guilded", "lark", "line", "opsgenie", "pagerduty", "pbul"),
    *("pover", "prowl", "slack", "tgram", "threema", "webex", "wecombot", "wxteams"),
    *("workflows://*.logic.azure.com", "workflows://*.api.powerplatform.com"),  # Microsoft Teams
    *("workflow://*.logic.azure.com", "workflow://*.api.powerplatform.com"),  # what Apprise makes of its https://
)
# Of a user's URL. Not among them: template, which reads any file or URL; rto, cto, retry, verify, redirect, optional.
PARAMETERS = {
    *("channel", "format", "footer", "image", "key", "mode", "overflow", "ping", "preview", "priority", "region"),
    *("silent", "sound", "thread", "to", "token", "topic"),
    *("api-version", "sig", "sp", "sv"),  # of a workflow of Microsoft Teams, as it is shown there
}
KINDS = {"info": "info", "success": "success", "warning": "warning", "error": "failure"}
HOST = re.compile(r"[a-z0-9.-]+", re.IGNORECASE)
# Of the log's lines; others have what was to be sent, which could say anything.
WHY = re.compile(r"WARNING|ERROR|CRITICAL|DEBUG: [\w ]{0,40}Exception")
WORDS = re.compile(r"DEBUG: Response Details")
STATUS = re.compile(r"\berror=(\d{3})\b")
COMPARE = "compare it with the service's page on appriseit.com/services"
REASON_MAX = 300
SECRET_LENGTH_MIN = 6  # shorter parts of a URL are words such as a host's "com"
SEVERITY: tuple[ErrorClass, ...] = (  # which of several failures the delivery has: what may have arrived goes first
    *("ambiguous", "throttled", "transient", "misconfigured", "permanent", "bad_address"),
)


class Outcome(NamedTuple):
    """Of one URL. ``error_class`` is None where the service took it."""

    service: str
    error_class: ErrorClass | None = None
    reason: str = ""


def _problem_of_scheme(scheme: str) -> str:
    from apprise.plugins import N_MGR

    return "" if scheme in N_MGR else unknown("scheme", scheme, N_MGR.schemas())  # type: ignore[no-untyped-call]


def _problem_of_url(url: str) -> str:
    """Without a word of it but its scheme: it holds secrets."""
    import apprise

    _quieten()
    scheme, is_there, _ = url.partition("://")
    if not is_there:
        return "it is no URL of Apprise, such as slack://A/B/C"
    if scheme not in ("http", "https") and (problem := _problem_of_scheme(scheme.lower())):
        return problem
    return "" if apprise.Apprise.instantiate(url) else f"Apprise does not accept this URL of {scheme}; {COMPARE}"


def _quieten() -> logging.Logger:
    """Apprise logs URLs, which are secrets: what is needed of its lines is taken in ``_notify``."""
    logger = logging.getLogger("apprise")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


class ChatChannel:
    name = "chat"
    endpoints_of_users = True

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        urls: tuple[Secret, ...] = ()  # for users without contacts.chat
        categories: dict[str, tuple[Secret, ...]] = {}  # the same of a category, instead of ``urls``
        schemes: tuple[str, ...] = SCHEMES  # what users' URLs may be: a scheme, or scheme://host with * in the host
        app_name: str = "Dispatcher"

        def __post_init__(self) -> None:
            lists = {"urls": self.urls} | {f"categories.{name}": urls for name, urls in self.categories.items()}
            for key, urls in lists.items():
                for at, url in enumerate(urls, 1):
                    if problem := _problem_of_url(url.reveal()):
                        raise ValueError(f"{key}: entry {at}: {problem}")
            for at, allowed in enumerate(self.schemes, 1):
                scheme, has_host, host = allowed.partition("://")
                if not scheme or bool(has_host) != bool(host):
                    raise ValueError(f"schemes: entry {at}: give a scheme such as slack, or mmosts://chat.example.org")
                if problem := _problem_of_scheme(scheme):
                    raise ValueError(f"schemes: entry {at}: {problem}")

    def __init__(self, settings: Settings, context: Context) -> None:
        import apprise

        _quieten().setLevel(logging.DEBUG)
        self._apprise = apprise
        self._settings = settings
        self._context = context
        self._threads = ThreadPoolExecutor(context.concurrency, thread_name_prefix="chat")
        self._asset = apprise.AppriseAsset(
            app_id=settings.app_name,
            app_desc=settings.app_name,
            app_url="",
            async_mode=False,
            http_redirects=False,
            service_timeout=0,
            storage_mode=apprise.PersistentStoreMode.MEMORY,
        )

    def supports_recipient(self, recipient: Recipient) -> bool:
        return bool(recipient.contacts.chat or self._settings.urls or self._settings.categories)

    async def send(self, delivery: Delivery) -> Sent:
        own = delivery.recipient.contacts.chat
        urls = own or [each.reveal() for each in self._configured(delivery.category)]
        notify = self._notify_own if own else self._notify
        sending = [self._threads.submit(notify, url, delivery) for url in urls]
        try:
            outcomes = await asyncio.gather(*map(asyncio.wrap_future, sending))
        except asyncio.CancelledError:
            if all(each.cancel() for each in sending):  # no one's turn has come
                raise SendError("transient", "no thread is free: all wait for the services of others") from None
            raise
        bad = tuple(url for url, outcome in zip(urls, outcomes, strict=True) if outcome.error_class == "bad_address")
        if taken := [outcome.service for outcome in outcomes if outcome.error_class is None]:
            return Sent(", ".join(taken), bad)
        worst = min(outcomes, key=lambda outcome: SEVERITY.index(outcome.error_class or "bad_address"))
        assert worst.error_class is not None
        text = "; ".join(dict.fromkeys(f"{outcome.service}: {outcome.reason}" for outcome in outcomes))
        raise SendError(worst.error_class, text[:REASON_MAX], bad=bad)

    def _configured(self, category: str) -> tuple[Secret, ...]:
        urls = self._settings.categories.get(category, self._settings.urls)
        if not urls:
            text = "the user has no contacts.chat, and the configuration no urls and no"
            raise SendError("permanent", f"{text} categories.{category}")
        return urls

    # --- in a thread -------------------------------------------------------------------------------------------

    def _notify_own(self, url: str, delivery: Delivery) -> Outcome:
        parsed: dict[str, Any] | None = self._apprise.plugins.url_to_dict(url)  # type: ignore[no-untyped-call]
        if parsed is None:
            return Outcome("chat", "bad_address", "contacts.chat has what is no URL of Apprise; correct it")
        scheme = parsed["schema"]
        if not self._is_allowed(scheme, parsed.get("host") or ""):
            reason = "this service, or its host, is not allowed in contacts.chat; add it to schemes if it is to be"
            return Outcome(scheme, "permanent", reason)
        if denied := sorted(parsed["qsd"].keys() - PARAMETERS):
            return Outcome(scheme, "permanent", f"the parameter {denied[0][:40]!r} is not allowed in contacts.chat")
        return self._notify(url, delivery, "contact")

    def _is_allowed(self, scheme: str, host: str) -> bool:
        for allowed in self._settings.schemes:
            name, has_host, pattern = allowed.partition("://")
            if name == scheme and (not has_host or (HOST.fullmatch(host) and fnmatchcase(host.lower(), pattern))):
                return True
        return False

    def _notify(self, url: str, delivery: Delivery, whose: str = "") -> Outcome:
        service = self._apprise.Apprise.instantiate(url, asset=self._asset)
        if service is None:  # it is a user's: the others were tried when the settings were read
            return Outcome(url.partition(":")[0], "bad_address", f"Apprise does not accept the URL; {COMPARE}")
        end_by(time.monotonic() + 0.8 * self._context.timeout_s)  # so that we say what was late
        service.retry = 0
        sender = self._apprise.Apprise(asset=self._asset)
        sender.add(service)
        result = sender.notify(
            title=delivery.title,
            body=delivery.text,
            notify_type=KINDS[delivery.type],
            body_format="text",
            log_level=logging.DEBUG,
        )
        said = [_masked(f"{entry.level}: {entry.message}", url) for entry in result.logs()]
        if self._context.trace:
            for line in said:
                self._context.trace(line)
        name = str(service.service_name)
        if any(attempt for one in result.results for attempt in one.attempts):
            return Outcome(name)
        why = [line.partition(": ")[2] for line in said if WHY.match(line)]
        words = [line.partition(": ")[2] for line in said if WORDS.match(line)]
        return Outcome(
            name, self._error_class(why, whose), "; ".join(why + words)[:REASON_MAX] or "it does not say why"
        )

    def _error_class(self, why: list[str], whose: str) -> ErrorClass:
        text = "; ".join(why)
        if found := STATUS.search(text):
            return self._context.answers.error_class("apprise", found[1], whose)
        if "Exception" not in text:
            return self._context.answers.error_class("apprise", "refused")
        if "SSLError" in text:
            return self._context.answers.error_class("apprise", "tls")
        # urllib3 says this of what ended before the request was sent
        end = "unreachable" if "Max retries exceeded" in text else "unanswered"
        return self._context.answers.error_class("apprise", end)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _masked(text: str, url: str) -> str:
    """Without what the URL is made of, as it stands there, decoded, and in base64; its scheme aside."""
    made_of = url.partition("://")[2]
    parts = re.split(r"[^\w.-]+", f"{made_of}/{unquote(made_of)}")
    text = redact(text, disguised(part for part in parts if len(part) >= SECRET_LENGTH_MIN))
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)
