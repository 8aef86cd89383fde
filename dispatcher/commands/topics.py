"""``topic``: who gets what is sent to it."""

from __future__ import annotations

import click

from dispatcher.commands.service import Service, asks
from dispatcher.terminal import plain


@click.group()
def topic() -> None:
    """Subscriptions to topics."""


@topic.command()
@click.argument("topic")
@click.argument("user_id")
@asks
def subscribe(service: Service, topic: str, user_id: str) -> None:
    """Let USER_ID get what is sent to TOPIC."""
    answer = service.ask("topic.subscribe", topic=topic, user_id=user_id)
    service.show(answer, lambda _: f"{plain(user_id)} is subscribed to {plain(topic)}")


@topic.command()
@click.argument("topic")
@click.argument("user_id")
@asks
def unsubscribe(service: Service, topic: str, user_id: str) -> None:
    """Let USER_ID get nothing more of what is sent to TOPIC."""
    answer = service.ask("topic.unsubscribe", topic=topic, user_id=user_id)
    service.show(answer, lambda _: f"{plain(user_id)} is not subscribed to {plain(topic)}")
