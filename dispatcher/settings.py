"""The configuration: defaults < file < ``DISPATCHER_*`` environment < command line, checked as one document.

Each part stands beside its owner; here they are composed, and nothing is read at import. In the tables of names
(categories, rate_limits, channels) an entry replaces the default of its name; the others stay.
"""

from __future__ import annotations

import copy
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from dispatcher import channel_options
from dispatcher.curve import CurveSettings
from dispatcher.decoding import explain
from dispatcher.endpoints import is_local
from dispatcher.places import line_of
from shards.answers import TABLES, ErrorClass
from shards.caps import CapSettings
from shards.digests import DigestSettings
from shards.limiter import RateLimit
from shards.logs import LogSettings
from shards.nearest import unknown
from shards.retry import RetryPolicy
from shards.rules import DEFAULT_CATEGORIES, RULES_MAX, Category, PlacedRule, RuleSettings
from shards.settings import (
    Bounds,
    ChannelSettings,
    Count,
    Idempotency,
    PreferenceSettings,
    Priorities,
    Retention,
    Schedules,
    TemplateSettings,
)
from shards.units import Seconds, decode_hook, encode_hook
from shards.wire.link import POSITIONS_MAX
from shards.wire.notification import CHANNELS
from shards.wire.requests import MESSAGE_BYTES_HARD_MAX

ENVIRONMENT_PREFIX = "DISPATCHER_"
SHARDS_MAX = 256
CHANNELS_MAX = 200  # a journal has numbers for 256, those that were configured once among them
PORT_MAX = 65_535
PUBLIC = ("ingest", "submit", "stream")
DEFAULT_RATE_LIMITS: Mapping[str, RateLimit] = {"email": RateLimit(rate="1000/minute", burst=1000)}


class SettingsError(Exception):
    """The configuration cannot be used: a line per problem names the source, the key, and the remedy."""


