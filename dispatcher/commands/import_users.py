"""``user import``: the documents of many users from a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from dispatcher.commands.options import FAILED, WRONG_USAGE, fail
from dispatcher.commands.service import Service, asks
from dispatcher.terminal import Progress, plain

if TYPE_CHECKING:
    from dispatcher.users_file import Problem, Row
    from shards.wire.errors import Error

ERRORS_MAX = 1_000  # told one by one; all are counted


class Report:
    """What became of the lines, told as they come."""

    def __init__(self) -> None:
        self.stored = 0
        self.failed = 0
        self.repeated = 0
        self.errors: list[Problem] = []
        self._seen: set[int] = set()  # hashes of user ids: a file may have millions
        self._progress = Progress()
        self._start = time.monotonic()

    def refuse(self, problem: Problem) -> None:
        self.failed += 1
        if len(self.errors) < ERRORS_MAX:
            self.errors.append(problem)
            where = f"{problem.field}: " if problem.field else ""
            self._tell(f"line {problem.line}: {plain(where)}{problem.code}: {plain(problem.message)}")

    def meet(self, row: Row) -> None:
        """Tells of a user who was on an earlier line."""
        from shards.wire.ids import hash_user

        known = len(self._seen)
        self._seen.add(hash_user(row.user_id))
        if len(self._seen) == known:
            self.repeated += 1
            if self.repeated <= ERRORS_MAX:
                user = plain(row.user_id[:80])
                self._tell(f"line {row.line}: user_id: {user} was on an earlier line; this one replaces it")

    def progress(self) -> None:
        rate = (self.stored + self.failed) / max(1e-3, time.monotonic() - self._start)
        self._progress.show(f"{self.stored:,} stored, {self.failed:,} bad lines, {rate:,.0f}/s")

    def end(self) -> None:
        self._progress.clear()
        if self.failed > ERRORS_MAX:
            self._tell(f"and {self.failed - ERRORS_MAX:,} more bad lines")
        self.errors.sort()

    def _tell(self, text: str) -> None:
        self._progress.clear()
        click.echo(text, err=True)


@click.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--format", "chosen", type=click.Choice(["jsonl", "csv"]), help="[default: by the file's suffix]")
@click.option("--dry-run", is_flag=True, help="Check the file; store nothing, and ask no dispatcher.")
@asks
def import_users(service: Service, file: IO[bytes], chosen: str | None, dry_run: bool) -> None:
    """Store the documents of many users, from FILE or, with -, from standard input.

    Lines that are wrong are told with their number, field and problem, and left out; the others are stored. The exit
    code is 1 if one was wrong. Of a user who comes twice, the last document holds.

    JSON Lines (.jsonl, .ndjson): {"user_id": "ada", "user": {...}} on each line, or the document's keys beside user_id.

    CSV (.csv, .tsv), the first line naming the columns: user_id, email, phone, timezone, locale, topics, quiet_start,
    quiet_end, quiet_days, webhook_url, webhook_secret, push.fcm, push.apns, push.webpush, channels.NAME,
    categories.NAME, categories.NAME.CHANNEL. The last three are true or false; an empty cell says nothing; lists within
    a cell are separated by |.
    """
    from dispatcher.users_file import FORMATS, HeaderError, Problem, Row, read

    name = getattr(file, "name", "-")
    kind = chosen or FORMATS.get(Path(name).suffix.lower())
    if kind is None:
        raise click.UsageError(f"what is in {name}? Say --format jsonl or --format csv")
    report = Report()
    lines: dict[int, int] = {}  # of the requests under way

    def requests() -> Iterator[dict[str, Any]]:
        place = 0
        for item in read(file, kind):
            if isinstance(item, Row):
                report.meet(item)
                lines[place] = item.line
                place += 1
                yield {"user_id": item.user_id, "user": item.user}
            else:
                report.refuse(item)

    answers = _checked(requests()) if dry_run else service.ask_many("user.put", requests())
    try:
        for place, error in answers:
            line = lines.pop(place)
            if error is None:
                report.stored += 1
            else:
                report.refuse(Problem(line, error.field, error.code, error.message))
            report.progress()
    except HeaderError as error:
        fail(f"{name}: {error}", WRONG_USAGE)
    report.end()
    summary = {
        "stored": 0 if dry_run else report.stored,
        "failed": report.failed,
        "repeated": report.repeated,
        "errors": [problem._asdict() for problem in report.errors],
    }
    done = "good" if dry_run else "stored"
    service.show(summary, lambda _: f"{report.stored:,} {done}, {report.failed:,} bad lines")
    if report.failed:
        raise click.exceptions.Exit(FAILED)


def _checked(requests: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Error | None]]:
    """As a dispatcher would answer ``user.put``."""
    from shards.preferences import parse_document
    from shards.wire.errors import RequestError

    for place, request in enumerate(requests):
        try:
            parse_document(request["user"])
        except RequestError as error:
            yield place, error.error
        else:
            yield place, None
