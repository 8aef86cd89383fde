"""Where a TOML text sets a key: the parser gives values without their lines, and an error should name the line."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """The line that sets ``keys``, or else the innermost of the tables around them; None if there is none."""
    found, depth = None, 0
    for number, set_here in _settings(text):
        shared = min(len(set_here), len(keys))
        if shared > depth and list(set_here[:shared]) == list(keys[:shared]):
            found, depth = number, shared
    return found


def _settings(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Every table and every key with the line where it begins. A statement is as many lines as parse on their own."""
    table: tuple[str, ...] = ()
    tables: Counter[tuple[str, ...]] = Counter()  # of each array of tables, how many came so far
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            first = number
        statement += f"{line}\n"
        try:
            document = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("[["):
            ((*name, _),) = _paths(document)
            table = (*name, str(tables[*name]))
            tables[*name] += 1
            yield first, table
        elif statement.lstrip().startswith("["):
            (table,) = _paths(document)
            yield first, table
        else:
            yield from ((first, (*table, *path)) for path in _paths(document))
        statement = ""


def _paths(value: object) -> Iterator[tuple[str, ...]]:
    """The keys of the leaves of a document; in an array of tables a number is one."""
    if isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
        value = {str(at): inner for at, inner in enumerate(value)}
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from ((key, *path) for path in _paths(inner))
    else:
        yield ()
