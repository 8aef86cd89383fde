"""Channels that a program registers: classes, which the shards load, and objects, which stay with the program."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dispatcher.api.arguments import integer, text
from dispatcher.api.errors import RequestError, ShutdownError

if TYPE_CHECKING:
    from dispatcher.api.host import Host
    from dispatcher.api.steps import Steps
    from dispatcher.api.worker import Worker
    from shards.channels.base import NotificationChannel

CONCURRENCY = 64
DETACH_S = 30.0


class Registration:
    """A channel that was registered; a context manager. ``detach`` is for that of an object.

    Without its object the channel's deliveries wait. A class stays in the configuration, and needs nobody.
    """

    def __init__(self, name: str, worker: Worker | None = None) -> None:
        self.name = name
        self._worker = worker

    def detach(self, timeout: float = DETACH_S) -> None:
        """Take nothing more, and wait so many seconds for what is under way. Legal more than once."""
        if self._worker is not None:
            self._worker.stop(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()


def register(
    host: Host, name: str, channel: str | NotificationChannel, options: Mapping[str, Any]
) -> Steps[Registration]:
    """Raises ``DispatcherError`` where the channel takes no workers, ``ValueError`` for what must be configured."""
    from dispatcher.api.worker import Worker  # noqa: PLC0415 - it has asyncio, of which others are spared the import

    if host.engine.is_closing:
        raise ShutdownError
    text("name", name)
    if isinstance(channel, str):
        yield from _configure(host, name, {"class": channel, **options})
        return Registration(name)
    if isinstance(channel, type):
        kind = channel.__name__
        raise TypeError(f'{kind} is a class; give an object of it, {kind}(), or its place, "package.module:{kind}"')
    for method in ("send", "supports_recipient"):
        if not callable(getattr(channel, method, None)):
            raise TypeError(
                f"{channel!r} is no channel, as it has no {method}; help(NotificationChannel) has what one has"
            )
    try:
        with contextlib.suppress(ValueError):  # of what is not written in Python
            inspect.signature(channel.send).bind(None)
    except TypeError as error:
        raise TypeError(f"{type(channel).__name__}.send must take one argument, the delivery: {error}") from None
    concurrency = integer("concurrency", options.get("concurrency", CONCURRENCY), 1)
    if host.own_channels is None or name in host.own_channels:
        if others := options.keys() - {"concurrency"}:
            raise ValueError(f"{', '.join(sorted(others))}: to be set in [channels.{name}] of the configuration")
    else:
        yield from _configure(host, name, {"provider": "attached", **options})
    worker = Worker(host.engine, name, channel, concurrency)
    yield host.engine.request("channel.attach", worker.call(0))
    worker.start()
    return Registration(name, worker)


def _configure(host: Host, name: str, table: dict[str, Any]) -> Steps[None]:
    if host.own_channels is None:
        told = f'[channels.{name}] class = "{table["class"]}"'
        raise ValueError(f"a dispatcher that runs elsewhere imports what its own configuration names: {told}")
    if name in host.own_channels:
        raise ValueError(f"[channels.{name}] is in the configuration already; take it out, or register another name")
    before = host.kept_channels
    if before.get(name) == table:
        return
    host.keep_channels({**before, name: table})
    try:
        yield host.engine.request("config.reload", {})
    except RequestError:
        host.keep_channels(before)
        raise
