"""``send``, ``status``, ``stats``: a notification from the shell, what became of it, and of all of them."""

from __future__ import annotations

import uuid

import click

from dispatcher.commands.options import WRONG_USAGE, fail
from dispatcher.commands.service import Service, asks
from shards.wire import PRIORITIES


@click.command()
@click.argument("user_id", required=False)
@click.option("--topic", help="In place of USER_ID: all who are subscribed to it; '*' is every user with a document.")
@click.option("--title")
@click.option("--body")
@click.option("--category", help="Decides the channels and the priority.  [default: system]")
@click.option("--priority", type=click.Choice(PRIORITIES))
@click.option("--channel", "channels", multiple=True, help="Instead of the category's channels; repeatable.")
@click.option("--payload", help="A JSON object.")
@click.option("--key", help="The idempotency key.  [default: a random one]")
@asks
def send(
    service: Service,
    user_id: str | None,
    topic: str | None,
    title: str | None,
    body: str | None,
    category: str | None,
    priority: str | None,
    channels: tuple[str, ...],
    payload: str | None,
    key: str | None,
) -> None:
    """Send one notification to USER_ID, or to all of a topic, and print its id."""
    import orjson

    if (user_id is None) == (topic is None):
        raise click.UsageError("give a USER_ID or a --topic")

    try:
        data = orjson.loads(payload) if payload else None
    except orjson.JSONDecodeError as error:
        fail(f"--payload is not JSON: {error}", WRONG_USAGE)
    notification = {
        "user_id": user_id,
        "topic": topic,
        "title": title,
        "body": body,
        "category": category,
        "priority": priority,
        "channels": list(channels) or None,
        "payload": data,
        "idempotency_key": str(uuid.uuid4()) if key is None else key,
    }
    given = {name: value for name, value in notification.items() if value is not None}
    answer = service.ask("submit", notifications=[given])
    if answer["rejected"]:
        refusal = answer["rejected"][0]["error"]
        field = f" ({refusal['field']})" if refusal.get("field") else ""
        fail(f"{refusal['code']}{field}: {refusal['message']}")
    again = "  (a duplicate: this is the first one's id)" if answer["duplicates"] else ""
    service.show(answer, lambda answer: f"{answer['ids'][0]}{again}")


@click.command()
@click.argument("id", required=False)
@click.option("--user", "user_id", help="With --key, in place of the ID.")
@click.option("--key", help="The idempotency key that the producer gave.")
@asks
def status(service: Service, id: str | None, user_id: str | None, key: str | None) -> None:
    """Show what became of the notification ID.

    In place of the ID, --user and --key name it as its producer did.
    """
    from dispatcher import report

    if (id is None) != (user_id is not None) or (user_id is None) != (key is None):
        raise click.UsageError("give the ID that `send` or a receipt had, or --user and --key")
    service.show(service.ask("status", id=id, user_id=user_id, idempotency_key=key), report.status)


@click.command()
@asks
def stats(service: Service) -> None:
    """Show counters, and the health of every process."""
    from dispatcher import report

    service.show(service.ask("stats"), report.stats)
