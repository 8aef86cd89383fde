"""``user``: the document with a user's contacts and preferences."""

from __future__ import annotations

from typing import IO, Any

import click

from dispatcher.commands.import_users import import_users
from dispatcher.commands.options import WRONG_USAGE, fail
from dispatcher.commands.service import Service, asks
from dispatcher.terminal import json_text, plain, second


@click.group()
def user() -> None:
    """Users' contacts and preferences."""


@user.command()
@click.argument("user_id")
@click.option("--document", type=click.File("rb"), help="The document as JSON, from a file or - for standard input.")
@click.option("--email", help="Instead of a document: the address.")
@click.option("--phone", help="Instead of a document: the number.")
@click.option("--off", multiple=True, metavar="CHANNEL", help="Instead of a document: not on this channel; repeatable.")
@asks
def put(
    service: Service,
    user_id: str,
    document: IO[bytes] | None,
    email: str | None,
    phone: str | None,
    off: tuple[str, ...],
) -> None:
    """Store the document of USER_ID, in place of the one before."""
    by_options = bool(email or phone or off)
    if (document is not None) + by_options != 1:
        raise click.UsageError("give one of --document and the options --email, --phone and --off")
    contacts = {name: value for name, value in (("email", email), ("phone", phone)) if value}
    given = {"contacts": contacts, "preferences": {"channels": dict.fromkeys(off, False)}}
    stored = service.ask("user.put", user_id=user_id, user=given if document is None else _parsed(document))
    service.show(stored, lambda _: f"stored the document of {plain(user_id)}")


def _parsed(document: IO[bytes]) -> dict[str, Any]:
    import msgspec

    try:
        return msgspec.json.decode(document.read(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        fail(f"--document: not a JSON object: {error}", WRONG_USAGE)


@user.command()
@click.argument("user_id")
@asks
def get(service: Service, user_id: str) -> None:
    """Print the document of USER_ID; on standard error, which of its contacts are not used."""
    answer = service.ask("user.get", user_id=user_id)
    service.show(answer, lambda answer: json_text(answer["user"], indent=True))
    if not service.as_json:
        for one in answer.get("not_used", ()):
            since = f"{one['channel']} {one['contact']}: not used since {second(one['since_ms'])}"
            click.echo(plain(f"{since}: {one['error']}; `dispatcher user put` with another ends that"), err=True)


@user.command()
@click.argument("user_id")
@asks
def delete(service: Service, user_id: str) -> None:
    """Forget the document of USER_ID, and print it a last time."""
    service.show(service.ask("user.delete", user_id=user_id), lambda answer: json_text(answer["user"], indent=True))


user.add_command(import_users)
