"""Templates: what a notification says on each channel, in each language, rendered with Jinja2.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import jinja2
import msgspec
from jinja2 import meta, nodes

from shards.nearest import unknown
from shards.template_sandbox import Meter, Sandbox

LAYOUTS = "layouts"
OUTPUT_BYTES = 256 * 2**10
SOURCE_BYTES_MAX = 256 * 2**10  # of one part
NAME_MAX = 100
PLANS_MAX = 1_000  # of a template: channels and locales are whatever users have
REASON_MAX = 300
LOCALE_WORDS_MAX = 5

# What a channel is given if the template has it; of another channel, all that the defaults have.
PARTS: Mapping[str, tuple[str, ...]] = {
    "email": ("subject", "text", "html"),
    "sms": ("text",),
    "push": ("title", "body"),
    "inapp": ("title", "body"),
    "webhook": ("body",),
    "system": ("title", "body"),
}
OTHER_PARTS = ("title", "text", "html")
DEFAULTS = {"subject": "title", "title": "title", "body": "text", "text": "text", "html": "html"}
ON_ONE_LINE = frozenset({"subject", "title"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEY = re.compile(
    r"(?:(?P<locale>[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)/)?"
    r"(?:(?P<channel>[A-Za-z][A-Za-z0-9_-]*)\.)?(?P<part>[a-z][a-z0-9_]*)"
)


class TemplateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``directory``: of the templates' folders. ``output_bytes``: of one part, rendered."""

    directory: str = ""
    output_bytes: int = OUTPUT_BYTES
    allow_template_put: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.output_bytes <= 2**24:
            raise ValueError(f"output_bytes is {self.output_bytes}; it must be between 1 and {2**24}")


class TemplateError(Exception):
    """A template is wrong, or cannot be rendered with what it is given. The message says all of it."""

    def __init__(self, template: str, part: str, line: int | None, reason: str) -> None:
        self.template = template
        self.part = part
        self.line = line
        self.reason = " ".join(reason.split())[:REASON_MAX]
        place = f", {part}" * bool(part) + f", line {line}" * (line is not None)
        super().__init__(f"template {template!r}{place}: {self.reason}")