class Dispatcher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The service as a whole. ``shards`` None keeps what the data directory has, 4 in a new one."""

    shards: int | None = None
    data_dir: str = ".dispatcher"
    durability: Literal["power", "process"] = "power"
    ingest: str = "tcp://127.0.0.1:7711"
    submit: str = "tcp://127.0.0.1:7712"
    stream: str = "tcp://127.0.0.1:7713"
    insecure: bool = False  # allows other addresses than loopback without [curve]
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
        for name in PUBLIC:
            self._check_endpoint(name, getattr(self, name))

    def _check_endpoint(self, name: str, endpoint: str) -> None:
        if re.fullmatch(r"ipc://.+", endpoint):
            return
        match = re.fullmatch(r"tcp://(\[[^\[\]]+\]|[^:/]+):(\d+|\*)", endpoint)
        if match is None or (match[2] != "*" and int(match[2]) > PORT_MAX):
            raise ValueError(f"{name} {endpoint!r} is not like tcp://127.0.0.1:7711 or ipc:///path")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the public sockets and of the router."""

    message_bytes: Annotated[int, msgspec.Meta(ge=1, le=MESSAGE_BYTES_HARD_MAX)] = 1_048_576
    batch: Annotated[int, msgspec.Meta(ge=1, le=POSITIONS_MAX)] = 10_000
    fanout_bytes: Count = 64 * 2**20  # of a message, each notification once for each of its recipients
    window_frames: Count = 16_384  # per shard, sent and not acknowledged
    window_bytes: Count = 64 * 2**20
    requests: Count = 10_000  # submits and operations that wait for their answer


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration, as ``config/dispatcher.toml`` lists it. ``categories`` has only what differs."""

    dispatcher: Dispatcher = Dispatcher()
    log: LogSettings = LogSettings()
    curve: CurveSettings = CurveSettings()
    limits: Limits = Limits()
    categories: dict[str, Category] = {}
    rules: tuple[RuleSettings, ...] = ()
    rate_limits: dict[str, RateLimit] = msgspec.field(default_factory=lambda: dict(DEFAULT_RATE_LIMITS))
    caps: dict[str, CapSettings] = {}
    digests: dict[str, DigestSettings] = {}
    templates: TemplateSettings = TemplateSettings()
    schedules: Schedules = Schedules()
    preferences: PreferenceSettings = PreferenceSettings()
    retry: RetryPolicy = RetryPolicy()
    priorities: Priorities = Priorities()
    idempotency: Idempotency = Idempotency()
    retention: Retention = Retention()
    bounds: Bounds = Bounds()
    channels: dict[str, ChannelSettings] = {}
    errors: dict[str, dict[str, ErrorClass]] = {}

    def __post_init__(self) -> None:
        for name in PUBLIC:
            endpoint = getattr(self.dispatcher, name)
            if not is_local(endpoint) and not self.curve.secret_key and not self.dispatcher.insecure:
                raise ValueError(
                    f"dispatcher.{name}: {endpoint!r} is open to other machines, without authentication; "
                    "bind it to 127.0.0.1, give it keys ([curve] secret_key), or set insecure = true"
                )
        if len(self.channels) > CHANNELS_MAX:
            raise ValueError(f"channels: there are {len(self.channels)}; at most {CHANNELS_MAX}")
        known = {*CHANNELS, *self.channels}
        for name, category in self.categories.items():
            for channel in category.channels:
                if channel not in known:
                    raise ValueError(f"categories.{name}.channels: {unknown('channel', channel, known)}")
        self._check_rules(known)
        for channel, limit in self.rate_limits.items():
            if channel not in known:
                raise ValueError(f"rate_limits.{channel}: {unknown('channel', channel, known)}")
            if limit.overflow == channel == "inapp":
                raise ValueError('rate_limits.inapp.overflow: it is of the inbox itself; use "drop" or "delay"')
            if limit.overflow == "digest" and not self._has_digest(channel):
                raise ValueError(
                    f'rate_limits.{channel}.overflow: no [digests.*] with when = "overflow" covers {channel}; '
                    'add one, or use "delay"'
                )
        categories = {*DEFAULT_CATEGORIES, *self.categories}
        covering: dict[str, CapSettings | DigestSettings] = {
            **{f"caps.{name}": cap for name, cap in self.caps.items()},
            **{f"digests.{name}": digest for name, digest in self.digests.items()},
        }
        for name, one in covering.items():
            for named in one.categories:
                if named not in categories:
                    raise ValueError(f"{name}.categories: {unknown('category', named, categories)}")
            for channel in one.channels:
                if channel not in known:
                    raise ValueError(f"{name}.channels: {unknown('channel', channel, known)}")
        for service in self.errors:
            if service not in TABLES:
                raise ValueError(f"errors.{service}: {unknown('service', service, TABLES)}")
        if self.retention.finished < self.idempotency.window:
            raise ValueError("retention.finished: it must not be below idempotency.window")

    def _has_digest(self, channel: str) -> bool:
        covering = (one for one in self.digests.values() if one.when == "overflow")
        return any(not one.channels or channel in one.channels for one in covering)

    def _check_rules(self, channels: Collection[str]) -> None:
        if len(self.rules) > RULES_MAX:
            raise ValueError(f"rules: there are {len(self.rules)}; at most {RULES_MAX}")
        categories = {*DEFAULT_CATEGORIES, *self.categories}
        names: set[str] = set()
        for at, rule in enumerate(self.rules):
            if rule.name in names:
                raise ValueError(f"rules.{at}.name: {rule.name!r} is the name of a rule above; each has its own")
            names.add(rule.name)
            for name in rule.categories or ():
                if name not in categories:
                    raise ValueError(f"rules.{at}.categories: {unknown('category', name, categories)}")
            for name in rule.channels or ():
                if name not in channels:
                    raise ValueError(f"rules.{at}.channels: {unknown('channel', name, channels)}")


def load(
    path: Path | None,
    environment: Mapping[str, str],
    command_line: Mapping[str, Any],
    tables: Collection[str] | None = None,
) -> Settings:
    """Compose the settings; ``command_line`` is nested like the file. Raises ``SettingsError``.

    With ``tables`` no other ones are read: who only asks a dispatcher need not have the secrets of its channels.
    """
    return load_with_sources(path, environment, command_line, tables)[0]


def load_with_sources(
    path: Path | None,
    environment: Mapping[str, str],
    command_line: Mapping[str, Any],
    tables: Collection[str] | None = None,
) -> tuple[Settings, Callable[[Sequence[str]], str]]:
    """``load``, and what tells where the value of a key comes from."""
    layers = _Layers(path, _read(path) if path is not None else "", environment, command_line)
    if tables is not None:
        layers.document = {name: table for name, table in layers.document.items() if name in tables}
    settings = layers.settings()
    differing = {
        name: category
        for name, category in settings.categories.items()
        if category != DEFAULT_CATEGORIES.get(name)  # a category as it is by default was not configured
    }
    limits = {**DEFAULT_RATE_LIMITS, **settings.rate_limits}
    rules = tuple(
        PlacedRule(**msgspec.structs.asdict(rule), line=layers.line(("rules", str(at), "name")))
        for at, rule in enumerate(settings.rules)
    )
    templates = settings.templates
    if templates.directory and path is not None:  # beside the file, wherever the service is started
        found = str(path.absolute().parent / templates.directory)
        templates = msgspec.structs.replace(templates, directory=found)
    return (
        msgspec.structs.replace(settings, categories=differing, rate_limits=limits, rules=rules, templates=templates),
        layers.origin,
    )


def to_document(settings: Settings) -> dict[str, Any]:
    """As the file would say it, the default categories among it."""
    document: dict[str, Any] = msgspec.to_builtins(settings, enc_hook=encode_hook)
    document["categories"] = msgspec.to_builtins({**DEFAULT_CATEGORIES, **settings.categories})
    for rule in document["rules"]:
        rule.pop("line", None)
    document["channels"] = {
        name: channel_options.to_document(channel, document["channels"][name])
        for name, channel in settings.channels.items()
    }
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
            self._file = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}: not TOML: {error}") from None
        except RecursionError:
            raise SettingsError(f"{path}: nested too deeply") from None
        self.document = copy.deepcopy(self._file)
        self._channels: Any = None  # as they were written
        self._environment = {
            _keys_of(name): (name, value)
            for name, value in environment.items()
            if name.startswith(ENVIRONMENT_PREFIX) and len(name) > len(ENVIRONMENT_PREFIX)
        }
        for keys, (name, value) in self._environment.items():
            try:
                f"{name}{value}".encode()
            except UnicodeEncodeError:
                raise SettingsError(f"{name!a}: its value is not UTF-8") from None
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

    def settings(self) -> Settings:
        """The document, checked. A key that is refused is left out to find the next, and all are told."""
        told: dict[tuple[str, ...], str] = {}
        self._channels = copy.deepcopy(self.document.get("channels"))
        for keys, what in channel_options.gather(self.document, self._is_open_file):
            told[keys] = self._tell(keys, what)
        if unfounded := list(self._extend()):  # what such a category has is not known, so the rest would mislead
            raise SettingsError("\n".join(self._tell(keys, what) for keys, what in unfounded))
        while True:
            try:
                settings = msgspec.convert(self.document, Settings, dec_hook=decode_hook)
            except msgspec.ValidationError as error:
                keys, what = explain(str(error), self.document, Settings)
                if any(before[: len(keys)] == keys for before in told):
                    break  # it follows from what was left out
                told[keys] = self._tell(keys, what)
                # of a list nothing is left: what is behind a place that is left out would be told by wrong numbers
                dropped = keys[:-1] if keys and keys[-1].isdigit() else keys
                if not _drop(self.document, dropped):
                    break
            else:
                if not told:
                    return settings
                break
        raise SettingsError("\n".join(told.values()))

    def _tell(self, keys: Sequence[str], what: str) -> str:
        return f"{self._source(keys)}: {'.'.join(keys) or 'invalid'}: {what}"

    def _extend(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Give each category what it takes from the one that it extends; where that cannot be: the key, and why."""
        tables = self.document.get("categories")
        if not isinstance(tables, dict):
            return
        known = {**msgspec.to_builtins(DEFAULT_CATEGORIES), **tables}
        in_cycles: set[str] = set()
        for name in tables:
            chain = [name]
            while base := _extended(known[chain[-1]]):
                keys = ("categories", chain[-1], "extends")
                if base in chain:
                    if not in_cycles.intersection(chain):
                        yield keys, f"it goes round in a circle: {' -> '.join([*chain[chain.index(base) :], base])}"
                    in_cycles.update(chain)
                    break
                if base not in known:
                    if len(chain) == 1:
                        yield keys, unknown("category", base, known)
                    break
                chain.append(base)
            else:
                if len(chain) > 1:
                    tables[name] = {key: value for one in reversed(chain) for key, value in known[one].items()}

    def _is_open_file(self, keys: Sequence[str]) -> bool:
        """Whether a key's value stands in a file that others than its owner can read."""
        if self._path is None or not _has(self._file, keys) or _has(self._command_line, keys):
            return False
        return bool(self._path.stat().st_mode & 0o077) and not any(
            set_keys == tuple(keys)[: len(set_keys)] for set_keys in self._environment
        )

    def origin(self, keys: Sequence[str]) -> str:
        """Where the value of a key comes from."""
        written = {**self.document, "channels": self._channels}
        return self._source(keys) if _has(written, keys) else "default"

    def _source(self, keys: Sequence[str]) -> str:
        """Who set a key; for a table that nobody set as a whole, who set something in it."""
        keys = tuple(keys)
        if _has(self._command_line, keys):
            return "the command line"
        for set_keys, (name, _) in self._environment.items():
            if set_keys == keys[: len(set_keys)] or (set_keys[: len(keys)] == keys and not _has(self._file, keys)):
                return name
        if self._path is None:
            return "the configuration"
        line = self.line(keys)
        return f"{self._path}, line {line}" if line else str(self._path)

    def line(self, keys: Sequence[str]) -> int | None:
        """Where the file sets a key, if it does."""
        return line_of(self._text, keys)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
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


