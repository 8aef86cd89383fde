"""docs/configuration.md: every key of the configuration, from the shipped file and the settings' types.

The file has the order and the comments, the types have the defaults; tests hold that the two say the same.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from dispatcher.reload import may_change
from dispatcher.settings import ENVIRONMENT_PREFIX, Settings
from shards.channels import registry
from shards.hidden import Secret
from shards.settings import SIMULATED, ChannelSettings
from shards.units import Seconds
from tools.reference.markdown import GENERATED, prose, table

SHIPPED = Path(__file__).parents[2] / "config" / "dispatcher.toml"
HEAD = ("key", "type", "default", "meaning")
RELOADABLE = "↻"
INTRODUCTION = f"""\
# Configuration

{GENERATED}

Every key there is, with its type and its default. A file has only what you change:

```toml
[dispatcher]
shards = 8

[retry]
max_retries = 3
```

`dispatcher serve --config FILE` takes it, `dispatcher config check FILE` names each mistake with its line, and
`dispatcher config show` prints what holds in the end. The order is: defaults, the file, the environment, the command
line.

- In the environment a key of `[dispatcher]` is `{ENVIRONMENT_PREFIX}SHARDS=8`. Two underscores part the keys of other
  tables, as in `{ENVIRONMENT_PREFIX}RETRY__BASE=2s`.
- A duration is a number with a unit: `us`, `ms`, `s`, `m`, `h` or `d`, as in `"1.5h"`. A rate is `"100/second"`, or of
  a `minute`, `hour` or `day`.
- A secret is the text itself, `"file:PATH"` of a file that only its owner can read, or `"env:NAME"`. It is never shown.
- In `[categories]`, `[rate_limits]` and `[channels]` an entry of yours replaces the default of the same name, whole.
  The others stay. `NAME` stands for a name of yours.
