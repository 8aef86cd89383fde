"""``template``: the templates of the configuration, without a running dispatcher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dispatcher.commands.notifications import TYPES
from dispatcher.commands.options import (
    WRONG_USAGE,
    config_option,
    fail,
    json_option,
    loaded_with_sources,
    payload_option,
    refuse_settings,
)
from dispatcher.terminal import json_text, plain, table
from shards.wire.notification import PRIORITIES

if TYPE_CHECKING:
    from dispatcher.settings import Settings
    from dispatcher.templates import Library

TABLES = ("dispatcher", "templates")  # none with secrets: who writes templates need not have them


@click.group()
def template() -> None:
    """What notifications say, on each channel, in each language."""


@template.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:
    """List the templates: those of the directory, and those that clients have put."""
    from shards.template_parts import listed

    _, library = _loaded(config)
    items = [listed(name, parts, name in library.put) for name, parts in library.sources.items()]
    if as_json:
        click.echo(json_text({"items": items}))
    elif items:
        rows = [[one["name"], ", ".join(one["locales"]), ", ".join(one["parts"]), one["source"]] for one in items]
        click.echo(table(("name", "locales", "parts", "source"), rows, flexible=("parts",)))
    else:
        click.echo("there are no templates; see directory in [templates]", err=True)


@template.command()
@click.argument("what", metavar="[DIR|NAME]", required=False)
@config_option
def check(what: str | None, config: Path | None) -> None:
    """Check the templates of a directory, or one of them, or all: exit 0, or 2 with a line per problem."""
    import msgspec

    from dispatcher import templates
    from dispatcher.settings import SettingsError
    from shards.nearest import unknown
    from shards.settings import TemplateSettings

    settings, source = loaded_with_sources(config, TABLES)
    try:
        library, problems = templates.read(settings, Path(settings.dispatcher.data_dir), source)
        name = what if what in library.sources else None
        if what is not None and name is None:
            if not Path(what).is_dir():
                fail(f"no directory, and an {unknown('template', what, library.names)}", WRONG_USAGE)
            settings = msgspec.structs.replace(settings, templates=TemplateSettings(directory=what))
            library, problems = templates.read(settings, None, source)
        problems += templates.check(library, settings, name)
    except SettingsError as error:
        refuse_settings(error)
    if problems:
        refuse_settings(SettingsError("\n".join(problems)))
    parts = sum(len(one) for at, one in library.sources.items() if name in (None, at))
    click.echo(f"{plain(what or 'templates')}: ok: {parts} parts")


@template.command()
@click.argument("name")
@click.option("--channel", help="Such as email.  [default: each that it has parts for]")
@click.option("--locale", help="The reader's, such as fr-CA.")
@payload_option
@click.option("--title", help="What the notification says itself, as the options that follow.")
@click.option("--body")
@click.option("--user", "user_id", default="user-1")
@click.option("--category", default="system")
@click.option("--type", type=click.Choice(TYPES), default="info")
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write a file per part, for a browser.")
@config_option
@json_option
def preview(
    name: str,
    channel: str | None,
    locale: str | None,
    payload: dict[str, Any] | None,
    user_id: str,
    priority: str,
    out: Path | None,
    config: Path | None,
    as_json: bool,
    **said: Any,
) -> None:
    """Print what a template makes of a notification: each part, and the file that it is from."""
    from shards.templates import TemplateEngine, TemplateError, UnknownTemplateError, variables_of
    from shards.wire.notification import Notification

    settings, library = _loaded(config)
    engine = TemplateEngine(library.sources, settings.templates.output_bytes)
    variables = variables_of(Notification(payload=payload or {}, **said), user_id, priority, locale)
    rendered: list[dict[str, str]] = []
    problems: dict[str, None] = {}
    try:
        plans = {one: engine.keys(name, one, locale) for one in ([channel] if channel else engine.channels(name))}
    except UnknownTemplateError as error:
        fail(str(error), WRONG_USAGE)
    for one, keys in plans.items():
        try:
            for part, text in engine.render(name, one, locale, variables).items():
                rendered.append({"channel": one, "part": part, "key": keys[part], "text": text})
        except TemplateError as error:
            problems[str(error)] = None
    if not rendered and not problems:
        fail(f"template {name!r} has no part for {channel or 'any channel'}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for written in rendered:
            suffix = "" if written["part"].endswith("html") else ".txt"
            path = out / f"{name}.{written['channel']}.{written['part']}{suffix}"
            path.write_text(written["text"], encoding="utf-8")
            written["file"] = str(path)
    if as_json:
        click.echo(json_text({"template": name, "locale": locale, "parts": rendered}))
    elif rendered:
        click.echo("\n\n".join(map(_shown, rendered)))
    if problems:
        fail("; ".join(problems))


def _shown(one: dict[str, str]) -> str:
    if "file" in one:
        return plain(one["file"])
    lines = (plain(line) for line in one["text"].split("\n"))
    return "\n".join((f"--- {one['channel']}.{one['part']}, of {one['key']}", *lines))


def _loaded(config: Path | None) -> tuple[Settings, Library]:
    from dispatcher import templates
    from dispatcher.settings import SettingsError

    settings, source = loaded_with_sources(config, TABLES)
    try:
        return settings, templates.load(settings, Path(settings.dispatcher.data_dir), source)
    except SettingsError as error:
        refuse_settings(error)
