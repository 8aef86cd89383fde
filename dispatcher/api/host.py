"""Where a service's dispatcher is: one that runs elsewhere, or one of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import zmq

from dispatcher.api.engine import Engine

if TYPE_CHECKING:
    from dispatcher.curve import ClientKeys

SUBMIT = "tcp://127.0.0.1:7712"
STREAM = "tcp://127.0.0.1:7713"
ABANDONED_S = 5.0  # for what is under way, of a service that nobody shut down

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

    def shutdown(self, timeout_s: float) -> None: ...

    def abandon(self) -> None:
        """Shut down, and wait for nothing."""


class Remote:
    """A dispatcher that runs already. Raises ``ValueError`` if ``submit`` is no endpoint."""

    def __init__(
        self, submit: str, stream: str | None, keys: ClientKeys | None, timeout_s: float, max_pending: int
    ) -> None:
        self.submit = submit
        self.stream = stream or STREAM
        self.engine = connect(submit, timeout_s, max_pending, keys)
        self.is_shut_down = False

    def shutdown(self, timeout_s: float) -> None:
        self.is_shut_down = True
        self.engine.close(timeout_s)

    def abandon(self) -> None:
        self.is_shut_down = True
        self.engine.close(ABANDONED_S, join=False)


def connect(submit: str, timeout_s: float, max_pending: int, keys: ClientKeys | None) -> Engine:
    try:
        return Engine(submit, timeout_s=timeout_s, max_pending=max_pending, keys=keys)
    except zmq.ZMQError as error:
        reason = zmq.strerror(error.errno or 0)
        raise ValueError(f"submit={submit!r}: {reason}; an endpoint is like {SUBMIT}") from None


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
    if submit is None:
        if stream is not None or keys is not None:
            raise TypeError("stream and keys are of a dispatcher that runs elsewhere; name its submit endpoint as well")
        from dispatcher.api.embedded import Embedded  # noqa: PLC0415 - who only connects is spared it

        return Embedded(data_dir, config, shards, durability, timeout_s, max_pending)
    given = {"data_dir": data_dir, "config": config, "shards": shards, "durability": durability}
    if wrong := [name for name, value in given.items() if value is not None]:
        raise TypeError(f"{', '.join(wrong)}: of an embedded dispatcher; with submit it runs elsewhere")
    return Remote(submit, stream, keys, timeout_s, max_pending)
