"""The tables of [channels]: what every channel has, and the options of its providers, each checked by its class.

`[channels.sms]` with `provider` and its options is the short form of `[[channels.sms.providers]]` with one table. Where
there are several, the first that works is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dispatcher.decoding import explain, fields
from shards import options, units
from shards.channels import registry
from shards.hidden import ELSEWHERE, HIDDEN, Secret
from shards.rules import Category, RuleSettings, is_default
from shards.settings import ATTACHED, SIMULATED, ChannelSettings, ProviderSettings

OWN = ("provider", "class")
COMMON = tuple(name for name in fields(ChannelSettings) if name != "providers")
_OF_THE_CHANNEL = {(name,) for name in COMMON}
ALONE = {SIMULATED: "it is for tests", ATTACHED: "its workers share what is for it"}

PLACEHOLDER = re.compile(r"\{\w+\}")  # as in "Bearer {key}": the secret itself is elsewhere

Keys = tuple[str, ...]


def gather(document: dict[str, Any], is_open_file: Callable[[Keys], bool]) -> Iterator[tuple[Keys, str]]:
    """Bring the channels' tables into the form of ``ChannelSettings``; what is wrong with their options, by key.

    ``is_open_file`` says whether a key's value stands where others can read it.
    """
    channels = document.get("channels")
    if not isinstance(channels, dict):
        return
    for name, table in list(channels.items()):
        at = ("channels", name)
        if name == "inapp":
            yield at, "the in-app inbox is built in and takes no settings"
            del channels[name]
            continue
        if not isinstance(table, dict):
            continue
        common = {key: value for key, value in table.items() if key in COMMON}
        inline = {key: value for key, value in table.items() if key not in COMMON and key != "providers"}
        listed = table.get("providers")
        places: list[Keys]
        if listed is None:
            listed, places = [inline], [at]
        elif not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
            yield (*at, "providers"), "it is a list of at least one table, each with provider and its options"
            listed, places = [], []
        else:
            places = [(*at, "providers", str(number)) for number in range(len(listed))]
            if inline:
                yield (
                    (*at, next(iter(inline))),
                    f"it belongs into one of the [[channels.{name}.providers]]",
                )
        providers = []
        for one, place in zip(listed, places, strict=True):
            provider, wrong = _provider(name, one, place, is_open_file)
            yield from wrong
            if provider is not None:
                providers.append(provider)
        if len(providers) > 1:
            for provider in {one["provider"] for one in providers} & ALONE.keys():
                yield (*at, "providers"), f"{provider} stands alone: {ALONE[provider]}"
        channels[name] = {**_fitting(providers), **common, "providers": providers}


def _fitting(providers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the first provider likes to have where nobody says otherwise: its ``Settings`` may have ``fitting``."""
    if not providers:
        return {}
    first = providers[0]
    try:
        read = options.read(registry.find(first["provider"], first["path"]), first["options"])
    except msgspec.ValidationError:  # which is told
        return {}
    found: Mapping[str, Any] = getattr(read, "fitting", {})
    return found


def _provider(
    channel: str, table: Mapping[str, Any], at: Keys, is_open_file: Callable[[Keys], bool]
) -> tuple[dict[str, Any] | None, list[tuple[Keys, str]]]:
    given = {key: value for key, value in table.items() if key not in OWN}
    path = table.get("class", "")
    provider = table.get("provider", "" if path else registry.BY_DEFAULT.get(channel))
    if not isinstance(path, str):
        return None, [((*at, "class"), 'it is not like "package.module:Class"')]
    if not isinstance(provider, str):
        names = ", ".join(sorted(registry.PROVIDERS))
        return None, [((*at, "provider"), f'it is missing, or no text; known: {names}; or give class = "module:Class"')]
    try:
        kind = registry.find(provider, path)
    except registry.UnknownChannelError as error:
        return None, [((*at, "class" if path else "provider"), str(error))]
    found = list(_check(kind, given, at, is_open_file, provider or path))
    return {"provider": provider, "path": path, "options": given}, found


