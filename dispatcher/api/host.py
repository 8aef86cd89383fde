"""Where a service's dispatcher is: one that runs elsewhere, or one of its own."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dispatcher.api.arguments import integer, path, seconds
from dispatcher.api.remote import Remote

if TYPE_CHECKING:
    from dispatcher.api.engine import Engine
    from dispatcher.curve import ClientKeys

SHARDS_MAX = 256
Path = str | os.PathLike[str]


class Host(Protocol):
    """What a service has of either."""

    @property
    def submit(self) -> str: ...
    @property
    def stream(self) -> str: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def is_shut_down(self) -> bool: ...

    @property
    def own_channels(self) -> Collection[str] | None:
        """Those of an embedded dispatcher's configuration, and not registered ones; None of one elsewhere."""

    @property
    def kept_channels(self) -> dict[str, dict[str, Any]]: ...

    def keep_channels(self, channels: dict[str, dict[str, Any]]) -> None: ...

    def shutdown(self, timeout_s: float) -> None: ...

    def abandon(self) -> None:
        """Shut down, and wait for nothing."""


def host(
    data_dir: Path | None,
    config: Path | Mapping[str, Any] | None,
    shards: int | None,
    durability: str | None,
    submit: str | None,
    stream: str | None,
    keys: ClientKeys | None,
    timeout_s: float,
    max_pending: int,
) -> Host:
    """The arguments of ``NotificationService``."""
    seconds("timeout", timeout_s, above_0=True)
    integer("max_pending", max_pending, 1)
    if submit is None:
        if stream is not None or keys is not None:
            raise TypeError("stream and keys are of a dispatcher that runs elsewhere; name its submit endpoint as well")
        if data_dir is not None:
            path("data_dir", data_dir)
        if config is not None and not isinstance(config, Mapping):
            path("config", config, or_else=" or a mapping")
        if shards is not None:
            integer("shards", shards, 1, SHARDS_MAX)
        if durability not in (None, "power", "process"):
            raise ValueError(f'durability must be "power" or "process", and not {durability!r}')
        from dispatcher.api.embedded import Embedded  # noqa: PLC0415 - who only connects is spared it

        return Embedded(data_dir, config, shards, durability, timeout_s, max_pending)
    given = {"data_dir": data_dir, "config": config, "shards": shards, "durability": durability}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise TypeError(f"{', '.join(wrong)}: of an embedded dispatcher; with submit it runs elsewhere")
    return Remote(submit, stream, keys, timeout_s, max_pending)
