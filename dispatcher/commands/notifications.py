"""``send``, ``explain``, ``status``, ``cancel``, ``stats``: a notification from the shell, and what becomes of it."""

from __future__ import annotations

import functools
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import click

from dispatcher.commands.options import WRONG_USAGE, fail, payload_option
from dispatcher.commands.service import Service, asks
from shards.wire.notification import PRIORITIES

TYPES = ("info", "success", "warning", "error")


def _instant(_context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Milliseconds since the epoch, from a time or, with a plus, from a duration that begins now."""
    from shards.units import Seconds
    from shards.validation import instant_ms
    from shards.wire.errors import RequestError

    if value is None:
        return None
    try:
        if value.startswith("+"):
            return int((time.time() + Seconds.parse(value[1:])) * 1000)
        return instant_ms(parameter.name or "", int(value) if re.fullmatch(r"\d+", value) else value)
    except RequestError as error:
        raise click.BadParameter(f'{error}, nor a duration from now on such as "+10m"') from None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _metadata(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str] | None:
    pairs = [value.partition("=") for value in values]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise click.BadParameter(f"{name!r} is not like trace=abc")
    return {name: value for name, _, value in pairs} or None


_topic_option = click.option(
    "--topic", help="In place of USER_ID: all who are subscribed to it; '*' is every user with a document."
)


def _address(user_id: str | None, topic: str | None) -> dict[str, str | None]:
    return {"user_id": user_id} if topic is None else {"topic": topic}


def _described(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that make up a notification, and passes on what is given of it."""
    names = (
        "title", "body", "category", "type", "priority", "channels", "template", "payload", "idempotency_key",
        "send_at", "expires_at", "metadata",
    )  # fmt: skip

    @functools.wraps(command)
    def describing(**options: Any) -> None:
        options["channels"] = list(options["channels"]) or None
        notification = {name: value for name in names if (value := options.pop(name)) is not None}
        command(notification=notification, **options)

    when = 'RFC 3339, milliseconds since 1970, or from now on such as "+10m".'
    for option in (
        click.option("--metadata", metavar="NAME=VALUE", multiple=True, callback=_metadata, help="Repeatable."),
        click.option("--expires-at", callback=_instant, metavar="TIME", help=f"Not to be sent after that: {when}"),
        click.option("--send-at", callback=_instant, metavar="TIME", help=f"Not before: {when}"),
        click.option("--key", "idempotency_key", help="The idempotency key."),
        payload_option,
        click.option("--template", help="Its name."),
        click.option("--channel", "channels", multiple=True, help="Instead of the category's channels; repeatable."),
        click.option("--priority", type=click.Choice(PRIORITIES)),
        click.option("--type", type=click.Choice(TYPES), help="How it is shown.  [default: info]"),
        click.option("--category", help="Decides the channels and the priority.  [default: system]"),
        click.option("--body"),
        click.option("--title"),
    ):
        describing = option(describing)
    return describing


@click.command()
@click.argument("user_id", required=False)
@_topic_option
@_described
@asks
def send(service: Service, user_id: str | None, topic: str | None, notification: dict[str, Any]) -> None:
    """Send one notification to USER_ID, or to all of a topic, and print its id.

    Without --key it gets a random one.
    """
    if (user_id is None) == (topic is None):
        raise click.UsageError("give a USER_ID or a --topic")
    given = {**_address(user_id, topic), "idempotency_key": str(uuid.uuid4()), **notification}
    answer = service.ask("submit", notifications=[given])
    if answer["rejected"]:
        refusal = answer["rejected"][0]["error"]
        field = f" ({refusal['field']})" if refusal.get("field") else ""
        fail(f"{refusal['code']}{field}: {refusal['message']}")
    again = "  (a duplicate: this is the first one's id)" if answer["duplicates"] else ""
    service.show(answer, lambda answer: f"{answer['ids'][0]}{again}")


@click.command()
@click.argument("user_id", required=False)
@_topic_option
@click.option("--file", type=click.File("rb"), help="A notification as JSON, in place of all that.")
@_described
@asks
def explain(service: Service, user_id: str | None, topic: str | None, file: Any, notification: dict[str, Any]) -> None:
    """Show what would become of a notification to USER_ID, and why.

    Nothing is sent, and nothing counts. With `--file -` it is read from standard input.
    """
    from dispatcher import report

    if [user_id, topic, file].count(None) != 2:
        raise click.UsageError("give a USER_ID or a --topic and what is to be said, or --file with a notification")
    if file is not None and notification:
        raise click.UsageError("--file has all of the notification; leave the other options out")
    asked = _read(file) if file is not None else {**_address(user_id, topic), **notification}
    service.show(service.ask("explain", notification=asked), report.explanation)


def _read(file: Any) -> dict[str, Any]:
    import orjson

    try:
        document = orjson.loads(file.read())
    except orjson.JSONDecodeError as error:
        fail(f"--file: not JSON: {error}", WRONG_USAGE)
    if not isinstance(document, dict):
        fail('--file: a notification is an object such as {"user_id": "ada", "title": "Hello"}', WRONG_USAGE)
    return document


def _named(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the ways to name a notification."""

    @functools.wraps(command)
    def naming(id: str | None, user_id: str | None, key: str | None, **options: Any) -> None:
        if (id is None) != (user_id is not None) or (user_id is None) != (key is None):
            raise click.UsageError("give the ID that `send` or a receipt had, or --user and --key")
        command(named={"id": id, "user_id": user_id, "idempotency_key": key}, **options)

    for option in (
        click.option("--key", help="The idempotency key that the producer gave."),
        click.option("--user", "user_id", help="With --key, in place of the ID."),
        click.argument("id", required=False),
    ):
        naming = option(naming)
    return naming


@click.command()
@_named
@asks
def status(service: Service, named: dict[str, str | None]) -> None:
    """Show what became of the notification ID, and why.

    In place of the ID, --user and --key name it as its producer did.
    """
    from dispatcher import report

    service.show(service.ask("status", **named), report.status)


@click.command()
@_named
@asks
def cancel(service: Service, named: dict[str, str | None]) -> None:
    """Cancel what is still open of the notification ID.

    In place of the ID, --user and --key name it as its producer did.
    """
    from dispatcher import report

    service.show(service.ask("cancel", **named), report.cancelled)


@click.command()
@asks
def stats(service: Service) -> None:
    """Show counters, and the health of every process."""
    from dispatcher import report

    service.show(service.ask("stats"), report.stats)
