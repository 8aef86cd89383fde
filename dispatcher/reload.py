"""A change of the configuration while the service runs: what may change, and who still has to take it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dispatcher.child import Child
from dispatcher.settings import Settings, SettingsError
from shards import logs
from shards.ledger import NUMBERS
from shards.units import encode_hook
from shards.wire.notification import CHANNELS

log = logs.logger()

# Everything else takes a restart: sockets, what is in memory by number, what processes are started with.
RELOADABLE = (
    ("categories",), ("rules",), ("rate_limits",), ("caps",), ("digests",), ("schedules",), ("preferences",),
    ("templates",), ("retry",), ("priorities",), ("idempotency",), ("retention",), ("errors",), ("log", "level"),
)  # fmt: skip
# Channels are added and credentials changed without a restart. What is simulated or attached, before or after, is no
# matter of the channels' thread.
OF_CHANNELS = ("providers", "concurrency", "retry", "timeout", "on_ambiguous")
TAKEN_S = 20.0  # by every child, or it is replaced: a new one has the new settings

Source = Callable[[Sequence[str]], str]


def changed_tables(old: Settings, new: Settings, source: Source) -> list[str]:
    """The names of what differs. Raises ``SettingsError`` that names every key which takes a restart."""
    before, after = (msgspec.to_builtins(settings, enc_hook=encode_hook) for settings in (old, new))
    keys = list(_differing(before, after))
    apart = {
        name
        for one in (old, new)
        for name, channel in one.channels.items()
        if channel.is_simulated or channel.is_attached
    }
    added = after["channels"].keys() - before["channels"].keys()
    fixed = [key for key in keys if not may_change(key, apart, added)]
    if fixed:
        remedy = "it cannot change while the dispatcher runs; restart it, or set it back. Nothing was changed"
        raise SettingsError("\n".join(f"{source(key)}: {'.'.join(key)}: {remedy}" for key in fixed))
    return list(dict.fromkeys(key[0] for key in keys))


def check_channels(channels: Collection[str], knew: Collection[str], source: Source) -> None:
    """Raises ``SettingsError`` where no journal has a number for one more: ``knew`` are those that there were once."""
    count = len({*CHANNELS, *channels, *knew})
    if count > NUMBERS:
        raise SettingsError(
            f"{source(('channels',))}: channels: with these there have been {count} names of channels in this data "
            f"directory, and it takes {NUMBERS}; use names of channels that are no more. Nothing was changed"
        )


def may_change(key: tuple[str, ...], apart: Container[str], added: Container[str] = ()) -> bool:
    """Whether a key can change while the service runs; ``apart`` are the channels that are simulated or attached."""
    if key[0] == "channels":
        if len(key) == 2:
            return key[1] in added
        return len(key) > 2 and key[2] in OF_CHANNELS and not (key[2] == "providers" and key[1] in apart)
    return any(key[: len(may)] == may for may in RELOADABLE)


def _differing(before: Any, after: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        if list(before) != list(after) and sorted(before) == sorted(after):
            yield above  # the first that covers a notification counts
        for key in {**before, **after}:
            yield from _differing(before.get(key), after.get(key), (*above, key))
    elif before != after:
        yield above


class Handover:
    """The way of new settings to the children, which are started with them from now on."""

    def __init__(self, children: Iterable[Child], version: int) -> None:
        self._version = version
        self._waiting = {child: child.starts for child in children}  # who has not taken them, and which of its starts
        self._told: set[Child] = set()
        self._deadline = time.monotonic() + TAKEN_S
        for child in self._waiting:
            child.version = 0

    def step(self, now: float) -> bool:
        """Tell those that can be told; whether all have taken them."""
        for child, starts in list(self._waiting.items()):
            if child.starts != starts or not child.running or child.version == self._version:
                del self._waiting[child]
            elif now > self._deadline:
                log.warning("does not take the new configuration: replaced", child=child.name)
                child.kill("the new configuration was not taken in time")
                del self._waiting[child]
            elif child.ready and child not in self._told:
                try:
                    child.change()
                except OSError:  # a full disk: as long as there is time
                    continue
                self._told.add(child)
        return not self._waiting
