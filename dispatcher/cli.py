"""The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

import logging
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
import msgspec
import orjson
import zmq

from dispatcher import __version__
from dispatcher.check import check
from dispatcher.client import Client, ClientError
from dispatcher.settings import Settings, SettingsError, environment, load
from shards.process import LOG_FORMAT
from shards.units import Seconds
from shards.wire import PRIORITIES

WRONG_USAGE = 2


class DefaultGroup(click.Group):
    """Options without a command are those of ``serve``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version"):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def _settings(config: Path | None, **dispatcher: Any) -> Settings:
    given = {key: value for key, value in dispatcher.items() if value is not None}
    try:
        return load(config, environment(), {"dispatcher": given} if given else {})
    except SettingsError as error:
        _fail(str(error), WRONG_USAGE)


def _duration(_context: click.Context, _parameter: click.Parameter, value: str) -> Seconds:
    try:
        return Seconds.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_config_option = click.option(
    "--config", type=click.Path(path_type=Path, dir_okay=False), help="A TOML file; see config/dispatcher.toml."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


def _asks(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what asks a running dispatcher."""
    for option in (
        _json_option,
        _config_option,
        click.option("--timeout", metavar="DURATION", callback=_duration, default="10s", help="Wait so long."),
        click.option("--submit", help="The submit endpoint of a running dispatcher.  [default: as configured]"),
    ):
        command = option(command)
    return command


@click.group(cls=DefaultGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="dispatcher")
def main() -> None:
    """A durable, sharded notification dispatcher.

    Without a command, `python -m dispatcher --shards 8` is `python -m dispatcher serve --shards 8`.
    """


@main.command()
@click.option("--shards", type=click.IntRange(1, 256), help="Worker processes.  [default: the data directory's, or 4]")
@_config_option
@click.option("--data-dir", help="Where the state is kept.  [default: .dispatcher]")
@click.option(
    "--durability", type=click.Choice(["power", "process"]), help="What a receipt survives.  [default: power]"
)
def serve(shards: int | None, config: Path | None, data_dir: str | None, durability: str | None) -> None:
    """Run the service until SIGTERM or Ctrl-C; then drain, and exit 0."""
    from dispatcher.supervisor import BrokenError, StartError, Supervisor

    settings = _settings(config, shards=shards, data_dir=data_dir, durability=durability)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)

    def announce() -> None:
        service = settings.dispatcher
        click.echo(f"ready: ingest {service.ingest}  submit {service.submit}  stream {service.stream}")

    supervisor = Supervisor(settings, announce)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        supervisor.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        supervisor.run()
    except BrokenError as error:
        _fail(str(error), 1)
    except StartError as error:
        _fail(str(error), WRONG_USAGE)


@main.command()
@click.argument("target")
@click.option("--data-dir", help="What to copy.  [default: as configured]")
@_config_option
@click.option("--submit", help="The submit endpoint of its dispatcher, if that runs.  [default: as configured]")
@click.option("--timeout", metavar="DURATION", callback=_duration, default="60s", help="Wait so long for an answer.")
def backup(target: str, data_dir: str | None, config: Path | None, submit: str | None, timeout: Seconds) -> None:
    """Copy a data directory to TARGET, a new directory; its dispatcher may be running."""
    from dispatcher.backup import run

    settings = _settings(config, data_dir=data_dir, submit=submit).dispatcher
    run(settings.data_dir, target, settings.submit, timeout)


main.add_command(check)


@main.command()
@click.option("--events", type=click.IntRange(1), default=1_000_000, help="Notifications to submit.")
@click.option("--users", type=click.IntRange(1), default=10_000, help="Users to address, with seeded preferences.")
@click.option("--producers", type=click.IntRange(1), default=100, help="Logical producers, in at most 2 processes.")
@click.option("--shards", type=click.IntRange(1, 256), default=4, help="Worker processes.")
@click.option("--failure-rate", type=click.FloatRange(0, 1), default=0.1, help="Of simulated attempts.")
@click.option("--duplicate-rate", type=click.FloatRange(0, 1), default=0.01, help="Of events that repeat a key.")
@click.option(
    "--retry-base", metavar="DURATION", callback=_duration, default="50ms", help="The first retry's longest wait."
)
@click.option("--max-retries", type=click.IntRange(0, 250), default=3, help="Attempts after the first.")
@click.option("--durability", type=click.Choice(["power", "process"]), default="power", help="What a receipt survives.")
@click.option("--seed", type=int, default=1, help="Equal seeds give equal outcomes.")
@_json_option
def simulate(as_json: bool, **options: Any) -> None:
    """Put seeded events through a service of its own, and account for every delivery."""
    from dispatcher import report
    from dispatcher.simulate import Plan, SimulationError
    from dispatcher.simulate import simulate as run

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no end without stopping the service
    progress = report.Progress()
    try:
        summary = run(Plan(**options), progress.show)
    except (SimulationError, ClientError) as error:
        progress.end()
        _fail(str(error), 1)
    progress.end()
    if as_json:
        click.echo(orjson.dumps(summary))
    else:
        click.echo(report.simulation(summary))
    sys.exit(0 if summary["conserved"] and not summary["pending"] else 1)


@main.command()
@click.argument("user_id")
@click.option("--title")
@click.option("--body")
@click.option("--category", help="Decides the channels and the priority.  [default: system]")
@click.option("--priority", type=click.Choice(PRIORITIES))
@click.option("--channel", "channels", multiple=True, help="Instead of the category's channels; repeatable.")
@click.option("--payload", help="A JSON object.")
@click.option("--key", help="The idempotency key.  [default: a random one]")
@_asks
def send(
    user_id: str,
    title: str | None,
    body: str | None,
    category: str | None,
    priority: str | None,
    channels: tuple[str, ...],
    payload: str | None,
    key: str | None,
    as_json: bool,
    **where: Any,
) -> None:
    """Send one notification to USER_ID and print its id."""
    try:
        data = orjson.loads(payload) if payload else None
    except orjson.JSONDecodeError as error:
        _fail(f"--payload is not JSON: {error}", WRONG_USAGE)
    notification = {
        "user_id": user_id,
        "title": title,
        "body": body,
        "category": category,
        "priority": priority,
        "channels": list(channels) or None,
        "payload": data,
        "idempotency_key": key or str(uuid.uuid4()),
    }
    given = {name: value for name, value in notification.items() if value is not None}
    answer = _request(where, "submit", notifications=[given])
    if answer["rejected"]:
        refusal = answer["rejected"][0]["error"]
        field = f" ({refusal['field']})" if refusal.get("field") else ""
        _fail(f"{refusal['code']}{field}: {refusal['message']}", 1)
    if as_json:
        click.echo(orjson.dumps(answer))
    else:
        click.echo(answer["ids"][0] + ("  (a duplicate: this is the first one's id)" if answer["duplicates"] else ""))


@main.command()
@click.argument("id")
@_asks
def status(id: str, as_json: bool, **where: Any) -> None:
    """Show what became of the notification ID."""
    from dispatcher import report

    answer = _request(where, "status", id=id)
    click.echo(orjson.dumps(answer) if as_json else report.status(answer))


@main.command()
@_asks
def stats(as_json: bool, **where: Any) -> None:
    """Show counters by channel and outcome, and the health of every process."""
    from dispatcher import report

    answer = _request(where, "stats")
    click.echo(orjson.dumps(answer) if as_json else report.stats(answer))


def _request(where: dict[str, Any], op: str, **fields: Any) -> dict[str, Any]:
    """The answer of the dispatcher that the options of ``_asks`` name."""
    endpoint = where["submit"] or _settings(where["config"]).dispatcher.submit
    try:
        with Client(endpoint, where["timeout"]) as client:
            return client.request(op, **fields)
    except zmq.ZMQError as error:
        _fail(
            f"--submit {endpoint!r}: {zmq.strerror(error.errno or 0)}; an endpoint is like tcp://127.0.0.1:7712",
            WRONG_USAGE,
        )
    except ClientError as error:
        _fail(str(error), 1)
    except msgspec.MsgspecError as error:
        _fail(f"{endpoint} does not answer as a dispatcher: {error}", 1)
