"""What a template is made of, and which of its parts a channel and a reader's language take.

A template is a map of parts. The key of a part says for which language and which channel it is:

    email.subject       the subject of e-mails
    fr/email.subject    the same in French; fr-CA/... is for French Canadians, and fr/... where there is none
    title, text, html   of every channel that has no part of its own: a subject is a title, a body is a text

Of one channel's part, the first is taken that there is, for a reader of ``fr-CA``: ``fr-CA/email.subject``,
``fr-CA/title``, ``fr/email.subject``, ``fr/title``, ``email.subject``, ``title``. The template named ``layouts`` has
files that parts extend, include and import: ``{% extends "layouts/mail.html" %}``.

Parts and layouts whose name ends in ``html`` are escaped, and use only layouts that are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shards.nearest import unknown

LAYOUTS = "layouts"
SOURCE_BYTES_MAX = 256 * 2**10  # of one part
NAME_MAX = 100
PLANS_MAX = 1_000  # of a template: channels and locales are whatever users have
REASON_MAX = 200
SHOWN = 80  # characters of a name
LOCALE_WORDS_MAX = 5

# What a channel is given if the template has it; of another channel, all that the defaults have.
PARTS: Mapping[str, tuple[str, ...]] = {
    "email": ("subject", "text", "html"),
    "sms": ("text",),
    "push": ("title", "body"),
    "inapp": ("title", "body"),
    "webhook": (),  # its body is JSON, unless the template has one for it
    "system": ("title", "body"),
}
OTHER_PARTS = ("title", "text", "html")
DEFAULTS = {"subject": "title", "title": "title", "body": "text", "text": "text", "html": "html"}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
KEY = re.compile(
    r"(?:(?P<locale>[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)/)?"
    r"(?:(?P<channel>[A-Za-z][A-Za-z0-9_-]*)\.)?(?P<part>[a-z][a-z0-9_]*)"
)


class TemplateError(Exception):
    """A template is wrong, or cannot be rendered with what it is given. The message says all of it.

    ``part`` is None where it is not about one of them.
    """

    def __init__(self, template: str, part: str | None, line: int | None, reason: str) -> None:
        self.template = template
        self.part = part
        self.line = line
        self.reason = " ".join(reason.split())[:REASON_MAX]
        place = ("" if part is None else f", {part[:SHOWN]}") + ("" if line is None else f", line {line}")
        super().__init__(f"template {template[:SHOWN]!r}{place}: {self.reason}")


class UnknownTemplateError(TemplateError):
    """There is no template of this name; the message names the nearest."""

    def __init__(self, template: str, known: Iterable[str]) -> None:
        super().__init__(template, None, None, unknown("template", template, known))

    def __str__(self) -> str:
        return self.reason


class Parts:
    """One template's keys, and which of them a channel and a locale take."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._keys: dict[tuple[str, str, str], str] = {}
        self._channels: dict[str, list[str]] = {}  # the parts that are of one channel only
        for key in parts:
            match = KEY.fullmatch(key)
            if match is not None:
                locale, channel, part = (match["locale"] or "").lower(), match["channel"] or "", match["part"]
                self._keys[locale, channel, part] = key
                self._channels.setdefault(channel, []).append(part)
        self._plans: dict[tuple[str, str | None], dict[str, str]] = {}

    def channels(self) -> list[str]:
        """Those that have a part in any language: the built-in ones, and others that parts name."""
        names = dict.fromkeys((*PARTS, *sorted(filter(None, self._channels))))
        common = self._channels.get("", ())
        return [
            name for name in names if name in self._channels or any(DEFAULTS[part] in common for part in PARTS[name])
        ]

    def plan(self, channel: str, locale: str | None) -> dict[str, str]:
        """Part -> key."""
        plan = self._plans.get((channel, locale))
        if plan is None:
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            chain = locale_chain(locale)
            names = dict.fromkeys((*PARTS.get(channel, OTHER_PARTS), *self._channels.get(channel, ())))
            found = {name: self._find(chain, channel, name) for name in names}
            plan = self._plans[channel, locale] = {name: key for name, key in found.items() if key is not None}
        return plan

    def _find(self, chain: Sequence[str], channel: str, name: str) -> str | None:
        for locale in chain:
            for place in ((locale, channel, name), (locale, "", DEFAULTS.get(name, ""))):
                if place in self._keys:
                    return self._keys[place]
        return None


def listed(name: str, parts: Iterable[str], put: bool) -> dict[str, Any]:
    """As ``template.list`` answers it."""
    keys = sorted(parts)
    locales = sorted({match["locale"] for key in keys if (match := KEY.fullmatch(key)) and match["locale"]})
    return {"name": name, "parts": keys, "locales": locales, "source": "put" if put else "directory"}


def locale_chain(locale: str | None) -> list[str]:
    """The locales whose parts will do, the best first: ``fr-CA`` gives ``fr-ca``, ``fr``, and the default ``""``."""
    words = (locale or "").replace("_", "-").lower().split("-")[:LOCALE_WORDS_MAX]
    return ["-".join(words[:count]) for count in range(len(words), 0, -1) if words[0]] + [""]


def check_name(name: str, parts: Mapping[str, str]) -> None:
    if not NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise TemplateError(name, None, None, f"a name has 1 to {NAME_MAX} letters, digits, '.', '_' and '-'")
    if not parts:
        raise TemplateError(name, None, None, "it has no parts")


def check_key(name: str, key: str, source: str) -> None:
    size = len(source.encode(errors="surrogatepass"))
    if size > SOURCE_BYTES_MAX:
        raise TemplateError(name, key, None, f"it has {size} bytes; at most {SOURCE_BYTES_MAX}")
    if name == LAYOUTS:
        if not NAME.fullmatch(key):
            raise TemplateError(name, key, None, "the name of a layout is like mail.html")
        return
    match = KEY.fullmatch(key)
    if match is None:
        language, _, part = key.rpartition("/")
        proposal = f"{language.replace('_', '-')}/{part}"  # de_AT, as systems have it
        hint = f"; did you mean {proposal}?" if proposal != key and KEY.fullmatch(proposal) else ""
        told = "the name of a part is like email.subject, fr/email.subject or fr/text"
        raise TemplateError(name, key, None, told + hint)
    if not match["channel"] and match["part"] not in OTHER_PARTS:
        default = DEFAULTS.get(match["part"])
        remedy = f"name its channel, as in push.{match['part']}" + (f", or call it {default}" if default else "")
        raise TemplateError(name, key, None, f"of every channel there are {', '.join(OTHER_PARTS)}; {remedy}")