class UnknownTemplateError(KeyError):
    """There is no template of this name; the message names the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


class TemplateEngine:
    """The templates of an installation, compiled when they are first used."""

    def __init__(
        self, templates: Mapping[str, Mapping[str, str]] | None = None, output_bytes: int = OUTPUT_BYTES
    ) -> None:
        self._output_bytes = output_bytes
        self._sources = templates or {}
        self._templates = {name: _Template(parts) for name, parts in self._sources.items() if name != LAYOUTS}
        self._environment = _Environment(self._sources)

    def __contains__(self, name: object) -> bool:
        return name in self._templates

    def names(self) -> list[str]:
        return sorted(self._templates)

    def render(self, name: str, channel: str, locale: str | None, variables: Mapping[str, Any]) -> dict[str, str]:
        """The channel's parts, by their names without the channel; none of those that the template does not have.

        Raises ``UnknownTemplateError``, and ``TemplateError`` where the template has not what it takes.
        """
        parts = {}
        for part, key in self.keys(name, channel, locale).items():
            text = self._rendered(name, key, variables)
            parts[part] = " ".join(map(str.strip, text.splitlines())).strip() if part in ON_ONE_LINE else text
        return parts

    def keys(self, name: str, channel: str, locale: str | None) -> Mapping[str, str]:
        """The parts that are taken, each with its key: ``{"subject": "fr/email.subject"}``."""
        template = self._templates.get(name)
        if template is None:
            raise UnknownTemplateError(unknown("template", name, self._templates))
        return template.plan(channel, locale)

    def problems(self) -> list[TemplateError]:
        """What is wrong with the templates, as far as it can be known before they are rendered."""
        found = []
        for name, parts in self._sources.items():
            try:
                self._check_name(name, parts)
            except TemplateError as error:
                found.append(error)
                continue
            for key, source in parts.items():
                try:
                    self._check_part(name, key, source)
                except TemplateError as error:
                    found.append(error)
        return found

    @staticmethod
    def _check_name(name: str, parts: Mapping[str, str]) -> None:
        if not _NAME.fullmatch(name) or len(name) > NAME_MAX:
            raise TemplateError(name, "", None, f"a name has 1 to {NAME_MAX} letters, digits, '.', '_' and '-'")
        if not parts:
            raise TemplateError(name, "", None, "it has no parts")

    def _check_part(self, name: str, key: str, source: str) -> None:
        """Compile it as it will be, without keeping anything of it."""
        if problem := _key_problem(name, key, source):
            raise TemplateError(name, key, None, problem)
        environment, full = self._environment, f"{name}/{key}"
        try:
            with Meter():
                tree = environment.parse(source, full)
                for used in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
                    for layout in filter(None, meta.find_referenced_templates(nodes.Template([used]))):
                        if problem := environment.layout_problem(layout, full):
                            raise jinja2.TemplateSyntaxError(problem, used.lineno, full)
                environment.compile(tree, full)
        except Exception as error:
            raise self._told(name, key, error) from error

    # --- one part ----------------------------------------------------------------------------------------------

    def _rendered(self, name: str, key: str, variables: Mapping[str, Any]) -> str:
        pieces: list[str] = []
        left = self._output_bytes
        try:
            with Meter():
                template = self._environment.get_template(f"{name}/{key}")
                context = template.new_context({**template.globals, **variables}, shared=True)
                for piece in template.root_render_func(context):
                    left -= len(piece) if piece.isascii() else len(piece.encode())
                    if left < 0:
                        raise jinja2.TemplateRuntimeError(f"it has more than {self._output_bytes} bytes")
                    pieces.append(piece)
        except Exception as error:
            raise self._told(name, key, error) from error
        return "".join(pieces)

    def _told(self, name: str, key: str, error: BaseException) -> TemplateError:
        """What went wrong, in words for who wrote the template; in a layout, that is where the line is."""
        place, line = f"{name}/{key}", None
        if isinstance(error, jinja2.TemplateSyntaxError):
            place, line = error.name or place, error.lineno
        else:
            for found, at in _lines(error.__traceback__):
                place, line = found, at
        reason = str(error) or type(error).__name__
        if isinstance(error, RecursionError):
            reason = "it goes round in a circle, or is nested too deeply"
        elif not isinstance(error, jinja2.TemplateError):
            reason = f"{type(error).__name__}: {reason}"
        part = key if place == f"{name}/{key}" else f"{key} ({place})"
        return TemplateError(name, part, line, reason)


def _lines(trace: TracebackType | None) -> Iterator[tuple[str, int]]:
    """Where templates were, from the outermost to the innermost."""
    while trace is not None:
        template = trace.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            yield template.name, template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next


class _Environment(Sandbox):
    """All parts of all templates, under their full names such as ``order-shipped/fr/email.html``."""

    def __init__(self, sources: Mapping[str, Mapping[str, str]]) -> None:
        self._sources = sources
        super().__init__(
            loader=jinja2.FunctionLoader(self._source),
            autoescape=_is_html,
            auto_reload=False,
            cache_size=-1,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def _source(self, name: str) -> str | None:
        template, _, key = name.partition("/")
        return self._sources.get(template, {}).get(key)

    def join_path(self, template: str, parent: str) -> str:
        if problem := self.layout_problem(template, parent):
            raise jinja2.TemplateRuntimeError(problem)
        return template

    def layout_problem(self, layout: str, part: str) -> str:
        """Why the part cannot use it: there is none, or it is escaped otherwise than the part."""
        folder, _, file = layout.partition("/")
        layouts = self._sources.get(LAYOUTS, {})
        if folder != LAYOUTS or file not in layouts:
            return unknown("layout", layout, [f"{LAYOUTS}/{one}" for one in layouts])
        if _is_html(layout) != _is_html(part):
            return f"{layout} is {'no' if _is_html(part) else 'in'} HTML, other than {part}; use a layout of its kind"
        return ""


class _Template:
    """One template's keys, and which of them a channel and a locale take."""

    def __init__(self, parts: Iterable[str]) -> None:
        self._keys: dict[tuple[str, str, str], str] = {}
        self._channels: dict[str, list[str]] = {}  # the parts that are of one channel only
        for key in parts:
            match = _KEY.fullmatch(key)
            if match is not None:
                locale, channel, part = (match["locale"] or "").lower(), match["channel"] or "", match["part"]
                self._keys[locale, channel, part] = key
                self._channels.setdefault(channel, []).append(part)
        self._plans: dict[tuple[str, str | None], dict[str, str]] = {}

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


def locale_chain(locale: str | None) -> list[str]:
    """The locales whose parts will do, the best first: ``fr-CA`` gives ``fr-ca``, ``fr``, and the default ``""``."""
    words = (locale or "").replace("_", "-").lower().split("-")[:LOCALE_WORDS_MAX]
    return ["-".join(words[:count]) for count in range(len(words), 0, -1) if words[0]] + [""]


def _is_html(name: str | None) -> bool:
    return name is not None and name.endswith("html")


def _key_problem(name: str, key: str, source: str) -> str:
    size = len(source.encode(errors="surrogatepass"))
    if size > SOURCE_BYTES_MAX:
        return f"it has {size} bytes; at most {SOURCE_BYTES_MAX}"
    if name == LAYOUTS:
        return "" if _FILE.fullmatch(key) else "a layout's name is like mail.html"
    match = _KEY.fullmatch(key)
    if match is None:
        return "a part's name is like email.subject, fr/email.subject, text or fr/text"
    if not match["channel"] and match["part"] not in OTHER_PARTS:
        instead = DEFAULTS.get(match["part"])
        remedy = f"call it {instead}, or name its channel" if instead else "name its channel"
        return f"of every channel there are {', '.join(OTHER_PARTS)}; {remedy}, as in email.{match['part']}"
    return ""
