"""The templates of an installation; see ``template_parts`` for what one is, ``rendering`` for how it is rendered.

>>> engine = TemplateEngine({
...     "order-shipped": {
...         "title": "Order {{ order }} has been shipped",
...         "text": "Hello {{ name }}, it comes {{ day }}.",
...         "fr/title": "Commande {{ order }} expédiée",
...         "email.html": '{% extends "layouts/mail.html" %}{% block main %}Hello <b>{{ name }}</b>{% endblock %}',
...     },
...     "layouts": {"mail.html": "<body>{% block main %}{% endblock %}</body>"},
... })
>>> order = {"order": 17, "name": "Ada & Co", "day": "today"}
>>> engine.render("order-shipped", "sms", None, order)
{'text': 'Hello Ada & Co, it comes today.'}
>>> engine.render("order-shipped", "push", "fr-CA", order)["title"]
'Commande 17 expédiée'
>>> engine.render("order-shipped", "email", None, order)["html"]
'<body>Hello <b>Ada &amp; Co</b></body>'

What goes wrong says where:

>>> engine.render("order-shipped", "sms", None, {"name": "Ada"})
Traceback (most recent call last):
shards.template_parts.TemplateError: template 'order-shipped', text, line 1: 'day' is undefined
>>> for problem in TemplateEngine({"welcome": {"text": "Hello", "title": "Dear {{ name"}}).problems():
...     print(problem)
template 'welcome', title, line 1: unexpected end of template, expected 'end of print statement'.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from shards.settings import TemplateSettings
from shards.template_parts import LAYOUTS, Parts, TemplateError, UnknownTemplateError, check_key, check_name
from shards.wire.notification import Notification

if TYPE_CHECKING:
    from shards.rendering import Renderer

__all__ = ["TemplateEngine", "TemplateError", "UnknownTemplateError", "variables_of"]

OUTPUT_BYTES = TemplateSettings().output_bytes
ON_ONE_LINE = frozenset({"subject", "title"})
WITHOUT_TEXT = frozenset({"webhook"})  # it sends the payload


def variables_of(said: Notification, user_id: str, priority: str, locale: str | None) -> dict[str, Any]:
    """What a template can write: the payload's keys, over them those of the notification, and ``payload`` itself."""
    payload = said.payload or {}
    return {
        **payload,
        "payload": payload,
        "user_id": user_id,
        "category": said.category,
        "type": said.type,
        "priority": priority,
        "title": said.title,
        "body": said.body,
        "locale": locale,
        "metadata": said.metadata or {},
    }


def _has_words(said: Notification) -> bool:
    return bool(said.title or said.body or (said.payload or {}).get("message"))


class TemplateEngine:
    """The templates of an installation, compiled when they are first used. Any thread may use it.

    ``templates`` has the parts of each by its name; that named ``layouts`` has what parts extend and include. A part
    that renders to more than ``output_bytes`` is an error. What is wrong with them is what ``problems`` says: nothing
    is checked here.
    """

    def __init__(
        self, templates: Mapping[str, Mapping[str, str]] | None = None, output_bytes: int = OUTPUT_BYTES
    ) -> None:
        self._output_bytes = output_bytes
        self._sources = templates or {}
        self._templates = {name: Parts(parts) for name, parts in self._sources.items() if name != LAYOUTS}

    def is_of(self, templates: Mapping[str, Mapping[str, str]], output_bytes: int) -> bool:
        """Whether one made of these would render the same."""
        return self._sources == templates and self._output_bytes == output_bytes

    def __contains__(self, name: object) -> bool:
        return name in self._templates

    @property
    def names(self) -> Collection[str]:
        return self._templates.keys()

    def render(self, name: str, channel: str, locale: str | None, variables: Mapping[str, Any]) -> dict[str, str]:
        """The channel's parts, by their names without the channel; none of those that the template does not have.

        ``locale`` is the reader's language, such as ``fr-CA``; the nearest that there is will do.

        Raises ``TemplateError``: there is none of this name, or it cannot be rendered with these variables.
        """
        keys = self.keys(name, channel, locale)
        parts = {}
        visible = self._renderer.visible(variables)
        for part, key in keys.items():
            text = self._renderer.render(name, key, visible, self._output_bytes)
            parts[part] = " ".join(map(str.strip, text.splitlines())).strip() if part in ON_ONE_LINE else text
        return parts

    def say(
        self,
        said: Notification,
        channel: str,
        user_id: str,
        priority: str,
        locale: str | None,
        more: Mapping[str, Any] = MappingProxyType({}),
    ) -> Mapping[str, str]:
        """The parts that a notification gets from its template; none where the installation has no templates.

        ``more`` is what the channel lets it write.

        Raises ``TemplateError``, also where nothing would be said at all.
        """
        name = said.template
        if name is None or not self._templates:
            return {}
        parts = self.render(name, channel, locale, {**variables_of(said, user_id, priority, locale), **more})
        if not parts and channel not in WITHOUT_TEXT and not _has_words(said):
            raise TemplateError(name, None, None, f"it has no part for {channel}; add {channel}.text, or text for all")
        return parts

    def channels(self, name: str) -> list[str]:
        """Those that the template says something on: the built-in ones, and others that its parts name."""
        return self._parts(name).channels()

    def keys(self, name: str, channel: str, locale: str | None) -> Mapping[str, str]:
        """The parts that are taken, each with its key: ``{"subject": "fr/email.subject"}``."""
        return self._parts(name).plan(channel, locale)

    def _parts(self, name: str) -> Parts:
        template = self._templates.get(name)
        if template is None:
            raise UnknownTemplateError(name, self._templates)
        return template

    def problems(self, only: str | None = None) -> list[TemplateError]:
        """What is wrong with the templates, or with one of them, as far as it is known before they are rendered."""
        found = []
        for name, parts in self._sources.items() if only is None else [(only, self._sources[only])]:
            try:
                check_name(name, parts)
            except TemplateError as error:
                found.append(error)
                continue
            for key, source in parts.items():
                try:
                    check_key(name, key, source)
                    self._renderer.check(name, key)
                except TemplateError as error:
                    found.append(error)
        return found

    @functools.cached_property
    def _renderer(self) -> Renderer:
        from shards.rendering import Renderer

        return Renderer(self._sources)
