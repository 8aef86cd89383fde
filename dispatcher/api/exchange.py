"""Requests and their answers, without a socket, a clock or a thread: what is sent when, and again, and given up.

A ``Call`` is one message. It is sent as soon as there is a connection, and again with the same bytes when the
connection is lost, when nothing is heard of it, and when the dispatcher asks for patience, until its deadline. So
whatever is submitted has an idempotency key.

Notifications that are submitted one by one are gathered: a frame goes out at once while few are under way, and what
comes meanwhile makes up the next one. A frame that is refused as a whole is halved until who is to blame is alone.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection

import msgspec

from dispatcher.api import answers, errors
from dispatcher.api.errors import DispatcherError
from dispatcher.api.frames import FRAME_BYTES, FRAME_ITEMS, Call, Single, Sink, frame
from dispatcher.api.receiving import handed_out
from shards.wire.errors import Error

UNDER_WAY = 32  # full frames
AT_ONCE = 2  # frames, however small: one on its way while another one is written to the disk
SILENCE_S = 7.0  # beyond receipt_timeout, as a dispatcher has it by default
PATIENCE_S = 0.1  # where an answer names no wait


class Exchange:
    """``why_silent`` says why nobody may have answered. Times are monotonic seconds.

    ``retries`` False: every call is sent once, and each answer is final.
    """

    def __init__(self, endpoint: str, why_silent: Callable[[], str], *, retries: bool = True) -> None:
        self._endpoint = endpoint
        self._why_silent = why_silent
        self._retries = retries
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._outgoing: deque[Call] = deque()
        self._singles: deque[Single] = deque()
        self._gathered = 0  # frames of singles that are under way
        self._look_at = math.inf  # the earliest time at which something may be due

    def __len__(self) -> int:
        """How many calls, and notifications that wait to be gathered, there are."""
        return len(self._calls) + len(self._singles)

    def number(self) -> int:
        """For the next call. From any thread."""
        return next(self._numbers)

    # --- in ----------------------------------------------------------------------------------------------------

    def add(self, call: Call, now: float) -> None:
        call.deadline = now + call.timeout_s
        self._enter(call)

    @property
    def is_gathering(self) -> bool:
        """Whether singles wait for an answer to go with, unless they fill a frame."""
        return self._gathered >= AT_ONCE

    def add_single(self, single: Single) -> None:
        self._look_at = min(self._look_at, single.deadline)
        self._singles.append(single)

    def forget(self, sinks: Collection[Sink]) -> None:
        """Nobody wants the answers to these any more; the sinks are told all the same."""
        for call in [call for call in self._calls.values() if call.sink in sinks]:
            self._end(call, None, errors.of(Error("unavailable", "nobody waits for it any more")))

    def _enter(self, call: Call) -> None:
        self._calls[call.number] = call
        self._look_at = min(self._look_at, call.deadline)
        self._queue(call)

    def _queue(self, call: Call) -> None:
        call.due = math.inf
        if not call.is_queued:
            call.is_queued = True
            self._outgoing.append(call)

    # --- out ---------------------------------------------------------------------------------------------------

    def outgoing(self) -> Call | None:
        """What is to be sent next; ``sent`` says that it was."""
        self._gather()
        while self._outgoing and self._outgoing[0].number not in self._calls:
            self._outgoing.popleft()  # answered, or given up
        return self._outgoing[0] if self._outgoing else None

    def sent(self, call: Call, now: float) -> None:
        """The call of ``outgoing`` is on its way."""
        self._outgoing.popleft()
        call.is_queued = False
        call.tries += 1
        if self._retries:
            self._try_again(call, now + SILENCE_S)

    def _try_again(self, call: Call, at: float) -> None:
        call.due = at
        self._look_at = min(self._look_at, at)

    def _gather(self) -> None:
        singles = self._singles
        while singles and (self._gathered < AT_ONCE or (self._gathered < UNDER_WAY and len(singles) >= FRAME_ITEMS)):
            taken = [singles.popleft()]
            size = len(taken[0].raw)
            while singles and len(taken) < FRAME_ITEMS and (size := size + len(singles[0].raw)) <= FRAME_BYTES:
                taken.append(singles.popleft())
            self._gathered += 1
            items = [single.raw for single in taken]
            number = self.number()
            call = Call(number, frame(number, items), taken[-1].timeout_s, self._hand_out(taken), items)
            call.deadline = taken[-1].deadline
            self._enter(call)

    def _hand_out(self, singles: list[Single]) -> Sink:
        """Gives each single of a frame its receipt; a frame that was halved answers in parts."""
        left = len(singles)

        def sink(call: Call, message: bytes | None, error: DispatcherError | None) -> None:
            nonlocal left
            handed_out(singles[call.first : call.first + len(call.items)], message, error, call.tries > 1)
            left -= len(call.items)
            if not left:
                self._gathered -= 1

        return sink

    # --- answers -----------------------------------------------------------------------------------------------

    def on_message(self, message: bytes, now: float) -> None:
        """Raises ``msgspec.MsgspecError`` for what no dispatcher sends."""
        head = answers.read_head(message)
        call = self._calls.get(head.seq) if head.seq is not None else None
        if call is None:
            return  # of a call that was given up, or the answer to its second copy
        error = head.error
        if error is None:
            self._end(call, message, None)
        elif self._retries and error.code in ("overloaded", "unavailable"):
            call.last = error
            call.not_taken += error.code == "overloaded"
            self._try_again(call, now + (error.retry_after_ms / 1000 if error.retry_after_ms else PATIENCE_S))
        elif len(call.items) > 1:
            self._halve(call)
        else:
            self._end(call, None, errors.of(error))

    def _halve(self, call: Call) -> None:
        del self._calls[call.number]
        middle = len(call.items) // 2
        for first, items in ((0, call.items[:middle]), (middle, call.items[middle:])):
            number = self.number()
            half = Call(number, frame(number, items), call.timeout_s, call.sink, items, call.first + first)
            half.deadline, half.tries = call.deadline, call.tries
            half.not_taken = call.not_taken + 1
            self._enter(half)

    def _end(self, call: Call, message: bytes | None, error: DispatcherError | None) -> None:
        del self._calls[call.number]
        try:
            call.sink(call, message, error)
        except msgspec.MsgspecError as wrong:  # an answer of another shape than its request asks for
            call.sink(call, None, errors.of(Error("internal", f"{self._endpoint} answers as no dispatcher: {wrong}")))

    # --- time and the connection -------------------------------------------------------------------------------

    def on_lost(self) -> None:
        """What is not answered is sent again on the next connection."""
        if self._retries:
            for call in self._calls.values():
                self._queue(call)

    def wait_s(self, now: float) -> float | None:
        """How long nothing is due; None: until there is news."""
        return None if self._look_at == math.inf else max(0.0, self._look_at - now)

    def on_time(self, now: float) -> None:
        """Give up what is too late, and send again what is due."""
        if now < self._look_at:
            return
        self._look_at = math.inf
        for call in list(self._calls.values()):
            if call.deadline <= now:
                self._end(call, None, self._given_up(call.timeout_s, _last_word(call)))
                continue
            if call.due <= now:
                self._queue(call)
            self._look_at = min(self._look_at, call.deadline, call.due)
        while self._singles and self._singles[0].deadline <= now:
            single = self._singles.popleft()
            single.sink(None, self._given_up(single.timeout_s))
        if self._singles:
            self._look_at = min(self._look_at, self._singles[0].deadline)

    def end_all(self, error: DispatcherError) -> None:
        """Nobody is to wait any longer."""
        for call in list(self._calls.values()):
            self._end(call, None, error)
        while self._singles:
            self._singles.popleft().sink(None, error)

    def _given_up(self, timeout_s: float, last: Error | None = None) -> DispatcherError:
        if last is not None:
            return errors.of(last)
        text = f"no answer from {self._endpoint} within {timeout_s:g} s; {self._why_silent()}"
        return errors.NoAnswerError(Error("unavailable", text))


def _last_word(call: Call) -> Error | None:
    """What to say of a call that came to nothing. Only where each try was refused, nothing was taken."""
    if call.last is not None and call.last.code == "overloaded" and call.not_taken < call.tries:
        text = f"it may have been taken before the dispatcher was overloaded: {call.last.message}"
        return Error("unavailable", text, None, call.last.retry_after_ms)
    return call.last
