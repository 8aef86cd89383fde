"""``dead``: the dead letters, and what an operator does with them."""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from dispatcher.commands.options import FAILED, WRONG_USAGE, fail
from dispatcher.commands.service import Service, asks
from dispatcher.terminal import Progress, fields, instant, json_text, second, table

PER_CALL = 1_000  # what one call of dead.replay or dead.purge does at most, per shard


@click.group()
def dead() -> None:
    """Deliveries that failed for good."""


def _since(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Milliseconds since the epoch, from a time or from a duration that goes back from now."""
    from shards.units import Seconds
    from shards.validation import instant_ms
    from shards.wire.errors import RequestError

    if value is None:
        return None
    try:
        if re.fullmatch(r"\d+", value):
            return instant_ms("since", int(value))
        if re.match(r"\d{4}-", value):
            return instant_ms("since", value)
        return max(0, int((time.time() - Seconds.parse(value)) * 1000))
    except RequestError as error:
        raise click.BadParameter(str(error)) from None
    except ValueError as error:
        raise click.BadParameter(f"{error}, nor a time: 2026-01-31T08:00:00Z, or milliseconds since 1970") from None


def _filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the filters, and passes on those that are set, under their names of the wire format."""
    names = ("channel", "category", "reason", "error_class", "since", "user_id", "id")

    @functools.wraps(command)
    def filtering(**options: Any) -> None:
        filters = {name: value for name in names if (value := options.pop(name)) is not None}
        command(filters=filters, **options)

    for option in (
        click.option("--id", help="Of this notification."),
        click.option("--user", "user_id", help="To this user."),
        click.option("--since", callback=_since, help='Died since a time, or within a duration such as "2h".'),
        click.option("--error-class", help="Such as transient or permanent."),
        click.option("--reason", help="Such as max_retries, permanent, channel_not_configured or rejected."),
        click.option("--category", help="Of this category."),
        click.option("--channel", help="On this channel."),
    ):
        filtering = option(filtering)
    return filtering


@dead.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, help="Show so many at the most.")
@click.option("--cursor", help="Show what comes after this one.")
@_filtered
@asks
def list_(service: Service, filters: dict[str, Any], limit: int, cursor: str | None) -> None:
    """List the dead letters that match all the filters, the oldest first."""
    service.show(service.ask("dead.list", **filters, limit=limit, cursor=cursor), _listed)


def _listed(answer: dict[str, Any]) -> str:
    headers = ("id", "died", "user", "channel", "category", "reason", "attempts", "last error")
    rows = [
        (
            letter["id"],
            second(letter["died_at"]),
            letter["user_id"],
            letter["channel"],
            letter["category"],
            letter["reason"],
            letter["attempts"],
            letter["last_error"],
        )
        for letter in answer["items"]
    ]
    if not rows:
        return "no dead letter matches"
    shown = table(headers, rows, flexible=("user", "last error"))
    return f"{shown}\n\nmore: the same with --cursor {answer['next']}" if answer["next"] is not None else shown


@dead.command()
@click.argument("id")
@click.option("--channel", help="Only the delivery on this channel.")
@asks
def show(service: Service, id: str, channel: str | None) -> None:
    """Print the dead letters of the notification ID whole."""
    answer = service.ask("dead.list", id=id, channel=channel, limit=PER_CALL)
    if not answer["items"]:
        fail(f"no dead letter has the id {id!r}; `status` says what became of a notification, `dead list` has the ids")
    service.show({"items": answer["items"]}, lambda answer: "\n\n".join(map(_letter, answer["items"])))


def _letter(letter: dict[str, Any]) -> str:
    said = fields(
        [
            ("id", letter["id"]),
            ("user", letter["user_id"]),
            ("channel", letter["channel"]),
            ("category", letter["category"]),
            ("reason", letter["reason"]),
            ("error class", letter["error_class"]),
            ("last error", letter["last_error"]),
            ("attempts", letter["attempts"]),
            ("died", instant(letter["died_at"])),
        ]
    )
    return f"{said}\nnotification\n{json_text(letter['notification'], indent=True)}"


@dead.command()
@click.option("--limit", type=click.IntRange(1), help="Replay so many at the most.")
@_filtered
@asks
def replay(service: Service, filters: dict[str, Any], limit: int | None) -> None:
    """Deliver again what matches all the filters; without filters, all dead letters.

    What was rejected, or is on a channel that is not configured, cannot be delivered, and stays.
    """
    _repeat(service, "dead.replay", "replayed", filters, limit)


@dead.command()
@click.option("--limit", type=click.IntRange(1), help="Purge so many at the most.")
@click.option("--all", "everything", is_flag=True, help="Without a filter: all dead letters are meant.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@_filtered
@asks
def purge(service: Service, filters: dict[str, Any], limit: int | None, everything: bool, yes: bool) -> None:
    """Forget the dead letters that match all the filters. There is no way back."""
    if not filters and not everything:
        fail("no filter is given; name one (see --help), or say --all to forget every dead letter", WRONG_USAGE)
    if not yes and sys.stdin.isatty():
        which = " and ".join(f"{name} {value!r}" for name, value in filters.items())
        if not click.confirm(
            f"Forget the dead letters with {which}?" if filters else "Forget all dead letters?", err=True
        ):
            fail("nothing was purged", FAILED)
    _repeat(service, "dead.purge", "purged", filters, limit)


def _repeat(service: Service, op: str, done: str, filters: dict[str, Any], limit: int | None) -> None:
    """Call until a call found fewer than it might have.

    A letter that is replayed and dies again at once must not keep this going for ever: it ends at ``limit``, or at as
    many as there were when it began.
    """
    stats = service.ask("stats")
    there_are = sum(stats["dead_letters"].values())
    most = min(limit, there_are) if limit else there_are
    count = 0
    progress = Progress()
    while count < most:
        left = most - count
        bound = None if left >= PER_CALL * len(stats["shards"]) else min(left, PER_CALL)
        found = service.ask(op, **filters, limit=bound)["count"]
        count += found
        progress.show(f"{done} {count:,}")
        if found < (bound or PER_CALL):
            break
    progress.clear()
    service.show({"count": count}, lambda answer: f"{done} {answer['count']:,}")
