"""Files of users, in JSON Lines or CSV: each line is a user's document, or is refused by itself, with its number."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from shards.contacts import PUSH_PROVIDERS
from shards.nearest import unknown
from shards.preferences import DOCUMENT_BYTES_MAX
from shards.validation import check_user_id
from shards.wire.errors import RequestError

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
LIST_SEPARATOR = "|"  # within a cell
DELIMITERS = ",;\t"  # spreadsheets choose by their language
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
PLACES: dict[str, tuple[str, ...]] = {  # columns of text, and where it goes in the document
    "email": ("contacts", "email"),
    "phone": ("contacts", "phone"),
    "webhook_url": ("contacts", "webhook", "url"),
    "webhook_secret": ("contacts", "webhook", "secret"),
    "timezone": ("timezone",),
    "locale": ("locale",),
    "quiet_start": ("preferences", "quiet_hours", "start"),
    "quiet_end": ("preferences", "quiet_hours", "end"),
}
LISTS: dict[str, tuple[str, ...]] = {
    "topics": ("preferences", "topics"),
    "quiet_days": ("preferences", "quiet_hours", "days"),
}
PUSH_COLUMNS = tuple(f"push.{provider}" for provider in PUSH_PROVIDERS)
COLUMNS = ("user_id", *PLACES, *LISTS, *PUSH_COLUMNS, "channels.NAME", "categories.NAME", "categories.NAME.CHANNEL")
EXAMPLE = '{"user_id": "ada", "user": {"contacts": {"email": "ada@example.org"}}}'


class Row(NamedTuple):
    """A user's document as it was read: its keys and values are not checked yet."""

    line: int
    user_id: str
    user: dict[str, Any]


class Problem(NamedTuple):
    """What is wrong with a line; ``code`` is one of the protocol's."""

    line: int
    field: str | None
    code: str
    message: str


class HeaderError(Exception):
    """The first line of a CSV file does not say what its columns are."""


def read(lines: Iterable[bytes], kind: str) -> Iterator[Row | Problem]:
    """Rows and problems in the file's order; ``kind`` is one of ``FORMATS``. Empty lines are passed over.

    ``HeaderError``, before any row, if the columns of a CSV file are not known.
    """
    found = _read_json(lines) if kind == "jsonl" else _read_csv(lines)
    for line, given in found:
        try:
            if isinstance(given, RequestError):
                raise given
            yield Row(line, *_addressed(given))
        except RequestError as error:
            yield Problem(line, error.error.field, error.error.code, error.error.message)


def _addressed(given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The user id and the document; the document stands under ``user``, or its keys stand beside ``user_id``."""
    user_id, user = given.pop("user_id", None), given.pop("user", given)
    if user_id is None:
        raise RequestError("bad_value", f"it is missing; a line is like {EXAMPLE}", "user_id")
    if not isinstance(user_id, str):
        raise RequestError("bad_value", f"it is not text; a line is like {EXAMPLE}", "user_id")
    check_user_id(user_id)
    if user is not given and given:
        stranger = next(iter(given))[:80]
        raise RequestError("unknown_key", "it is beside user, which is to have the whole document", stranger)
    if not isinstance(user, dict):
        raise RequestError("bad_value", f"it is not a map; a line is like {EXAMPLE}", "user")
    try:
        size = len(msgspec.msgpack.encode(user))
    except OverflowError:
        raise RequestError("bad_value", "a number in it has more than 64 bits", "user") from None
    if size > DOCUMENT_BYTES_MAX:
        raise RequestError("too_large", f"the document is over {DOCUMENT_BYTES_MAX} bytes", "user")
    return user_id, user


def _read_json(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | RequestError]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for number, line in enumerate(_without_mark(lines), 1):
        if line.strip():
            try:
                yield number, decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield number, RequestError("bad_encoding", f"not a JSON object in UTF-8: {error}")


def _without_mark(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines without the byte order mark that some programs put at the beginning."""
    for number, line in enumerate(lines):
        yield line.removeprefix(codecs.BOM_UTF8) if number == 0 else line


# --- CSV ----------------------------------------------------------------------------------------------------------

Set = Callable[[dict[str, Any], str], None]  # puts a cell that is not empty into a document


def _read_csv(lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any] | RequestError]]:
    # What is not UTF-8 stays recognisable, so that a cell that spans lines is refused as a whole.
    texts = (line.decode("utf-8", "surrogateescape") for line in _without_mark(lines))
    header_at, first = next(((at, text) for at, text in enumerate(texts, 1) if text.strip()), (1, ""))
    try:
        setters = _columns(first)
    except HeaderError as error:
        raise HeaderError(f"line {header_at}: {error}") from None
    reader = csv.reader(texts, delimiter=_delimiter(first), strict=True)
    while True:
        number = header_at + reader.line_num + 1  # where the next record begins
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield number, RequestError("bad_encoding", f"not CSV: {error}; a quote within quotes is doubled")
            continue
        if cells is None:
            return
        if any(cells):
            yield number, _document(cells, setters)


