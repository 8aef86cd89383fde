"""``channel``: how the channels are, pausing them, and a message over one of them to see whether it works."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dispatcher.commands.options import (
    FAILED,
    WRONG_USAGE,
    config_option,
    fail,
    json_option,
    loaded_settings,
    payload_option,
)
from dispatcher.commands.service import Service, asks
from dispatcher.terminal import json_text, plain

if TYPE_CHECKING:
    from dispatcher.settings import Settings
    from shards.channels.base import Delivery, Recipient
    from shards.settings import ChannelSettings

LEFT_S = 2.0  # for threads that a channel has begun


@click.group()
def channel() -> None:
    """The ways to reach users: how they are, pausing, trying."""


@channel.command("list")
@asks
def list_(service: Service) -> None:
    """Show each channel: whether it sends, its providers, and what waits."""
    from dispatcher import channel_report

    stats = service.ask("stats")
    service.show(channel_report.used(stats), channel_report.listed)


@channel.command()
@click.argument("name")
@asks
def pause(service: Service, name: str) -> None:
    """Start nothing more on the channel NAME.

    What is under way ends; everything else waits, over restarts as well, until `channel resume`.
    """
    told = f"{plain(name)} is paused; what is for it waits until: dispatcher channel resume {plain(name)}"
    service.show(service.ask("channel.pause", channel=name), lambda _: told)


@channel.command()
@click.argument("name")
@asks
def resume(service: Service, name: str) -> None:
    """Send on the channel NAME again, whoever has paused it.

    Providers that have refused their credentials are asked again.
    """
    service.show(service.ask("channel.resume", channel=name), lambda _: f"{plain(name)} is running")


@channel.command()
@click.argument("name")
@click.option("--to", help="An address, number, URL or device, as the channel has them; see docs/operations.md.")
@click.option("--secret", help="Of a webhook: file:PATH or env:NAME.  [default: as configured]")
@click.option("--title", help="[default: a line that says what this is]")
@click.option("--body", "--text", "text", help="[default: the title]")
@click.option("--html", help="Of channels that send HTML.")
@click.option("--template", help="In place of --title, --text and --html: what is rendered.")
@payload_option
@click.option("--provider", help="Only this one: its number, from 1, or its name.  [default: one after the other]")
@config_option
@json_option
def test(
    name: str, to: str | None, secret: str | None, provider: str | None, config: Path | None, as_json: bool, **said: Any
) -> None:
    """Send one message over the channel NAME now, and show the conversation.

    It goes by the configuration and needs no running dispatcher. Exits with 0 if the service has taken the message,
    and with 1 if not. Secrets are not shown.
    """
    from dispatcher import channel_report
    from dispatcher.trial import Trial
    from dispatcher.trial_message import TrialError, chosen, recipient

    settings = loaded_settings(config)
    configured = _configured(name, settings.channels)
    before, began = set(threading.enumerate()), time.monotonic()
    try:
        key = _secret(secret)
        providers = chosen(configured, provider)
        to_whom = recipient(name, providers[0], to, key)
        trial = Trial(
            name,
            configured,
            settings.errors,
            (lambda _: None) if as_json else (lambda step: click.echo(f"  {plain(step)}")),
            [key] if key else [],
        )
        result = trial.run(providers, _delivery(settings, name, to_whom, said))
    except TrialError as error:
        fail(str(error), WRONG_USAGE)
    if as_json:
        click.echo(json_text(channel_report.document(result)))
    else:
        click.echo(channel_report.ended(name, result, time.monotonic() - began))
    _exit(0 if result.outcome == "delivered" else FAILED, before)


def _delivery(settings: Settings, channel: str, to: Recipient, said: dict[str, Any]) -> Delivery:
    from dispatcher.trial_message import Said, delivery, renderer

    template, payload = said.pop("template"), said.pop("payload")
    if template and any(said.values()):
        raise click.UsageError("--template has all that is said; leave out --title, --text and --html")
    if payload is not None and not template:
        raise click.UsageError("--payload is what a --template is filled with; give one, or leave it out")
    title = said["title"] or f"A test of the channel {channel}"
    message = Said(title, said["text"] or title, said["html"])
    if not template:
        return delivery(channel, to, message)
    return delivery(channel, to, Said("", "", None, template, payload or {}), renderer(settings))


def _configured(name: str, channels: dict[str, ChannelSettings]) -> ChannelSettings:
    from shards.nearest import unknown

    if name == "inapp":
        fail(
            "the in-app inbox is built in; try it with: dispatcher send USER --channel inapp --title Hello", WRONG_USAGE
        )
    if name not in channels:
        fail(f"{unknown('channel', name, channels)}; it needs a table [channels.{name}] in --config FILE", WRONG_USAGE)
    if channels[name].is_simulated:
        fail(f"the channel {name} is simulated and reaches nobody; give it a real provider", WRONG_USAGE)
    if channels[name].is_attached:
        remedy = f"try it with: dispatcher send USER --channel {name} --title Hello"
        fail(f"the channel {name} is whoever attaches to it while the service runs; {remedy}", WRONG_USAGE)
    return channels[name]


def _secret(given: str | None) -> str | None:
    from shards.hidden import ELSEWHERE, Secret

    if given is None:
        return None
    if not given.startswith(ELSEWHERE):
        fail("--secret: others can read the command line; name where it is, by file:PATH or env:NAME", WRONG_USAGE)
    try:
        return Secret.parse(given).reveal()
    except ValueError as error:
        fail(f"--secret: {error}", WRONG_USAGE)


def _exit(code: int, before: Collection[threading.Thread]) -> None:
    """Leave behind a thread in which a service hangs; Python would wait for it."""
    deadline = time.monotonic() + LEFT_S
    left = set(threading.enumerate()) - set(before)
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() and not thread.daemon for thread in left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
