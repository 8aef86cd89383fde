"""``user``: the document with a user's contacts and preferences, one at a time or from a file of many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Any

import click

from dispatcher.commands.options import FAILED, WRONG_USAGE, fail
from dispatcher.commands.service import Service, asks
from dispatcher.terminal import Progress, json_text, plain


@click.group()
def user() -> None:
    """Users' contacts and preferences."""


@user.command()
@click.argument("user_id", required=False)
@click.option("--document", type=click.File("rb"), help="The document as JSON, from a file or - for standard input.")
@click.option("--from", "lines", type=click.File("rb"), help='Many users: JSON Lines {"user_id": ..., "user": ...}.')
@click.option("--email", help="Instead of a document: the address.")
@click.option("--phone", help="Instead of a document: the number.")
@click.option("--off", multiple=True, metavar="CHANNEL", help="Instead of a document: not on this channel; repeatable.")
@asks
def put(
    service: Service,
    user_id: str | None,
    document: IO[bytes] | None,
    lines: IO[bytes] | None,
    email: str | None,
    phone: str | None,
    off: tuple[str, ...],
) -> None:
    """Store the document of USER_ID, in place of the one before.

    With --from, the documents of many: lines that are wrong are reported and left out, the others are stored.
    """
    by_options = bool(email or phone or off)
    if (lines is not None) + (document is not None) + by_options != 1:
        raise click.UsageError("give one of --document, --from, or the options --email, --phone and --off")
    if (lines is None) == (user_id is None):
        raise click.UsageError(
            "--from has the users in its lines: leave USER_ID out" if lines else "USER_ID is missing"
        )
    if lines is not None:
        _put_many(service, lines)
        return
    contacts = {name: value for name, value in (("email", email), ("phone", phone)) if value}
    given = {"contacts": contacts, "preferences": {"channels": dict.fromkeys(off, False)}}
    stored = service.ask("user.put", user_id=user_id, user=given if document is None else _parsed(document))
    service.show(stored, lambda _: f"stored the document of {plain(user_id or '')}")


def _parsed(document: IO[bytes]) -> dict[str, Any]:
    import msgspec

    try:
        return msgspec.json.decode(document.read(), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        fail(f"--document: not a JSON object: {error}", WRONG_USAGE)


def _put_many(service: Service, lines: IO[bytes]) -> None:
    bad: list[dict[str, Any]] = []
    sent: list[int] = []  # the line of each request
    stored = 0
    progress = Progress()

    def refuse(line: int, field: str | None, problem: str) -> None:
        bad.append({"line": line, "field": field, "problem": problem})
        progress.clear()
        click.echo(f"line {line}: {plain(f'{field}: ' if field else '')}{plain(problem)}", err=True)

    def requests() -> Iterator[dict[str, Any]]:
        for line, request in _requests(lines, refuse):
            sent.append(line)
            yield request

    for place, error in service.ask_many("user.put", requests()):
        if error is None:
            stored += 1
        else:
            refuse(sent[place], error.field, f"{error.code}: {error.message}")
        progress.show(f"{stored:,} stored, {len(bad):,} bad lines")
    progress.clear()
    bad.sort(key=lambda problem: problem["line"])
    service.show({"stored": stored, "bad": bad}, lambda _: f"{stored:,} stored, {len(bad):,} bad lines")
    if bad:
        raise click.exceptions.Exit(FAILED)


def _requests(lines: Iterable[bytes], refuse: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line with its request; empty lines are passed over."""
    import msgspec

    decode = msgspec.json.Decoder(dict[str, Any]).decode
    known = {"user_id": str, "user": dict}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            refuse(number, None, f"not a JSON object: {error}")
            continue
        if stranger := next((name for name in request if name not in known), None):
            refuse(number, stranger, "unknown key; a line has user_id and user")
        elif wrong := next((name for name, kind in known.items() if not isinstance(request.get(name), kind)), None):
            refuse(number, wrong, f"{'not of the right type' if wrong in request else 'missing'}; "
                   'a line is like {"user_id": "ada", "user": {"contacts": {"email": "ada@example.org"}}}')  # fmt: skip
        else:
            yield number, request


@user.command()
@click.argument("user_id")
@asks
def get(service: Service, user_id: str) -> None:
    """Print the document of USER_ID."""
    service.show(service.ask("user.get", user_id=user_id), lambda answer: json_text(answer["user"], indent=True))


@user.command()
@click.argument("user_id")
@asks
def delete(service: Service, user_id: str) -> None:
    """Forget the document of USER_ID, and print it a last time."""
    service.show(service.ask("user.delete", user_id=user_id), lambda answer: json_text(answer["user"], indent=True))
