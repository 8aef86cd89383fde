"""Clients that wait for the supervisor: for a reload of the configuration, or for a template that is put.

What is put is too much for the line by which the router asks: it lies in a file, as long as it takes to be read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from shards.wire.errors import Error, RequestError
from shards.wire.requests import Request

ANSWER_S = 60.0  # the supervisor itself gives up on a child, and replaces it, long before
PUTS_MAX = 64  # that wait; more are overloaded


class Put(msgspec.Struct, frozen=True):
    """A template as a client gives it."""

    number: int
    name: str
    parts: dict[str, str]


class Reloaded(msgspec.Struct, frozen=True):
    """What the supervisor says of what it was asked up to number ``through``: a version, or why nothing has changed.

    ``put`` has templates that are stored and in use, by the numbers of those who gave them, ``refused`` the others.
    """

    through: int
    version: int
    error: Error | None = None
    put: dict[int, dict[str, Any]] = {}
    refused: dict[int, Error] = {}
    channels: dict[str, float | None] = {}  # as ``RouterSettings`` has them


def puts_file(number: int) -> Path:
    """Where the templates lie that were put up to a number, in the data directory."""
    return Path("run") / f"puts-{number}.json"


class _Waiting(NamedTuple):
    number: int
    envelope: list[bytes]
    as_json: bool
    seq: int | str | None
    deadline: float
    put: Put | None = None


class Reloads:
    """``ask`` tells the supervisor a number, one at a time. Whoever came before it begins is answered by it."""

    def __init__(
        self,
        first: int,
        waiting_max: int,
        ask: Callable[[str], None],
        answer: Callable[[list[bytes], bool, int | str | None, dict[str, Any] | Error], object],
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
        put = None
        if request.op == "template.put":
            if sum(one.put is not None for one in self._waiting) >= PUTS_MAX:
                raise RequestError("overloaded", "too many templates wait; send again", retry_after_ms=100)
            put = Put(self._last + 1, request.name or "", request.parts or {})
        self._last += 1
        self._waiting.append(_Waiting(self._last, envelope, as_json, request.seq, now + ANSWER_S, put))
        self._ask_next()

    def _ask_next(self) -> None:
        if self._asked or not self._waiting:
            return
        self._asked = number = self._waiting[-1].number
        puts = [one.put for one in self._waiting if one.put is not None]
        if puts:
            try:
                puts_file(number).write_bytes(msgspec.json.encode(puts))
            except OSError as error:
                self.done(Reloaded(number, 0, Error("unavailable", f"{error.strerror}; nothing was changed")))
                return
        self._ask(f"{'put' if len(puts) == len(self._waiting) else 'reload'} {number}")

    def done(self, found: Reloaded) -> None:
        while self._waiting and self._waiting[0].number <= found.through:
            one = self._waiting.popleft()
            if one.put is None:
                answer: dict[str, Any] | Error = {"version": found.version}
            else:
                answer = found.refused.get(one.number) or {"items": [found.put.get(one.number)]}
            self._answer(one.envelope, one.as_json, one.seq, found.error or answer)
        if found.through >= self._asked:
            self._asked = 0
            self._ask_next()

    def expire(self, now: float) -> None:
        while self._waiting and self._waiting[0].deadline <= now:
            one = self._waiting.popleft()
            error = Error("unavailable", "no answer from the supervisor in time; see its log, and ask again")
            self._answer(one.envelope, one.as_json, one.seq, error)
