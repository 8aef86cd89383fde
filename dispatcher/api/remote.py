"""A dispatcher that runs elsewhere, and how to connect to any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zmq

from dispatcher.api.arguments import endpoint
from dispatcher.api.engine import Engine

if TYPE_CHECKING:
    from dispatcher.curve import ClientKeys

SUBMIT = "tcp://127.0.0.1:7712"
STREAM = "tcp://127.0.0.1:7713"
ABANDONED_S = 5.0  # for what is under way, of a service that nobody shut down


class Remote:
    """A dispatcher that runs already. Raises ``ValueError`` for what is no endpoint."""

    def __init__(
        self, submit: str, stream: str | None, keys: ClientKeys | None, timeout_s: float, max_pending: int
    ) -> None:
        self.submit = endpoint("submit", submit, SUBMIT)
        self.stream = endpoint("stream", stream or STREAM, STREAM)
        self.engine = connect(submit, timeout_s, max_pending, keys)
        self.is_shut_down = False
        self.own_channels = None
        self.kept_channels: dict[str, dict[str, Any]] = {}

    def keep_channels(self, channels: dict[str, dict[str, Any]]) -> None:
        raise NotImplementedError

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
