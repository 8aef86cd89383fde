"""The configuration: defaults < file < ``DISPATCHER_*`` environment < command line, checked as one document.

Each part stands beside its owner; here they are composed, and nothing is read at import. In the tables of names
(categories, rate_limits, channels) an entry replaces the default of its name; the others stay.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import msgspec

from shards.limiter import RateLimit
from shards.logs import LogSettings
from shards.retry import RetryPolicy
from shards.rules import DEFAULT_CATEGORIES, Category, unknown
from shards.settings import Bounds, ChannelSettings, Count, Idempotency, Priorities, Retention
from shards.units import Seconds, decode_hook, encode_hook
from shards.wire import CHANNELS

ENVIRONMENT_PREFIX = "DISPATCHER_"
SHARDS_MAX = 256
PORT_MAX = 65_535
DEFAULT_RATE_LIMITS: Mapping[str, RateLimit] = {"email": RateLimit(rate="1000/minute", burst=1000)}


class SettingsError(Exception):
    """The configuration cannot be used: the message names the source, the key, and the remedy."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a socket that is bound to ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Dispatcher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The service as a whole. ``shards`` None keeps what the data directory has, 4 in a new one."""

    shards: int | None = None
    data_dir: str = ".dispatcher"
    durability: Literal["power", "process"] = "power"
    ingest: str = "tcp://127.0.0.1:7711"
    submit: str = "tcp://127.0.0.1:7712"
    stream: str = "tcp://127.0.0.1:7713"
    insecure: bool = False  # allows other addresses than loopback
    receipt_timeout: Seconds = Seconds(5.0)
    drain: Seconds = Seconds(10.0)

    def __post_init__(self) -> None:
        if self.shards is not None and not 1 <= self.shards <= SHARDS_MAX:
            raise ValueError(f"shards is {self.shards}; it must be between 1 and {SHARDS_MAX}")
        if not self.data_dir:
            raise ValueError('data_dir is empty; "." is the current directory')
        if self.receipt_timeout <= 0:
            raise ValueError("receipt_timeout must be above 0")
        if self.drain < 0:
            raise ValueError("drain must not be below 0")
        for name in ("ingest", "submit", "stream"):
            self._check_endpoint(name, getattr(self, name))

    def _check_endpoint(self, name: str, endpoint: str) -> None:
        if re.fullmatch(r"ipc://.+", endpoint):
            return
        match = re.fullmatch(r"tcp://(\[[^\[\]]+\]|[^:/]+):(\d+|\*)", endpoint)
        if match is None or (match[2] != "*" and int(match[2]) > PORT_MAX):
            raise ValueError(f"{name} {endpoint!r} is not like tcp://127.0.0.1:7711 or ipc:///path")
        if not is_loopback(match[1].strip("[]")) and not self.insecure:
            raise ValueError(
                f"{name} {endpoint!r} is open to other machines, without authentication; "
                "bind it to 127.0.0.1, or set insecure = true"
            )


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the public sockets and of the router."""

    message_bytes: Count = 1_048_576
    batch: Count = 10_000
    window_frames: Count = 16_384  # per shard, sent and not acknowledged
    window_bytes: Count = 64 * 2**20
    requests: Count = 10_000  # submits and operations that wait for their answer


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration, as ``config/dispatcher.toml`` lists it. ``categories`` has only what differs."""

    dispatcher: Dispatcher = Dispatcher()
    log: LogSettings = LogSettings()
    limits: Limits = Limits()
    categories: dict[str, Category] = {}
    rate_limits: dict[str, RateLimit] = msgspec.field(default_factory=lambda: dict(DEFAULT_RATE_LIMITS))
    retry: RetryPolicy = RetryPolicy()
    priorities: Priorities = Priorities()
    idempotency: Idempotency = Idempotency()
    retention: Retention = Retention()
    bounds: Bounds = Bounds()
    channels: dict[str, ChannelSettings] = {}

    def __post_init__(self) -> None:
        known = {*CHANNELS, *self.channels}
        for name, category in self.categories.items():
            for channel in category.channels:
                if channel not in known:
                    raise ValueError(f"categories.{name}.channels: {unknown('channel', channel, known)}")
        for channel in self.rate_limits:
            if channel not in known:
                raise ValueError(f"rate_limits.{channel}: {unknown('channel', channel, known)}")
        for name, settings in self.channels.items():
            if name == "inapp":
                raise ValueError("channels.inapp: the in-app inbox is built in and takes no settings")
            if settings.provider is None:
                raise ValueError(f'channels.{name}: provider is missing; this version has provider = "simulated"')
        if self.retention.finished < self.idempotency.window:
            raise ValueError("retention.finished: it must not be below idempotency.window")


def load(path: Path | None, environment: Mapping[str, str], command_line: Mapping[str, Any]) -> Settings:
    """Compose the settings; ``command_line`` is nested like the file. Raises ``SettingsError``."""
    layers = _Layers(path, _read(path) if path is not None else "", environment, command_line)
    try:
        settings = msgspec.convert(layers.document, Settings, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        layers.refuse(str(error))
    differing = {
        name: category
        for name, category in settings.categories.items()
        if category != DEFAULT_CATEGORIES.get(name)  # a category as it is by default was not configured
    }
    return msgspec.structs.replace(
        settings, categories=differing, rate_limits={**DEFAULT_RATE_LIMITS, **settings.rate_limits}
    )


def to_document(settings: Settings) -> dict[str, Any]:
    """As the file would say it, the default categories among it."""
    document: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=encode_hook)
    document["categories"] = msgspec.to_builtins({**DEFAULT_CATEGORIES, **settings.categories})
    return document


