"""The configuration: defaults < file < ``DISPATCHER_*`` environment < command line, checked as one document.

Each part stands beside its owner; here they are composed, and nothing is read at import.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from shards.limiter import RateLimit
from shards.retry import RetryPolicy
from shards.rules import DEFAULT_CATEGORIES, Category, unknown
from shards.settings import Bounds, ChannelSettings, Idempotency, Priorities, Retention
from shards.units import Seconds, decode_hook, encode_hook
from shards.wire import CHANNELS

ENVIRONMENT_PREFIX = "DISPATCHER_"
SHARDS_MAX = 256


class SettingsError(Exception):
    """The configuration cannot be used: the message names the source, the key, and the remedy."""


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

    def __post_init__(self) -> None:
        if self.shards is not None and not 1 <= self.shards <= SHARDS_MAX:
            raise ValueError(f"shards is {self.shards}; it must be between 1 and {SHARDS_MAX}")
        for name in ("ingest", "submit", "stream"):
            endpoint = getattr(self, name)
            match = re.fullmatch(r"tcp://(\[[0-9a-f:]+\]|[^:/]+):(\d+|\*)", endpoint)
            if match is None and not re.fullmatch(r"ipc://.+", endpoint):
                raise ValueError(f"{name} {endpoint!r} is not like tcp://127.0.0.1:7711 or ipc:///path")
            host = match[1] if match else "localhost"
            if not (host == "localhost" or host == "[::1]" or host.startswith("127.")) and not self.insecure:
                raise ValueError(
                    f"{name} {endpoint!r} is open to other machines, without authentication; "
                    "bind it to 127.0.0.1, or set insecure = true"
                )


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the public sockets and of the router."""

    message_bytes: int = 1_048_576
    batch: int = 10_000
    window_frames: int = 16_384  # per shard, sent and not acknowledged
    window_bytes: int = 64 * 2**20
    requests: int = 10_000  # submits and operations that wait for their answer


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration, as ``config/dispatcher.toml`` lists it."""

    dispatcher: Dispatcher = Dispatcher()
    limits: Limits = Limits()
    categories: dict[str, Category] = {}
    rate_limits: dict[str, RateLimit] = msgspec.field(
        default_factory=lambda: {"email": RateLimit(rate="1000/minute", burst=1000)}
    )
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
                    raise ValueError(f"categories.{name}: {unknown('channel', channel, known)}")
        for channel in self.rate_limits:
            if channel not in known:
                raise ValueError(f"rate_limits: {unknown('channel', channel, known)}")
        for name, settings in self.channels.items():
            if name == "inapp":
                raise ValueError("channels.inapp: the in-app inbox is built in and takes no settings")
            if settings.provider is None:
                raise ValueError(f'channels.{name}: provider is missing; this version has provider = "simulated"')
        if self.retention.finished < self.idempotency.window:
            raise ValueError("retention.finished must not be below idempotency.window")


def load(
    path: Path | None, environment: Mapping[str, str], command_line: Mapping[str, Any]
) -> Settings:
    """Compose the settings; ``command_line`` is nested like the file. Raises ``SettingsError``."""
    document: dict[str, Any] = {}
    source = "the configuration"
    if path is not None:
        source = str(path)
        try:
            document = tomllib.loads(path.read_text())
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not TOML: {error}") from None
    _merge(document, _from_environment(environment))
    _merge(document, command_line)
    for name, limit in list(document.get("rate_limits", {}).items()):
        if isinstance(limit, str):
            document["rate_limits"][name] = {"rate": limit}
    try:
        return msgspec.convert(document, Settings, dec_hook=decode_hook)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {_explain(str(error), path)}") from None


def to_document(settings: Settings) -> dict[str, Any]:
    """As the file would say it, the default categories among it."""
    document: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=encode_hook)
    document["categories"] = msgspec.to_builtins({**DEFAULT_CATEGORIES, **settings.categories})
    return document


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """``DISPATCHER_SHARDS=8`` is of the table [dispatcher], ``DISPATCHER_RETRY__BASE=2s`` of [retry]."""
    document: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if len(keys) == 1:
            keys = ["dispatcher", *keys]
        table = document
        for key in keys[:-1]:
            table = table.setdefault(key, {})
        table[keys[-1]] = _scalar(text)
    return document


def _scalar(text: str) -> Any:
    """A number, a boolean or a list as TOML writes it; everything else is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(text: str, path: Path | None) -> str:
    """The decoder's words with the key in TOML's terms, its line, and the nearest known key."""
    what, _, where = text.partition(" - at `$")
    where = where.rstrip("`").lstrip(".").replace("[...]", ".*")
    if found := re.search(r"unknown field `([^`]*)`", what):
        what = unknown("key", found[1], _keys_at(where))
        where = f"{where}.{found[1]}".lstrip(".")
    line = _line_of(path, where.rsplit(".", 1)[-1])
    return f"{where or 'invalid'}: {what}{f' (line {line})' if line else ''}"


def _keys_at(where: str) -> list[str]:
    kind: Any = Settings
    for key in filter(None, where.split(".")):
        fields = {field.name: field.type for field in msgspec.structs.fields(kind)} if isinstance(kind, type) else {}
        kind = fields.get(key, kind)
        if hasattr(kind, "__args__") and not isinstance(kind, type):
            kind = kind.__args__[-1]
    return [field.name for field in msgspec.structs.fields(kind)] if isinstance(kind, type) else []


def _line_of(path: Path | None, key: str) -> int | None:
    if path is None or not key:
        return None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.match(rf"\s*\[?.*\b{re.escape(key)}\b\s*[=\]]", line):
            return number
    return None


def environment() -> Mapping[str, str]:
    return os.environ