def _check(
    kind: type[Any], given: dict[str, Any], at: Keys, is_open_file: Callable[[Keys], bool], provider: str
) -> Iterator[tuple[Keys, str]]:
    """What is wrong with a provider's options; a key that is refused is left out to find the next.

    Of a text within a table the name stays, with another text: that a placeholder is not known would mislead.
    """
    told: set[Keys] = set()
    for keys in _literal_secrets(given, getattr(kind, "Settings", None)):
        if is_open_file((*at, *keys)):
            yield (
                (*at, *keys),
                "a secret stands in a file that others can read; run chmod 600 on it, or name a file by file:PATH",
            )
    rest: Mapping[str, Any] = given
    while True:
        try:
            options.read(kind, rest)
        except msgspec.ValidationError as error:
            keys, what = explain(str(error), rest, kind.Settings, COMMON)
            if keys in _OF_THE_CHANNEL and keys[0] not in fields(kind.Settings):
                what = f"it is the same for all providers, and belongs into [channels.{at[1]}]"
            is_given = bool(keys) and keys[0] in rest
            if keys not in told and (is_given or not told):  # what is missing now may have been left out here
                yield (
                    (*at, *keys),
                    what if is_given or not what.endswith("missing") else f"{what}, which {provider} needs",
                )
            if not is_given:
                return
            rest = _without(rest, keys, wholly=keys in told)
            told.add(keys)
        else:
            return


def _without(options: Mapping[str, Any], keys: Keys, *, wholly: bool) -> dict[str, Any]:
    """Without what ``keys`` name, or with another text for it."""
    inner = options[keys[0]]
    if len(keys) == 2 and not wholly and isinstance(inner, dict) and isinstance(inner.get(keys[1]), str):
        return {**options, keys[0]: {**inner, keys[1]: "-"}}
    return {key: value for key, value in options.items() if key != keys[0]}


def _literal_secrets(given: Any, kind: Any, above: Keys = ()) -> Iterator[Keys]:
    """The keys of secrets that stand in the configuration itself."""
    if isinstance(given, str):
        if Secret in _parts(kind) and not (given.startswith(ELSEWHERE) or PLACEHOLDER.search(given)):
            yield above
        return
    if isinstance(given, list):
        if any(True for one in given for _ in _literal_secrets(one, kind)):
            yield above
        return
    if not isinstance(given, Mapping):
        return
    known = fields(kind)
    for key, value in given.items():
        yield from _literal_secrets(value, known.get(key, kind if not known else None), (*above, key))


def _parts(kind: Any) -> Iterator[Any]:
    """A type, and what it is composed of: of a union its choices, of a table of names its values."""
    yield kind
    for part in getattr(kind, "__args__", ()):
        yield from _parts(part)


def without_unsubscribe(
    channels: Mapping[str, ChannelSettings], categories: Mapping[str, Category]
) -> Iterator[tuple[str, str]]:
    """Categories whose e-mails are to say how to unsubscribe, each with the key that is not set for it."""
    for channel, one in channels.items():
        if any(getattr(_read(provider), "unsubscribe_url", None) == "" for provider in one.providers):
            for name, category in categories.items():
                if category.unsubscribable:
                    yield name, f"channels.{channel}.unsubscribe_url"


def without_table(
    channels: Mapping[str, ChannelSettings], categories: Mapping[str, Category], rules: Sequence[RuleSettings]
) -> Iterator[tuple[str, str]]:
    """Channels that the configuration routes to and has no table for, each with the key that names it.

    What is for one is a dead letter. What the default routing names is suppressed instead, and not told here.
    """
    routes = {
        f"categories.{name}.channels": one.channels for name, one in categories.items() if not is_default(name, one)
    }
    routes |= {f"rules.{at}.channels": one.channels or () for at, one in enumerate(rules)}
    for key, named in routes.items():
        for channel in named:
            if channel != "inapp" and channel not in channels:
                yield key, channel


def to_document(channel: ChannelSettings, common: dict[str, Any]) -> dict[str, Any]:
    """As the file would say it, with the providers' defaults; secrets are hidden."""
    providers = [_shown(provider) for provider in channel.providers]
    common = {key: value for key, value in common.items() if key != "providers"}
    return {**providers[0], **common} if len(providers) == 1 else {**common, "providers": providers}


def _shown(provider: ProviderSettings) -> dict[str, Any]:
    named = {"class": provider.path} if provider.path else {"provider": provider.provider}
    shown = msgspec.to_builtins(_read(provider), enc_hook=_encode)
    return {**named, **shown}


def _read(provider: ProviderSettings) -> Any:
    return options.read(registry.find(provider.provider, provider.path), provider.options)


def _encode(value: object) -> Any:
    return HIDDEN if isinstance(value, Secret) else units.encode_hook(value)
