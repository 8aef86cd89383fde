"""``inbox``: what a user finds in the in-app inbox."""

from __future__ import annotations

from typing import Any

import click

from dispatcher.commands.service import Service, asks
from dispatcher.terminal import second, table

UNREAD = ("new", "seen")


@click.command()
@click.argument("user_id")
@click.argument("ids", nargs=-1)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, help="Show so many at the most.")
@click.option("--cursor", help="Show what comes after this one.")
@click.option("--unread", is_flag=True, help="Leave out what is read or archived.")
@click.option("--mark", type=click.Choice(["seen", "read", "archived"]), help="Mark the items IDS, and show them.")
@asks
def inbox(
    service: Service, user_id: str, ids: tuple[str, ...], limit: int, cursor: str | None, unread: bool, mark: str | None
) -> None:
    """Show the inbox of USER_ID, or mark items in it.

    The oldest comes first. `dispatcher inbox ada --mark read ID ID` marks two items as read.
    """
    if bool(ids) != (mark is not None):
        raise click.UsageError("--mark needs the IDS of items" if mark else "IDS are for --mark; leave them out")
    if mark:
        answer = service.ask("inbox.mark", user_id=user_id, ids=list(ids), state=mark)
    else:
        answer = service.ask("inbox.list", user_id=user_id, limit=limit, cursor=cursor)
        if unread:
            _leave_unread(service, answer, user_id, limit)
    service.show(answer, _shown)


def _leave_unread(service: Service, answer: dict[str, Any], user_id: str, limit: int) -> None:
    """Read on until the page is full again."""
    items = [item for item in answer["items"] if item["state"] in UNREAD]
    while len(items) <= limit and answer["next"] is not None:
        answer |= service.ask("inbox.list", user_id=user_id, limit=limit, cursor=answer["next"])
        items += [item for item in answer["items"] if item["state"] in UNREAD]
    answer |= {"items": items[:limit], "next": items[limit - 1]["cursor"] if len(items) > limit else None}


def _shown(answer: dict[str, Any]) -> str:
    rows = [
        (
            item["cursor"],
            second(item["accepted_at"]),
            item["category"],
            item["title"] or item["body"] or (item["payload"] or {}).get("message"),
            item["state"],
            item["id"],
        )
        for item in answer["items"]
    ]
    headers = ("cursor", "time", "category", "title", "state", "id")
    shown = table(headers, rows, flexible=("title", "category")) if rows else "nothing"
    more = f"; more: the same with --cursor {answer['next']}" if answer["next"] is not None else ""
    return f"{shown}\n\n{answer['unread']:,} unread{more}"
