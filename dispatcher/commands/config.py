"""``config``: whether the configuration is right, and what it is in effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from dispatcher.commands.options import config_option, json_option, loaded_with_sources, refuse_settings
from dispatcher.commands.service import Service, asks
from dispatcher.terminal import json_text, plain

SECRET = re.compile(r"(^|_)(password|secret|token)$")  # a key so named; the path of a file with one is none


@click.group()
def config() -> None:
    """The configuration: defaults, file, environment."""


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
def check(file: Path | None) -> None:
    """Check FILE with the environment over it: exit 0, or 2 with a line per problem.

    Without FILE the environment alone is checked.
    """
    from dispatcher import templates
    from dispatcher.channel_options import without_table, without_unsubscribe
    from dispatcher.settings import SettingsError

    settings, source = loaded_with_sources(file)
    try:
        templates.load(settings, Path(settings.dispatcher.data_dir), source)
    except SettingsError as error:
        refuse_settings(error)
    for name, key in without_unsubscribe(settings.channels, settings.categories):
        told = f"categories.{name} is unsubscribable, but its e-mails do not say how; set {key}"
        click.echo(f"warning: {plain(told)}", err=True)
    for key, channel in without_table(settings.channels, settings.categories, settings.rules):
        told = (
            f"{key} names {channel}, and what is for it will be dead letters; add [channels.{channel}], or take it out"
        )
        click.echo(f"warning: {plain(told)}", err=True)
    channels = ", ".join(["inapp", *settings.channels])
    shards = settings.dispatcher.shards or "as the data directory has"
    click.echo(
        f"{plain(str(file or 'the environment'))}: ok: shards {shards}, durability {settings.dispatcher.durability}, "
        f"submit {settings.dispatcher.submit}, channels {plain(channels)}"
    )


@config.command()
@config_option
@json_option
def show(config: Path | None, as_json: bool) -> None:
    """Print the effective configuration as TOML, each value with its source.

    What it prints is a configuration itself, but for secrets, which are `***`.
    """
    from dispatcher.settings import to_document

    settings, source = loaded_with_sources(config)
    document = _without_secrets(to_document(settings))
    if as_json:
        sources = {".".join(keys): source(keys) for keys, _ in _leaves(document)}
        click.echo(json_text({"settings": document, "sources": sources}))
    else:
        click.echo("\n".join(_toml(document, source)).strip())


@config.command("reload")
@asks
def reload_(service: Service) -> None:
    """Have a running dispatcher read its configuration again, and go by it.

    It reads the file that it was started with. A wrong one, or a change that takes a restart, changes nothing.
    """
    service.show(service.ask("config.reload"), lambda answer: f"version {answer['version']}")


def _without_secrets(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _without_secrets(inner, key) for key, inner in value.items()}
    return "***" if SECRET.search(name) and value else value


def _leaves(document: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        elif _is_array_of_tables(value):
            for at, table in enumerate(value):
                yield from _leaves(table, (*above, key, str(at)))
        else:
            yield (*above, key), value


def _is_array_of_tables(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Mapping)


def _toml(
    table: Mapping[str, Any], source: Callable[[Sequence[str]], str], above: tuple[str, ...] = (), header: str = ""
) -> Iterator[str]:
    """Lines; a comment after each value says where it comes from. TOML has no null: what is not set is a comment."""
    import tomli_w

    leaves = {
        key: value for key, value in table.items() if not isinstance(value, Mapping) and not _is_array_of_tables(value)
    }
    if leaves and above:
        yield header or f"\n[{'.'.join(map(_key, above))}]"
    for key, value in leaves.items():
        origin = plain(source((*above, key)))
        yield f"# {_key(key)} is not set" if value is None else f"{tomli_w.dumps({key: value}).rstrip()}  # {origin}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _toml(value, source, (*above, key))
        elif _is_array_of_tables(value):
            for at, one in enumerate(value):
                yield from _toml(one, source, (*above, key, str(at)), f"\n[[{'.'.join(map(_key, (*above, key)))}]]")


def _key(name: str) -> str:
    """As TOML writes it: quoted where it must be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json_text(name)
