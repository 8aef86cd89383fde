"""The templates of an installation: those in the directory, and over them those that clients have put.

    order-shipped/email.subject        a folder per template, a file per part
    order-shipped/fr/email.subject     a folder per language in it
    layouts/mail.html                  what parts extend and include

What was put is kept in the data directory. A template that was put replaces the one of its name as a whole.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from dispatcher.data_directory import write_durably
from dispatcher.settings import Settings, SettingsError
from shards.nearest import unknown
from shards.template_parts import LAYOUTS, SOURCE_BYTES_MAX
from shards.templates import TemplateEngine
from shards.wire.errors import RequestError

PUT_FILE = "templates.json"  # in the data directory
FIELD_MAX = 200  # characters
PARTS_MAX = 10_000
BYTES_MAX = 16 * 2**20  # of all sources: every shard has them in memory

Sources = Mapping[str, Mapping[str, str]]


class Library(NamedTuple):
    """Every template's parts, and which of them clients have put."""

    sources: dict[str, dict[str, str]]
    put: dict[str, dict[str, str]]

    @property
    def names(self) -> Collection[str]:
        """What a notification can name."""
        return self.sources.keys() - {LAYOUTS}


def load(
    settings: Settings,
    data_dir: Path | None,
    source: Callable[[Sequence[str]], str] = lambda _keys: "the configuration",
) -> Library:
    """Read and check all of them; ``data_dir`` None leaves out what was put. Raises ``SettingsError``.

    ``source`` tells where a key of the configuration is set.
    """
    library, problems = read(settings, data_dir, source)
    problems += check(library, settings)
    for name, digest in settings.digests.items() if library.sources else ():
        if digest.template not in library.names:
            where = source(("digests", name, "template"))
            problems.append(f"{where}: digests.{name}.template: {unknown('template', digest.template, library.names)}")
    if problems:
        raise SettingsError("\n".join(problems))
    return library


def read(
    settings: Settings, data_dir: Path | None, source: Callable[[Sequence[str]], str]
) -> tuple[Library, list[str]]:
    """All that can be read, and a line for each problem. Raises ``SettingsError`` where what was put is damaged."""
    problems: list[str] = []
    directory = settings.templates.directory
    found: dict[str, dict[str, str]] = {}
    if directory and not Path(directory).is_dir():
        where = source(("templates", "directory"))
        problems.append(f"{where}: templates.directory: {directory} is no directory; make it, or leave the key out")
    elif directory:
        found = read_directory(Path(directory), problems)
    put = _read_put(data_dir / PUT_FILE) if data_dir is not None else {}
    return Library(_sorted({**found, **put}), put), problems


def check(library: Library, settings: Settings, only: str | None = None) -> list[str]:
    """A line for each problem of the templates, or of one of them, with its file."""
    lines = []
    for error in TemplateEngine(library.sources, settings.templates.output_bytes).problems(only):
        if error.template in library.put:
            lines.append(str(error))
        else:
            path = Path(settings.templates.directory, error.template, error.part or "")
            lines.append(f"{path}{f', line {error.line}' if error.line else ''}: {error.reason}")
    return lines


def _sorted(sources: Sources) -> dict[str, dict[str, str]]:
    """So that equal templates are an equal configuration, in whatever order they were found."""
    return {name: dict(sorted(sources[name].items())) for name in sorted(sources)}


# --- the directory ------------------------------------------------------------------------------------------------


def read_directory(root: Path, problems: list[str]) -> dict[str, dict[str, str]]:
    """Template -> part -> source. What cannot be read is told in ``problems``."""
    found: dict[str, dict[str, str]] = {}
    parts = size = 0
    for path in _files(root, problems):
        name, *rest = path.relative_to(root).parts
        if len(rest) not in (1, 2):
            problems.append(f"{path}: a part is a file such as NAME/email.html or NAME/fr/email.html")
            continue
        source = _read(path, root, problems)
        parts, size = parts + 1, size + len(source)
        if parts > PARTS_MAX or size > BYTES_MAX:
            problems.append(f"{root}: at most {PARTS_MAX} parts with {BYTES_MAX} characters altogether")
            return {}
        found.setdefault(name, {})["/".join(rest)] = source
    return found


def _files(directory: Path, problems: list[str], depth: int = 1) -> Iterator[Path]:
    """All files, in the order of their names, but for hidden ones and editors' backups."""
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        problems.append(f"{directory}: cannot be read: {error.strerror}")
        return
    for path in entries:
        if path.name.startswith(".") or path.name.endswith("~"):
            continue
        if path.is_dir() and depth <= 3:
            yield from _files(path, problems, depth + 1)
        else:
            yield path


def _read(path: Path, root: Path, problems: list[str]) -> str:
    content = b""
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root.resolve()):
            problems.append(f"{path}: it is a link out of {root}; put the file itself there")
        elif not stat.S_ISREG(real.stat().st_mode):
            problems.append(f"{path}: it is no file")
        else:
            with real.open("rb") as file:
                content = file.read(SOURCE_BYTES_MAX + 1)  # one too many is told when it is checked
        return content.decode("utf-8-sig")
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(f"{path}, line {line}: it is not UTF-8")
    return ""


# --- what is put -------------------------------------------------------------------------------------------------


def _read_put(path: Path) -> dict[str, dict[str, str]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, str]])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: damaged ({error}); restore it from a backup, or delete it: then what was put is gone"
        ) from None


def put(library: Library, settings: Settings, name: str, parts: dict[str, str]) -> Library:
    """With a template that a client gives. Raises ``RequestError``."""
    if not settings.templates.allow_template_put:
        raise RequestError("unsupported", "clients cannot put templates; see allow_template_put in [templates]", "op")
    sources = _sorted({**library.sources, name: parts})
    texts = [text for one in sources.values() for text in one.values()]
    if len(texts) > PARTS_MAX or sum(map(len, texts)) > BYTES_MAX:
        told = f"of all templates there may be {PARTS_MAX} parts with {BYTES_MAX} characters"
        raise RequestError("too_large", told, "parts")
    only = None if name == LAYOUTS else name  # others use layouts
    problems = TemplateEngine(sources, settings.templates.output_bytes).problems(only)
    if problems:
        field = "name" if problems[0].part is None else f"parts.{problems[0].part}"
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise RequestError("bad_value", f"{problems[0]}{more}", field[:FIELD_MAX])
    return Library(sources, {**library.put, name: parts})


def store(data_dir: Path, library: Library) -> None:
    """Raises ``OSError``."""
    write_durably(data_dir / PUT_FILE, msgspec.json.format(msgspec.json.encode(library.put), indent=1))
