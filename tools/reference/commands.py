"""docs/commands.md: every command with its arguments and options, from the command line itself."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import click

from dispatcher.cli import main
from tools.reference.markdown import GENERATED, table

COMMON_MIN = 10  # an option that so many commands have is explained once
INTRODUCTION = f"""\
# Command line

{GENERATED}

`dispatcher` and `python -m dispatcher` are the same program. What the commands are for, with their output, is in
[From a shell](operations.md); how they end, and what `--json` promises, in [Exit codes](operations.md#exit-codes).
`--help` works everywhere.

## Common options

"""
Record = tuple[str, str]


def page() -> str:
    found = list(_walk(main, ("dispatcher",), None))
    counts = Counter(record for _, _, records in found for record in records)
    common = {record: None for record, count in counts.items() if count >= COMMON_MIN}
    head = INTRODUCTION + table(["option", "meaning"], [_row(record) for record in common])
    return "\n\n".join([head, *(_section(path, text, records, common) for path, text, records in found)]) + "\n"


def _walk(
    command: click.Command, path: tuple[str, ...], parent: click.Context | None
) -> Iterator[tuple[tuple[str, ...], str, list[Record]]]:
    """Every command: its words, what is said of it, and its arguments and options."""
    context = click.Context(command, info_name=path[-1], parent=parent, **main.context_settings)
    said = inspect.cleandoc(command.help or "")
    if isinstance(command, click.Group):
        if parent is not None:
            yield path, said, []
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from _walk(found, (*path, name), context)
        return
    usage = " ".join([*path, *command.collect_usage_pieces(context)])
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    told = [record for record in records if record is not None and "--help" not in record[0]]
    yield path, f"```text\n{usage}\n```\n\n{said}", told


def _section(path: Sequence[str], text: str, records: Sequence[Record], common: Collection[Record]) -> str:
    parts = [f"{'#' * min(len(path), 3)} {' '.join(path)}", text]
    own = [_row(record) for record in records if record not in common and record[1]]
    shared = [f"`{record[0].split()[0]}`" for record in records if record in common]
    if own:
        parts.append(table(["option", "meaning"], own))
    if shared:
        parts.append(f"{'Also ' if own else ''}{', '.join(shared)}: [common options](#common-options).")
    return "\n\n".join(parts)


def _row(record: Record) -> list[str]:
    return [f"`{record[0]}`", re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", record[1]).replace("  ", " ")]