- {RELOADABLE} marks what can change by [`config.reload`](routing.md#reloading). The rest takes a restart.
"""


class Section(NamedTuple):
    """A table as the file shows it: its keys, the text before it, and each setting's comment."""

    group: str
    keys: tuple[str, ...]
    text: list[str]
    comments: dict[str, str]
    values: dict[str, str]


def page() -> str:
    parts = [INTRODUCTION]
    group, guide = "", ""
    told: dict[tuple[str, str], str] = {}  # what was said of a key where it stood first
    seen = set()
    for section in sections(SHIPPED.read_text(encoding="utf-8")):
        for key, comment in section.comments.items():
            told.setdefault((section.keys[0], key), comment)
        kind, named = _resolve(section.keys)
        if named in seen:
            continue  # another default entry of a table of names
        seen.add(named)
        if section.group != group:
            group = section.group
            parts.append(f"## {group}\n")
        if named_guide := re.search(r"docs/[\w-]+\.md", " ".join(section.text)):
            guide = named_guide[0]
        writer = _Section(
            section, kind, {**told, **{(section.keys[0], k): c for k, c in section.comments.items()}}, guide
        )
        parts += [f"### `{named}`\n", *(f"{prose(text)}\n" for text in section.text), *writer.tables()]
    return "\n".join(parts)


def sections(text: str) -> Iterator[Section]:
    """The tables of the file, those in comments among them, in their order."""
    group, keys = "The service", ()
    found: Section | None = None
    pending: list[str] = []
    for line in text.splitlines():
        bare = re.sub(r"^# ?", "", line)
        if title := re.match(r"# --- (.*?) -+$", line):
            group = title[1].capitalize()
        elif header := re.match(r"(?:# )?\[+([\w.]+)\]+(?:\s+# (.*))?$", line):
            if found:
                yield found
            keys = tuple(header[1].split("."))
            found = Section(
                group, keys, [*_paragraphs(pending), *([_sentence(header[2])] if header[2] else [])], {}, {}
            )
            pending = []
        elif found and (setting := re.match(r"(?:# )?(\w+) = (.*)$", line)):
            value, comment = _split_comment(setting[2])
            told = "\n".join(pending)
            pending = []
            if keys_told := dict(re.findall(r"(?ms)(?:^|  )(\w+): (.*?)(?=  \w+: |^\w+: |\Z)", told)):
                found.comments.update({key: " ".join(text.split()).rstrip(".") for key, text in keys_told.items()})
            elif comment:
                found.text.extend(_paragraphs(told.splitlines()))
            else:
                comment = " ".join(told.split())
            if comment:
                found.comments[setting[1]] = comment
            found.values[setting[1]] = value
        elif line.startswith("#"):
            pending.append(bare)
        elif not found:
            pending = []  # the file's own introduction
        elif pending:
            pending.append("")
    if found:
        yield found


def _paragraphs(lines: Sequence[str]) -> list[str]:
    return [" ".join(part.split()) for part in "\n".join(lines).split("\n\n") if part.strip()]


def _split_comment(text: str) -> tuple[str, str]:
    """A setting's value and its comment; a value may have a number sign in quotes."""
    found = re.match(r'((?:"[^"]*"|[^"#])*?)\s*(?:#\s*(.*))?$', text)
    assert found, text
    return found[1], found[2] or ""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _resolve(keys: tuple[str, ...]) -> tuple[Any, str]:
    """The type of a table, and its name, in which NAME stands for one of the user's choice."""
    if keys[0] == "channels":  # the types of what is in them are their providers'
        return None, f"[{'.'.join(keys)}]".replace(".pager", ".NAME")
    kind: Any = Settings
    named = []
    for key in keys:
        is_name = get_origin(_plain(kind)) is dict
        kind = get_args(_plain(kind))[1] if is_name else _type_of(_plain(kind), key)
        named.append("NAME" if is_name and keys[0] != "errors" else key)
    if get_origin(kind) is tuple:
        return get_args(kind)[0], f"[[{'.'.join(named)}]]"
    if get_origin(kind) is dict and keys[0] != "errors":
        named.append("NAME")
    return kind, f"[{'.'.join(named)}]"


class _Section:
    """The rows of one table of the configuration."""

    def __init__(self, section: Section, kind: Any, told: Mapping[tuple[str, str], str], guide: str) -> None:
        self._section = section
        self._kind = kind
        self._told = told
        self._guide = guide

    def tables(self) -> Iterator[str]:
        top, *inner = self._section.keys
        if top == "errors":
            return  # its keys are answers of services
        if top != "channels":
            yield table(HEAD, self._rows(self._kind, self._section.keys)) + "\n"
            return
        channel, *inner = inner
        if channel == "pager":
            yield "Every channel has these:\n"
            yield table(HEAD, self._rows(ChannelSettings, self._section.keys, without=("providers",))) + "\n"
            yield f"A channel with `provider = {self._section.values['provider']}` has these as well:\n"
        provider = registry.BY_DEFAULT.get(channel) or json.loads(self._section.values["provider"])
        kind = registry.find(provider).Settings
        rows = []
        for key in inner:
            kind = _plain(_type_of(kind, key))
        if not inner and provider != SIMULATED:
            default = f'`"{provider}"`' if channel in registry.BY_DEFAULT else f'must be given, as `"{provider}"`'
            rows = [[f"`provider` {RELOADABLE}", "text", default, "who delivers"]]
        of = SIMULATED if provider == SIMULATED else "providers"
        within = [field.name for field in msgspec.structs.fields(kind) if _is_table(_plain(field.type))]
        yield table(HEAD, rows + self._rows(kind, ("channels", channel, of), without=within)) + "\n"

    def _rows(self, kind: Any, at: tuple[str, ...], without: Sequence[str] = ()) -> list[list[str]]:
        kind = _plain(kind)
        if get_origin(kind) is dict:  # a table of names, each with a table of its own
            kind, at = get_args(kind)[1], (*at, "NAME")
        every = {field.name: field for field in msgspec.structs.fields(kind) if field.name not in without}
        shown = self._section.values
        order = [*(name for name in shown if name in every), *(name for name in every if name not in shown)]
        return [self._row(every[name], at) for name in order]

    def _row(self, field: msgspec.structs.FieldInfo, at: tuple[str, ...]) -> list[str]:
        meaning = self._told.get((at[0], field.name)) or f"see {self._guide}"
        simulated = at[1:2] if SIMULATED in at else ()
        mark = f" {RELOADABLE}" if may_change((*at, field.name), simulated) else ""
        shown = self._section.values.get(field.name, "")
        return [f"`{field.name}`{mark}", _type(field.type, field.name), _default(field, shown), prose(meaning)]


def _type_of(kind: Any, key: str) -> Any:
    return next(field.type for field in msgspec.structs.fields(kind) if field.name == key)


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _plain(kind: Any) -> Any:
    """Without what annotates it, and without None."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    choices = [one for one in get_args(kind) if one is not type(None)]
    return _plain(choices[0]) if _is_union(kind) and len(choices) == 1 else kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) is Union or type(kind).__name__ == "UnionType"


def _type(kind: Any, name: str = "") -> str:
    bounds = next((one for one in get_args(kind)[1:] if isinstance(one, msgspec.Meta)), None)
    kind = _plain(kind)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{json.dumps(one)}`" for one in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {_type(get_args(kind)[0])}s".replace("texts", "text")
    if get_origin(kind) is dict:
        return "table"
    if _is_union(kind):
        return " or ".join(_type(one) for one in get_args(kind))
    if _is_table(kind):
        return "table"
    named = {bool: "boolean", int: "integer", float: "number", str: "text", Seconds: "duration", Secret: "secret"}
    text = named.get(kind, "any")
    if kind is int and name.endswith("bytes"):
        text = "bytes"
    if bounds is not None and bounds.ge is not None:
        text += f", {bounds.ge:,} to {bounds.le:,}" if bounds.le is not None else f", at least {bounds.ge:,}"
    return text


def _default(field: msgspec.structs.FieldInfo, shown: str) -> str:
    """As the file writes it, where that is the default; of what must be given, the file's example."""
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return f"must be given, as `{shown}`" if shown else "must be given"
    if value is None:
        return ""
    written = tomllib.loads(f"shown = {shown}")["shown"] if shown else None
    if isinstance(value, Seconds) and isinstance(written, str):
        written = Seconds.parse(written)
    return f"`{shown if written == value else _toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, Seconds):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return f"{value:_}" if type(value) is int and value >= 10_000 else json.dumps(value)
