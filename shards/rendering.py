"""Parts of templates, compiled and rendered, and what went wrong in words for who wrote them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import new_context

from shards.meter import Meter, TooMuchError
from shards.nearest import unknown
from shards.sandbox import Sandbox
from shards.template_parts import LAYOUTS, TemplateError


class Renderer:
    """All parts of all templates, under full names such as ``order-shipped/fr/email.html``."""

    def __init__(self, sources: Mapping[str, Mapping[str, str]]) -> None:
        self._sources = sources
        self._environment = _Environment(sources)

    def visible(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """All that a part finds by name."""
        return {**self._environment.globals, **variables}

    def render(self, name: str, key: str, visible: dict[str, Any], output_bytes: int) -> str:
        """Raises ``TemplateError``."""
        pieces: list[str] = []
        left = output_bytes
        try:
            with Meter():
                template = self._environment.get_template(f"{name}/{key}")
                # Template.new_context does the same, and copies all variables and the names of all globals
                context = new_context(self._environment, template.name, template.blocks, visible, shared=True)
                for piece in template.root_render_func(context):
                    left -= len(piece) if piece.isascii() else len(piece.encode())
                    if left < 0:
                        raise jinja2.TemplateRuntimeError(f"it has more than {output_bytes} bytes, rendered")
                    pieces.append(piece)
        except Exception as error:
            raise _told(name, key, error) from error
        return "".join(pieces)

    def check(self, name: str, key: str) -> None:
        """Compile it as it will be, without keeping anything of it. Raises ``TemplateError``."""
        environment, full = self._environment, f"{name}/{key}"
        try:
            with Meter():
                tree = environment.parse(self._sources[name][key], full)
                for used in tree.find_all((nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)):
                    for layout in meta.find_referenced_templates(nodes.Template([used])):
                        if layout is not None and (problem := environment.layout_problem(layout, full)):
                            raise jinja2.TemplateSyntaxError(problem, used.lineno, full)
                environment.compile(tree, full)
        except Exception as error:
            raise _told(name, key, error) from error


def _told(name: str, key: str, error: Exception) -> TemplateError:
    """Where it went wrong, which may be in a layout, and why."""
    place, line = f"{name}/{key}", None
    if isinstance(error, jinja2.TemplateSyntaxError):
        place, line = error.name or place, error.lineno
    else:
        for found, at in _lines(error.__traceback__):
            place, line = found, at
    reason = (error.message if isinstance(error, jinja2.TemplateError) else str(error)) or type(error).__name__
    if isinstance(error, RecursionError):
        reason = "it goes round in a circle, or is nested too deeply"
    elif not isinstance(error, jinja2.TemplateError | TooMuchError):
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
        self.globals["unsubscribe_url"] = None  # where the channel has none

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


def _is_html(name: str | None) -> bool:
    return name is not None and name.endswith("html")
