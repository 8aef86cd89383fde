"""Clients that wait for a reload of the configuration, which the supervisor does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from shards.wire import Error, Request, RequestError

ANSWER_S = 60.0  # the supervisor itself gives up on a child, and replaces it, long before


class Reloaded(msgspec.Struct, frozen=True):
    """What the supervisor says of the reloads up to number ``through``: a version, or why nothing has changed."""

    through: int
    version: int
    error: Error | None = None


class _Waiting(NamedTuple):
    number: int
    envelope: list[bytes]
    as_json: bool
    seq: int | str | None
    deadline: float


class Reloads:
    """``ask`` tells the supervisor a number, one at a time. Whoever came before it begins is answered by it."""

    def __init__(
        self,
        first: int,
        waiting_max: int,
        ask: Callable[[int], None],
        answer: Callable[[list[bytes], bool, int | str | None, dict[str, Any] | Error], None],
    ) -> None:
        """``first`` is above the numbers of any router before, which the supervisor may still be answering."""
        self._last = first
        self._asked = 0  # under way; 0: none
        self._waiting_max = waiting_max
        self._ask = ask
        self._answer = answer
        self._waiting: deque[_Waiting] = deque()

    def add(self, envelope: list[bytes], as_json: bool, request: Request, now: float) -> None:
        """Raises ``RequestError`` where too many wait."""
        if len(self._waiting) >= self._waiting_max:
            raise RequestError("overloaded", "too many operations wait; send again", retry_after_ms=100)
        self._last += 1
        self._waiting.append(_Waiting(self._last, envelope, as_json, request.seq, now + ANSWER_S))
        self._ask_next()

    def _ask_next(self) -> None:
        if not self._asked and self._waiting:
            self._asked = self._waiting[-1].number
            self._ask(self._asked)

    def done(self, found: Reloaded) -> None:
        while self._waiting and self._waiting[0].number <= found.through:
            one = self._waiting.popleft()
            self._answer(one.envelope, one.as_json, one.seq, found.error or {"version": found.version})
        if found.through >= self._asked:
            self._asked = 0
            self._ask_next()

    def expire(self, now: float) -> None:
        while self._waiting and self._waiting[0].deadline <= now:
            one = self._waiting.popleft()
            error = Error("unavailable", "no answer from the supervisor in time; see its log, and ask again")
            self._answer(one.envelope, one.as_json, one.seq, error)
