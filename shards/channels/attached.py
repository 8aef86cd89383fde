"""A channel whose deliveries are made by workers: programs of the user's, by way of the router.

What is handed over is known by a number that is never used again, not after a restart either: what is said of a number
that is not known here is old, and means nothing. A delivery that no worker has taken is unclaimed, and has all the
time. From the moment that a worker is given it, its attempt is under the channel's ``timeout``.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import takewhile

import msgspec

from shards.channels.base import SendError
from shards.credit import Credit
from shards.frames import Entry, Frame, Run
from shards.parcel import Parcel, Renderer
from shards.sending import Failure, Results, advice_of
from shards.settings import ChannelSettings
from shards.unpacking import made_ready
from shards.wire.encoding import pack
from shards.wire.requests import WorkResult
from shards.wire.workers import Gone, Settled, Taken, Want, Work

OFFER_BYTES = 2**20  # of one message, unless a single delivery has more
RETURNED = WorkResult("", error_class="returned")


class _Open:
    """A delivery that was handed over."""

    __slots__ = ("parcel", "worker")

    def __init__(self, parcel: Parcel) -> None:
        self.parcel = parcel
        self.worker: str | None = None  # None while it is unclaimed, empty where nobody knows


class AttachedChannel:
    """``next_number`` gives numbers, ``pack_entry`` a delivery as it is to be rendered. Times are monotonic seconds."""

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """What is to be set of it is common to all channels."""

    def __init__(
        self,
        name: str,
        settings: ChannelSettings,
        credit: Credit,
        next_number: Callable[[], int],
        pack_entry: Callable[[Entry], Parcel],
        render: Renderer,
    ) -> None:
        self.name = name
        self.configure(settings)
        self.credit = credit
        self._next_number = next_number
        self._pack_entry = pack_entry
        self._render = render
        self._epoch = 0  # of the router
        self._open: dict[int, _Open] = {}
        self._deadlines: OrderedDict[int, float] = OrderedDict()  # of what is claimed, the first one first
        self._offers: deque[tuple[int, msgspec.Raw]] = deque()
        self._ended: list[tuple[Parcel, WorkResult | SendError]] = []

    def configure(self, settings: ChannelSettings) -> None:
        self.timeout_s = float(settings.timeout)
        # a worker cannot bring this process down, but where it does end, what is held must not be made again
        self.harmless = settings.on_ambiguous == "retry"

    # --- the shard's side --------------------------------------------------------------------------------------

    def start(self, runs: Sequence[Run], now: float) -> None:
        for run in runs:
            for at in range(len(run)):
                self._begin(self._pack_entry(run.entry(at)))

    def _begin(self, parcel: Parcel) -> None:
        delivery = made_ready(parcel, self.name, self._render)
        if isinstance(delivery, SendError):
            self._ended.append((parcel, delivery))
            return
        number = self._next_number()
        self._open[number] = _Open(parcel)
        self._offers.append((number, msgspec.Raw(pack(delivery))))
        self.credit.unclaimed += 1

    def collect(self, now: float) -> Results:
        self._expire(now)
        delivered: dict[Frame, list[int]] = {}
        failed: list[Failure] = []
        held: list[tuple[Entry, float]] = []
        unreachable: list[Entry] = []
        bad: list[tuple[Entry, tuple[str, ...]]] = []
        for parcel, said in self._ended:
            entry = parcel.entry
            if isinstance(said, SendError):
                failed.append((entry, said.error_class, said.message, advice_of(said, self.name, parcel.recipient)))
            elif said.error_class is None:
                delivered.setdefault(entry[0], []).append(entry[1])
                if said.bad:
                    bad.append((entry, tuple(said.bad)))
            elif said.error_class == "returned":
                held.append((entry, now))
            elif said.error_class == "no_contact":
                unreachable.append(entry)
        self._ended = []
        return Results(list(delivered.items()), failed, held, unreachable, bad)

    def next_due(self) -> float | None:
        if self._ended:
            return 0.0
        return next(iter(self._deadlines.values()), None)

    def _expire(self, now: float) -> None:
        text = f"no result within {self.timeout_s:g} s"
        for number in list(takewhile(lambda number: self._deadlines[number] <= now, self._deadlines)):
            self._end(number, SendError("ambiguous", text))

    def give_up(self) -> None:
        """No result can come any more: the dispatcher stops."""
        waiting = {number for number, _ in self._offers}
        self._offers.clear()
        for number in list(self._open):
            text = "the dispatcher stopped before there was a result"
            self._end(number, RETURNED if number in waiting else SendError("ambiguous", text))

    # --- the router's side -------------------------------------------------------------------------------------

    def offer(self) -> list[tuple[int, msgspec.Raw]]:
        """The next deliveries to hand over, as many as one message has; ``offered`` says that it has left."""
        found: list[tuple[int, msgspec.Raw]] = []
        size = 0
        for one in self._offers:
            size += len(memoryview(one[1]))
            if found and size > OFFER_BYTES:
                break
            found.append(one)
        return found

    def offered(self, count: int) -> None:
        for _ in range(count):
            self._offers.popleft()

    def hear(self, message: Work, now: float, wall_ms: int) -> None:
        """What the router says of this channel."""
        match message:
            case Want():
                self._want(message, now, wall_ms)
            case Taken():
                for number in message.numbers:
                    self._claim(number, message.worker, now)
            case Settled():
                for number, result in message.results:
                    self._end(number, _as_error(result))
            case Gone():
                text = f"the worker {message.worker!r} has gone without a result"
                for number in [number for number, one in self._open.items() if one.worker == message.worker]:
                    self._end(number, SendError("ambiguous", text))

    def _want(self, message: Want, now: float, wall_ms: int) -> None:
        if message.epoch < self._epoch:
            return
        if message.epoch > self._epoch:
            self._epoch = message.epoch
            offered = {number for number, _ in self._offers}
            for number, one in self._open.items():  # it is on its way, was lost, or is with a worker: nobody knows
                if one.worker is None and number not in offered:
                    self._claim(number, "", now)
        if message.workers != self.credit.workers:
            self.credit.since_ms = wall_ms
        self.credit.count, self.credit.workers = message.count, message.workers

    def _claim(self, number: int, worker: str, now: float) -> None:
        one = self._open.get(number)
        if one is None:
            return
        if one.worker is None:
            self.credit.unclaimed -= 1
        one.worker = worker
        self._deadlines[number] = now + self.timeout_s
        self._deadlines.move_to_end(number)

    def _end(self, number: int, said: WorkResult | SendError) -> None:
        one = self._open.pop(number, None)
        if one is None:
            return
        if one.worker is None:
            self.credit.unclaimed -= 1
        self._deadlines.pop(number, None)
        self._ended.append((one.parcel, said))


def _as_error(result: WorkResult) -> WorkResult | SendError:
    match result.error_class:
        case None | "no_contact" | "returned":
            return result
        case error_class:
            after_s = None if result.retry_after_ms is None else result.retry_after_ms / 1000
            return SendError(error_class, result.message, retry_after_s=after_s, bad=result.bad)