def _drop(document: Any, keys: Sequence[str]) -> bool:
    """Leave out a key; whether it was there."""
    table = _at(document, keys[:-1])
    if not isinstance(table, dict) or keys[-1] not in table:
        return False
    del table[keys[-1]]
    return True


def _has(document: Any, keys: Sequence[str]) -> bool:
    return bool(keys) and _at(document, keys) is not None


def _at(document: Any, keys: Sequence[str]) -> Any:
    """The value of a key, which is a number in a list; None if there is none."""
    for key in keys:
        if isinstance(document, Mapping):
            document = document.get(key)
        elif isinstance(document, list) and key.isdigit() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document


def _extended(table: Any) -> str:
    """What a category extends; empty for nothing, and for what its decoder will refuse."""
    base = table.get("extends") if isinstance(table, dict) else None
    return base if isinstance(base, str) else ""


def _keys_of(variable: str) -> tuple[str, ...]:
    """``DISPATCHER_SHARDS`` is of the table [dispatcher], ``DISPATCHER_RETRY__BASE`` of [retry]."""
    keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
    return ("dispatcher", *keys) if len(keys) == 1 else tuple(keys)


def _scalar(text: str) -> Any:
    """A number, a boolean, a list or an inline table as TOML writes it; everything else is text."""
    try:
        document = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text
