"""What the commands share: how they fail, and the options that several of them take."""

from __future__ import annotations

import io
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dispatcher.terminal import plain

if TYPE_CHECKING:
    from dispatcher.reload import Source
    from dispatcher.settings import Settings
    from shards.units import Seconds

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # as shells have it: 128 + SIGINT

config_option = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="A TOML file; see config/dispatcher.toml."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


def fail(message: str, code: int = FAILED) -> NoReturn:
    """End with a line on standard error that says what was wrong, where, and what to do."""
    click.echo(f"error: {plain(message)}", err=True)
    sys.exit(code)


def loaded_settings(config: Path | None, only: Collection[str] | None = None, **given: Mapping[str, Any]) -> Settings:
    """The configuration, of ``only`` these tables, with these keys of the command line in it; None is not given.

    Ends the program where it is wrong.
    """
    from dispatcher.settings import SettingsError, environment, load

    tables = {name: {key: value for key, value in table.items() if value is not None} for name, table in given.items()}
    try:
        return load(config, environment(), {name: table for name, table in tables.items() if table}, only)
    except SettingsError as error:
        refuse_settings(error)


def loaded_with_sources(config: Path | None, only: Collection[str] | None = None) -> tuple[Settings, Source]:
    """The configuration, of ``only`` these tables, and what tells where a key comes from.

    Ends the program where it is wrong.
    """
    from dispatcher.settings import SettingsError, environment, load_with_sources

    try:
        return load_with_sources(config, environment(), {}, only)
    except SettingsError as error:
        refuse_settings(error)


def refuse_settings(error: Exception) -> NoReturn:
    """Every problem of a configuration on a line of its own."""
    for problem in str(error).splitlines():
        click.echo(f"error: {plain(problem)}", err=True)
    sys.exit(WRONG_USAGE)


def duration(_context: click.Context, _parameter: click.Parameter, value: str) -> Seconds:
    """A callback for options such as ``--timeout 10s``."""
    from shards.units import Seconds

    try:
        return Seconds.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _payload(_context: click.Context, _parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    import orjson

    if not value:
        return None
    try:
        with click.open_file(value[1:], "rb") if value.startswith("@") else io.BytesIO(value.encode()) as file:
            document = orjson.loads(file.read())
    except OSError as error:
        fail(f"--payload: {value[1:]} cannot be read: {error.strerror}", WRONG_USAGE)
    except orjson.JSONDecodeError as error:
        fail(f"--payload is not JSON: {error}", WRONG_USAGE)
    if not isinstance(document, dict):
        fail('--payload: it is an object such as {"order": 17}', WRONG_USAGE)
    return document


payload_option = click.option(
    "--payload", callback=_payload, help="A JSON object, or @FILE with one; @- is standard input."
)
