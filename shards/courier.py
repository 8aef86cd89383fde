"""The thread in which a shard's real channels work: an event loop that is handed parcels and hands back what became
of them, so that no service, however slow, holds up the shard.

The shard polls ``fileno`` for results. What is under way when it closes is given up: its end is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from shards import logs
from shards.answers import ErrorClass
from shards.channels.base import SendError, Sent
from shards.frames import Entry, Frame
from shards.parcel import Parcel, Renderer, unpack
from shards.providers import Held, Outcome, Providers, Unreachable
from shards.sending import Advice, Failure, Results
from shards.settings import ChannelSettings

log = logs.logger()

BATCH_MAX = 500  # deliveries of one ``send_many``
TELL_EVERY_S = 0.004  # a turn of the shard has its price: under load it is made for several results
CLOSE_S = 2.0  # for connections to end in order
CRASHED = 70  # the process's exit code where the thread itself fails


class Courier:
    """``channels`` are the real ones; ``render`` gives a template's parts."""

    def __init__(
        self,
        channels: Mapping[str, ChannelSettings],
        errors: Mapping[str, Mapping[str, ErrorClass]],
        render: Renderer,
    ) -> None:
        self.render = render
        self.channels = frozenset(channels)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ended: dict[str, deque[tuple[Parcel, Outcome]]] = {name: deque() for name in channels}
        self._loop = asyncio.new_event_loop()
        self._providers: dict[str, Providers] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_telling = False  # it will be told soon that something has ended
        self._is_told = False
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()
        self._call(self._open(channels, errors))

    # --- the shard's side ----------------------------------------------------------------------------------------

    def sender(self, channel: str, pack: Callable[[Entry], Parcel]) -> AsyncSender:
        """A channel, to the shard; ``pack`` makes a parcel of a delivery."""
        return AsyncSender(channel, self, pack)

    def fileno(self) -> int:
        """Readable when something has ended."""
        return self._event

    def send(self, channel: str, parcels: Sequence[Parcel]) -> None:
        self._loop.call_soon_threadsafe(self._begin, channel, parcels)

    def has_ended(self, channel: str) -> bool:
        """Whether there is something to collect, and it is time to: not for each result one by one."""
        return self._is_told and bool(self._ended[channel])

    def collect(self, channel: str) -> list[tuple[Parcel, Outcome]]:
        """What has ended since the last call."""
        ended = self._ended[channel]
        found = [ended.popleft() for _ in range(len(ended))]
        self._is_told = False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        self._is_told = any(self._ended.values())  # of another channel, or just now
        return found

    def reopen(self, channels: Mapping[str, ChannelSettings], errors: Mapping[str, Mapping[str, ErrorClass]]) -> None:
        """Go by other settings of the same channels, from the next attempt on."""
        self._call(self._open(channels, errors))

    def resume(self, channel: str) -> None:
        self._loop.call_soon_threadsafe(self._providers[channel].resume)

    def describe(self, channel: str) -> list[dict[str, Any]]:
        """The state of each provider, of an instant ago."""
        return self._providers[channel].describe()

    def close(self) -> None:
        """Legal more than once."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            self._call(self._shut(), CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()
        os.close(self._event)

    def _call(self, coroutine: Coroutine[Any, Any, None], timeout_s: float | None = None) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    # --- the thread's side ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        except BaseException:
            log.exception("the thread of the channels has failed")
            os._exit(CRASHED)

    async def _open(
        self, channels: Mapping[str, ChannelSettings], errors: Mapping[str, Mapping[str, ErrorClass]]
    ) -> None:
        before = self._providers
        self._providers = {
            name: Providers(name, settings, errors, time.monotonic) for name, settings in channels.items()
        }
        for providers in before.values():
            self._keep(self._loop.create_task(self._close_later(providers)))

    async def _close_later(self, providers: Providers) -> None:
        """When the attempts are over that were begun with them."""
        under_way = self._tasks - {asyncio.current_task()}
        if under_way:
            await asyncio.wait(under_way)
        await providers.close()

    async def _shut(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for providers in self._providers.values():
            await providers.close()

    def _begin(self, channel: str, parcels: Sequence[Parcel]) -> None:
        providers = self._providers[channel]
        if providers.batch_max:
            size = min(providers.batch_max, BATCH_MAX)
            for first in range(0, len(parcels), size):
                self._keep(self._loop.create_task(self._send_many(channel, providers, parcels[first : first + size])))
            return
        for parcel in parcels:
            self._keep(self._loop.create_task(self._send(channel, providers, parcel)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, channel: str, providers: Providers, parcel: Parcel) -> None:
        try:
            outcome = await providers.send(unpack(parcel, channel, self.render))
        except SendError as error:  # of the template
            outcome = error
        self._end(channel, [(parcel, outcome)])

    async def _send_many(self, channel: str, providers: Providers, parcels: Sequence[Parcel]) -> None:
        rendered, ended = [], []
        for parcel in parcels:
            try:
                rendered.append((parcel, unpack(parcel, channel, self.render)))
            except SendError as error:
                ended.append((parcel, error))
        outcomes = await providers.send_many([delivery for _, delivery in rendered]) if rendered else []
        self._end(channel, [*ended, *zip([parcel for parcel, _ in rendered], outcomes, strict=True)])

    def _end(self, channel: str, ended: Sequence[tuple[Parcel, Outcome]]) -> None:
        self._ended[channel].extend(ended)
        if not self._is_telling:
            self._is_telling = True
            self._loop.call_at(self._told_at + TELL_EVERY_S, self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        self._told_at = self._loop.time()
        self._is_told = True
        os.eventfd_write(self._event, 1)


class AsyncSender:
    """One channel of the courier, to the shard."""

    harmless = False

    def __init__(self, name: str, courier: Courier, pack: Callable[[Entry], Parcel]) -> None:
        self.name = name
        self._courier = courier
        self._pack = pack

    def start(self, runs: Sequence[Any], now: float) -> None:
        self._courier.send(self.name, [self._pack(run.entry(at)) for run in runs for at in range(len(run))])

    def collect(self, now: float) -> Results:
        delivered: dict[Frame, list[int]] = {}
        failed: list[Failure] = []
        held: list[tuple[Entry, float]] = []
        unreachable: list[Entry] = []
        bad: list[tuple[Entry, tuple[str, ...]]] = []
        for parcel, outcome in self._courier.collect(self.name):
            entry = parcel.entry
            match outcome:
                case Sent():
                    delivered.setdefault(entry[0], []).append(entry[1])
                    if outcome.bad:
                        bad.append((entry, outcome.bad))
                case SendError():
                    failed.append((entry, outcome.error_class, outcome.message, _advice(outcome)))
                case Held():
                    held.append((entry, outcome.until))
                case Unreachable():
                    unreachable.append(entry)
        return Results(list(delivered.items()), failed, held, unreachable, bad)

    def next_due(self) -> float | None:
        return 0.0 if self._courier.has_ended(self.name) else None


def _advice(error: SendError) -> Advice | None:
    if not error.retry_after_s and not error.bad and not error.reason:
        return None
    return Advice(error.retry_after_s or 0.0, error.bad, error.reason)