def environment() -> Mapping[str, str]:
    return os.environ


class _Layers:
    """The sources of one document, kept apart so that an error can name the one that it comes from."""

    def __init__(
        self, path: Path | None, text: str, environment: Mapping[str, str], command_line: Mapping[str, Any]
    ) -> None:
        self._path = path
        self._text = text
        self._command_line = command_line
        try:
            self.document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}: not TOML: {error}") from None
        self._environment = {
            _keys_of(name): (name, value)
            for name, value in environment.items()
            if name.startswith(ENVIRONMENT_PREFIX) and len(name) > len(ENVIRONMENT_PREFIX)
        }
        for keys, (name, value) in self._environment.items():
            self._set(keys, name, _scalar(value))
        _merge(self.document, command_line)
        limits = self.document.get("rate_limits")
        if isinstance(limits, dict):  # "1000/minute" alone will do
            limits.update({name: {"rate": limit} for name, limit in limits.items() if isinstance(limit, str)})

    def _set(self, keys: Sequence[str], name: str, value: Any) -> None:
        table = self.document
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise SettingsError(f"{name}: {key} is not a table, it has no {keys[-1]}")
        table[keys[-1]] = value

    def refuse(self, text: str) -> NoReturn:
        """Raise the decoder's words as ``SettingsError``: with source, line, key in TOML's terms, nearest known key."""
        what, _, where = text.replace("`object`", "`table`").partition(" - at `$")
        keys = list(self._locate(re.findall(r"[^.\[\]`]+|\[\.\.\.\]", where)))
        if found := re.search(r"unknown field `([^`]*)`", what):
            what = unknown("key", found[1], _fields(_kind_at(keys)))
            keys.append(found[1])
        elif found := re.search(r"missing required field `([^`]*)`", what):
            what = f"{found[1]} is missing"
        elif what.startswith("Invalid enum value"):
            what += f"; known: {', '.join(_choices(_kind_at(keys)))}"
        elif (named := re.match(r"([a-z_]+(?:\.[\w-]+)*)(: )?", what)) and named[1].split(".")[0] in _fields(
            _kind_at(keys)
        ):
            keys += named[1].split(".")
            what = what[named.end() :] if named[2] else what
        raise SettingsError(f"{self._source(keys)}: {'.'.join(keys) or 'invalid'}: {what}")

    def _locate(self, where: Sequence[str]) -> Iterator[str]:
        """The keys of a decoder's path, which says ``[...]`` for an entry of a table of names."""
        value: Any = self.document
        kind: Any = Settings
        for step in where:
            if not isinstance(value, dict):
                return
            key = step
            if step == "[...]":
                kind = get_args(kind)[-1]
                key = next((name for name in value if not _is_valid(value[name], kind)), "*")
            else:
                kind = _fields(kind).get(step)
            yield key
            value = value.get(key)

    def _source(self, keys: Sequence[str]) -> str:
        if _has(self._command_line, keys):
            return "the command line"
        for set_keys, (name, _) in self._environment.items():
            if list(set_keys) == list(keys[: len(set_keys)]):
                return name
        if self._path is None:
            return "the configuration"
        line = line_of(self._text, keys)
        return f"{self._path}, line {line}" if line else str(self._path)


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """The line of a TOML text that sets ``keys``, or that opens the innermost table around them."""
    found, depth = None, 0
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = set_here = _split(header[1])
        elif assignment := re.match(r"\s*([\w.\"' -]+?)\s*=", line):
            set_here = [*table, *_split(assignment[1])]
        else:
            continue
        if len(set_here) > depth and set_here == list(keys[: len(set_here)]):
            found, depth = number, len(set_here)
    return found


def _split(dotted: str) -> list[str]:
    return [key.strip().strip("\"'") for key in dotted.split(".")]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _has(document: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(document, Mapping) or key not in document:
            return False
        document = document[key]
    return bool(keys)


def _keys_of(variable: str) -> tuple[str, ...]:
    """``DISPATCHER_SHARDS`` is of the table [dispatcher], ``DISPATCHER_RETRY__BASE`` of [retry]."""
    keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
    return ("dispatcher", *keys) if len(keys) == 1 else tuple(keys)


def _scalar(text: str) -> Any:
    """A number, a boolean, a list or an inline table as TOML writes it; everything else is text."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if len(document) == 1 else text


def _kind_at(keys: Sequence[str]) -> Any:
    kind: Any = Settings
    for key in keys:
        kind = get_args(kind)[-1] if get_origin(kind) is dict else _fields(kind).get(key)
    return kind


def _fields(kind: Any) -> dict[str, Any]:
    """The keys of a table and their types."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {field.name: field.type for field in msgspec.structs.fields(kind)}
    return {}


def _choices(kind: Any) -> list[str]:
    """The texts that a ``Literal`` allows, an optional one as well."""
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [choice for part in get_args(kind) for choice in _choices(part)]


def _is_valid(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, dec_hook=decode_hook)
    except msgspec.ValidationError:
        return False
    return True