def _delimiter(header: str) -> str:
    return max(DELIMITERS, key=header.count)


def _document(cells: Sequence[str], setters: Sequence[tuple[str, Set]]) -> dict[str, Any] | RequestError:
    if len(cells) != len(setters):
        return RequestError("bad_encoding", f"it has {len(cells)} cells, and the header {len(setters)} columns")
    document: dict[str, Any] = {}
    for (name, put), cell in zip(setters, map(str.strip, cells), strict=True):
        if not cell:
            continue
        if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
            return RequestError("bad_encoding", "it is not UTF-8; save the file in that encoding", name)
        try:
            put(document, cell)
        except ValueError as error:
            return RequestError("bad_value", str(error), name)
    return document


def _columns(header: str) -> list[tuple[str, Set]]:
    """What each column does with its cells."""
    try:
        names = [name.strip() for name in next(csv.reader([header], delimiter=_delimiter(header), strict=True), [])]
    except csv.Error as error:
        raise HeaderError(f"not CSV: {error}") from None
    if "user_id" not in names:
        raise HeaderError(f"there is no column user_id; the columns are {', '.join(COLUMNS)}")
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise HeaderError(f"the column {repeated!r} is there twice")
    return [(name, _column(name)) for name in names]


def _column(name: str) -> Set:
    kind, _, rest = name.partition(".")
    if name in PLACES:
        return lambda document, cell: _put(document, PLACES[name], cell)
    if name in LISTS:
        return lambda document, cell: _put(document, LISTS[name], _list(cell))
    if name in PUSH_COLUMNS:
        return lambda document, cell: _add_devices(document, rest, _list(cell))
    if kind == "channels" and rest:
        return lambda document, cell: _put(document, ("preferences", "channels", rest), _flag(cell))
    if kind == "categories" and rest:
        category, _, channel = rest.partition(".")
        return lambda document, cell: _choose(document, category, channel, _flag(cell))
    if name == "user_id":
        return lambda document, cell: _put(document, ("user_id",), cell)
    raise HeaderError(f"{unknown('column', name, COLUMNS)}")


def _put(document: dict[str, Any], place: Sequence[str], value: Any) -> None:
    for key in place[:-1]:
        document = document.setdefault(key, {})
    document[place[-1]] = value


def _list(cell: str) -> list[str]:
    return [item.strip() for item in cell.split(LIST_SEPARATOR)]


def _flag(cell: str) -> bool:
    word = cell.lower()
    if word not in TRUE + FALSE:
        raise ValueError(f"{cell[:80]!r} is not true or false")
    return word in TRUE


def _add_devices(document: dict[str, Any], provider: str, tokens: Iterable[str]) -> None:
    devices = document.setdefault("contacts", {}).setdefault("push", [])
    devices.extend({"provider": provider, "token": token} for token in tokens)


def _choose(document: dict[str, Any], category: str, channel: str, allowed: bool) -> None:
    """A category that is off is off on all its channels, whatever their columns say."""
    chosen = document.setdefault("preferences", {}).setdefault("categories", {})
    if not channel:
        chosen[category] = chosen.get(category, True) if allowed else False
    elif chosen.get(category) is not False:
        if not isinstance(chosen.get(category), dict):
            chosen[category] = {}
        chosen[category][channel] = allowed
