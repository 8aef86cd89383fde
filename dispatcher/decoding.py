"""What the decoder says of a document that people wrote, in their terms: the key, and what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

import msgspec

from shards.nearest import unknown
from shards.options import decode_hook
from shards.validation import choices


def explain(text: str, document: Any, kind: Any, also: Sequence[str] = ()) -> tuple[tuple[str, ...], str]:
    """The key in TOML's terms, and what is wrong with it, with the nearest known key.

    ``text`` is the decoder's, of reading ``document`` as ``kind``; ``also`` are further keys that its table may have.
    """
    what, _, where = text.replace("`object`", "`table`").partition(" - at `$")
    keys = list(_locate(re.findall(r"[^.\[\]`]+|\[\.\.\.\]", where), document, kind))
    if found := re.match(r"Object contains unknown field `([^`]*)`", what):
        what = unknown("key", found[1], [*fields(_kind_at(keys, kind)), *(() if keys else also)])
        keys.append(found[1])
    elif found := re.match(r"Object missing required field `([^`]*)`", what):
        what = f"{found[1]} is missing"
    elif what.startswith("Invalid enum value"):
        what += f"; known: {', '.join(choices(_kind_at(keys, kind)))}"
    elif (named := re.match(r"([a-z_]+(?:\.[\w-]+)*)(: )?", what)) and named[1].split(".")[0] in fields(
        _kind_at(keys, kind)
    ):
        keys += named[1].split(".")
        what = what[named.end() :] if named[2] else what
    return tuple(keys), what


def _locate(where: Sequence[str], document: Any, kind: Any) -> Iterator[str]:
    """The keys of a decoder's path, which says ``[...]`` for an entry of a table of names."""
    value = document
    for step in where:
        if isinstance(value, list):
            yield step
            value, kind = value[int(step)], get_args(kind)[0]
            continue
        if not isinstance(value, dict):
            return
        key = step
        if step == "[...]":
            kind = get_args(kind)[-1]
            key = next((name for name in value if not _is_valid(value[name], kind)), "*")
        else:
            kind = fields(kind).get(step)
        yield key
        value = value.get(key)


def _kind_at(keys: Sequence[str], kind: Any) -> Any:
    for key in keys:
        origin = get_origin(kind)
        kind = get_args(kind)[0 if origin is tuple else -1] if origin in (dict, tuple) else fields(kind).get(key)
    return kind


def fields(kind: Any) -> dict[str, Any]:
    """The keys of a table and their types, of one that may be left out as well."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return {field.encode_name: field.type for field in msgspec.structs.fields(one)}
    return {}


def _is_valid(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, dec_hook=decode_hook)
    except msgspec.ValidationError:
        return False
    return True
