"""The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from dispatcher import __version__
from dispatcher.commands.backup import backup
from dispatcher.commands.channel import channel
from dispatcher.commands.check import check
from dispatcher.commands.completion import completion
from dispatcher.commands.config import config
from dispatcher.commands.dead import dead
from dispatcher.commands.inbox import inbox
from dispatcher.commands.keys import keys
from dispatcher.commands.notifications import cancel, explain, send, stats, status
from dispatcher.commands.options import (
    INTERRUPTED,
    WRONG_USAGE,
    config_option,
    duration,
    fail,
    json_option,
    refuse_settings,
)
from dispatcher.commands.template import template
from dispatcher.commands.top import top
from dispatcher.commands.topics import topic
from dispatcher.commands.users import user
from dispatcher.terminal import json_text

if TYPE_CHECKING:
    from dispatcher.reload import Source
    from dispatcher.settings import Settings


class DefaultGroup(click.Group):
    """Options without a command are those of ``serve``. No failure of the outside world ends in a traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version"):
            args = ["serve", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            click.echo(err=True)
            ctx.exit(INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader, such as `head`, has enough; click ends quietly
                raise
            fail(f"{error.filename or 'the output'}: {os.strerror(error.errno or errno.EIO)}")


@click.group(cls=DefaultGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="dispatcher")
def main() -> None:
    """A durable, sharded notification dispatcher.

    Without a command, `python -m dispatcher --shards 8` is `python -m dispatcher serve --shards 8`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a title may have characters that the locale has not
            stream.reconfigure(errors="backslashreplace")


@main.command()
@click.option("--shards", type=click.IntRange(1, 256), help="Worker processes.  [default: the data directory's, or 4]")
@config_option
@click.option("--data-dir", help="Where the state is kept.  [default: .dispatcher]")
@click.option(
    "--durability", type=click.Choice(["power", "process"]), help="What a receipt survives.  [default: power]"
)
@click.option("--parent", type=int, hidden=True, help="The process that it is not to outlive.")
def serve(
    shards: int | None, config: Path | None, data_dir: str | None, durability: str | None, parent: int | None
) -> None:
    """Run the service.

    It runs until SIGTERM or Ctrl-C; then it drains, and exits with 0. A second signal kills it at once.
    """
    from dispatcher.errors import BrokenError, StartError
    from dispatcher.settings import SettingsError, environment, load_with_sources
    from dispatcher.supervisor import Supervisor
    from shards import logs
    from shards.process import die_with

    if parent is not None:
        die_with(parent)
    given = {"shards": shards, "data_dir": data_dir, "durability": durability}
    command_line = {"dispatcher": {key: value for key, value in given.items() if value is not None}}

    def load() -> tuple[Settings, Source]:
        return load_with_sources(config, environment(), command_line)

    try:
        settings, source = load()
    except SettingsError as error:
        refuse_settings(error)
    logs.configure("supervisor", settings.log)

    def announce() -> None:
        service = settings.dispatcher
        click.echo(f"ready: ingest {service.ingest}  submit {service.submit}  stream {service.stream}")

    supervisor = Supervisor(settings, announce, load, source)
    on_terminal = os.isatty(0)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        supervisor.stop()

    def hang_up(_signal: int, _frame: FrameType | None) -> None:
        if on_terminal and not os.isatty(0):  # it is gone, and with it whoever started this
            supervisor.stop()
        else:
            supervisor.reload()

    def look_after_children(_signal: int, _frame: FrameType | None) -> None:
        supervisor.wake()

    signal.signal(signal.SIGCHLD, look_after_children)
    signal.signal(signal.SIGHUP, hang_up)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        supervisor.run()
    except BrokenError as error:
        fail(str(error))
    except StartError as error:
        fail(str(error), WRONG_USAGE)
    except SettingsError as error:
        refuse_settings(error)


@main.command()
@click.option("--events", type=click.IntRange(1), default=1_000_000, help="Notifications to submit.")
@click.option("--users", type=click.IntRange(1), default=10_000, help="Users to address, with seeded preferences.")
@click.option("--producers", type=click.IntRange(1), default=100, help="Logical producers, in at most 2 processes.")
@click.option("--shards", type=click.IntRange(1, 256), default=4, help="Worker processes.")
@click.option("--failure-rate", type=click.FloatRange(0, 1), default=0.1, help="Of simulated attempts.")
@click.option("--duplicate-rate", type=click.FloatRange(0, 1), default=0.01, help="Of events that repeat a key.")
@click.option(
    "--retry-base", metavar="DURATION", callback=duration, default="50ms", help="The first retry's longest wait."
)
@click.option("--max-retries", type=click.IntRange(0, 250), default=3, help="Attempts after the first.")
@click.option("--durability", type=click.Choice(["power", "process"]), default="power", help="What a receipt survives.")
@click.option("--seed", type=int, default=1, help="Equal seeds give equal outcomes.")
@json_option
def simulate(as_json: bool, **options: Any) -> None:
    """Put seeded events through a service of its own.

    Every delivery is accounted for; the exit code is 1 if one is missing.
    """
    from dispatcher import report
    from dispatcher.api.errors import DispatcherError
    from dispatcher.simulation.plan import Plan, SimulationError
    from dispatcher.simulation.simulate import simulate as run

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # no end without stopping the service
    progress = report.SimulationProgress()
    try:
        summary = run(Plan(**options), progress.follow)
    except (SimulationError, DispatcherError) as error:
        progress.clear()
        fail(str(error))
    progress.clear()
    click.echo(json_text(summary) if as_json else report.simulation(summary))
    sys.exit(0 if summary["conserved"] and not summary["pending"] else 1)


for command in (
    send, explain, status, cancel, stats, top, user, topic, inbox, dead, channel, template, config, keys, check,
    backup, completion,
):  # fmt: skip
    main.add_command(command)
