"""A client for programs that ask and wait, as the command line does: one try, and whatever comes of it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from dispatcher.api.engine import Engine
from dispatcher.api.errors import DispatcherError, NoAnswerError
from dispatcher.curve import ClientKeys
from shards.wire.errors import Error

POLL_S = 0.1
PIPELINE_MAX = 1_000  # requests under way at once, far below what the dispatcher allows all its clients together


class Client:
    """Requests, each with a timeout in seconds. A context manager.

    ``keys`` are for a dispatcher that asks for CURVE. Raises ``zmq.ZMQError`` if ``submit`` is not an endpoint.
    """

    def __init__(
        self, submit: str = "tcp://127.0.0.1:7712", timeout_s: float = 10.0, keys: ClientKeys | None = None
    ) -> None:
        self.submit_endpoint = submit
        self.on_wait: Callable[[], None] = lambda: None  # is called about every ``POLL_S`` of a wait for an answer
        self._engine = Engine(submit, timeout_s=timeout_s, keys=keys, retries=False)

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer's document; raises ``DispatcherError`` for ``ok: false`` and for silence."""
        future = self._engine.request(op, fields)
        while not wait([future], POLL_S).done:
            self.on_wait()
        return future.result()

    def pipelined(self, op: str, requests: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Error | None]]:
        """Many requests under way at once: the place of each, from 0, and its error, as the answers come.

        Raises ``NoAnswerError`` once no answer comes within the timeout.
        """
        answered: SimpleQueue[tuple[int, Future[dict[str, Any]]]] = SimpleQueue()
        waiting = 0
        for place, fields in enumerate(requests):
            future = self._engine.request(op, fields)
            future.add_done_callback(partial(_put, answered, place))
            waiting += 1
            if waiting >= PIPELINE_MAX:
                while waiting > PIPELINE_MAX // 2:  # one at a time would wake every process for each request
                    yield _outcome(*answered.get())
                    waiting -= 1
        for _ in range(waiting):
            yield _outcome(*answered.get())

    def close(self) -> None:
        self._engine.close(0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _put(answered: SimpleQueue[tuple[int, Future[dict[str, Any]]]], place: int, future: Future[dict[str, Any]]) -> None:
    answered.put((place, future))


def _outcome(place: int, future: Future[dict[str, Any]]) -> tuple[int, Error | None]:
    try:
        future.result()
    except NoAnswerError:
        raise
    except DispatcherError as error:
        return place, error.error
    return place, None
