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
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence, Set
from typing import Any, NamedTuple

from shards import logs
from shards.answers import ErrorClass
from shards.channels.base import Delivery, SendError, Sent
from shards.frames import Entry, Frame
from shards.parcel import Parcel, Renderer
from shards.providers import Held, Outcome, Providers, Unreachable
from shards.sending import Failure, Results, advice_of
from shards.settings import ChannelSettings
from shards.unpacking import made_ready

log = logs.logger()

BATCH_MAX = 500  # deliveries of one ``send_many``
TELL_EVERY_S = 0.004  # a turn of the shard has its price: under load it is made for several results
CLOSE_S = 2.0  # for connections to end in order
CRASHED = 70  # the process's exit code where the thread itself fails


class Ended(NamedTuple):
    """What became of an attempt; ``by`` are the providers that it was begun with."""

    parcel: Parcel
    outcome: Outcome
    by: Providers


class Courier:
    """``channels`` are the real ones; ``render`` gives a template's parts."""

    channels: frozenset[str]

    def __init__(
        self,
        channels: Mapping[str, ChannelSettings],
        errors: Mapping[str, Mapping[str, ErrorClass]],
        render: Renderer,
    ) -> None:
        self.render = render
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._ended: dict[str, deque[Ended]] = {}  # the thread's own
        self._told: dict[str, deque[Ended]] = {}
        self._loop = asyncio.new_event_loop()
        self._providers: dict[str, Providers] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_telling = False  # what has ended will be told soon
        self._told_at = 0.0
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()
        self.reopen(channels, errors)

    # --- the shard's side ----------------------------------------------------------------------------------------

    def sender(self, channel: str, pack: Callable[[Entry], Parcel]) -> AsyncSender:
        """A channel, to the shard; ``pack`` makes a parcel of a delivery."""
        return AsyncSender(channel, self, pack)

    def fileno(self) -> int:
        """Readable when something has ended."""
        return self._event

    def send(self, channel: str, parcels: Sequence[Parcel]) -> None:
        self._loop.call_soon_threadsafe(self._begin, channel, parcels)

    def hear(self) -> None:
        """To be called before one looks for what has ended: what is told later makes ``fileno`` readable again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)

    def has_ended(self, channel: str) -> bool:
        """Whether there is something to collect."""
        return bool(self._told[channel])

    def collect(self, channel: str) -> list[tuple[Parcel, Outcome]]:
        """What has ended since the last call, and was told: not each result one by one."""
        told, current = self._told[channel], self._providers[channel]
        ended = [told.popleft() for _ in range(len(told))]
        return [(one.parcel, one.outcome if one.by is current else _of_before(one.outcome)) for one in ended]

    def reopen(self, channels: Mapping[str, ChannelSettings], errors: Mapping[str, Mapping[str, ErrorClass]]) -> None:
        """Go by other settings, and more channels, from the next attempt on."""
        self._call(self._open(channels, errors))
        self.channels = frozenset(channels)

    def is_of_users(self, channel: str) -> bool:
        """Whether each user names a service of their own."""
        return self._providers[channel].is_of_users

    def resume(self, channel: str) -> None:
        self._loop.call_soon_threadsafe(self._providers[channel].resume)

    def describe(self, channel: str) -> list[dict[str, Any]]:
        """The state of each provider, of an instant ago."""
        return self._providers[channel].describe()

    def close(self) -> None:
        """Legal more than once."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        self._thread.join(CLOSE_S)

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # --- the thread's side ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        except BaseException:
            log.exception("the thread of the channels has failed")
            os._exit(CRASHED)
        self._loop.close()  # by its own thread, which may be held up for longer than anybody waits for it,
        os.close(self._event)  # and would write into whatever file had this number then

    async def _open(
        self, channels: Mapping[str, ChannelSettings], errors: Mapping[str, Mapping[str, ErrorClass]]
    ) -> None:
        before, under_way = self._providers, set(self._tasks)
        for name in channels:
            self._told.setdefault(name, deque())
            self._ended.setdefault(name, deque())
        self._providers = {
            name: Providers(name, settings, errors, time.monotonic) for name, settings in channels.items()
        }
        for providers in self._providers.values():
            self._keep(self._loop.create_task(providers.made()))
        self._keep(self._loop.create_task(_close_after(under_way, before.values())))

    async def _shut(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(providers.close() for providers in self._providers.values()))
        await asyncio.sleep(0)  # which closes the sockets
        self._loop.stop()

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
        if providers.is_being_made:
            await providers.made()
        delivery = self._unpack(channel, parcel)
        outcome = delivery if isinstance(delivery, SendError) else await providers.send(delivery)
        self._end(channel, [Ended(parcel, outcome, providers)])

    async def _send_many(self, channel: str, providers: Providers, parcels: Sequence[Parcel]) -> None:
        if providers.is_being_made:
            await providers.made()
        unpacked = [(parcel, self._unpack(channel, parcel)) for parcel in parcels]
        ended = [Ended(parcel, found, providers) for parcel, found in unpacked if isinstance(found, SendError)]
        rendered = [(parcel, found) for parcel, found in unpacked if not isinstance(found, SendError)]
        outcomes = await providers.send_many([delivery for _, delivery in rendered]) if rendered else []
        ended += [Ended(parcel, end, providers) for (parcel, _), end in zip(rendered, outcomes, strict=True)]
        self._end(channel, ended)

    def _unpack(self, channel: str, parcel: Parcel) -> Delivery | SendError:
        return made_ready(parcel, channel, self.render, self._providers[channel].variables)

    def _end(self, channel: str, ended: Sequence[Ended]) -> None:
        self._ended[channel].extend(ended)
        if not self._is_telling:
            self._is_telling = True
            self._loop.call_at(self._told_at + TELL_EVERY_S, self._tell)

    def _tell(self) -> None:
        self._is_telling = False
        self._told_at = self._loop.time()
        for channel, ended in self._ended.items():
            self._told[channel].extend(ended)
            ended.clear()
        os.eventfd_write(self._event, 1)


async def _close_after(under_way: Set[asyncio.Task[None]], replaced: Collection[Providers]) -> None:
    """When the attempts are over that were begun with them."""
    try:
        if under_way:
            await asyncio.wait(under_way)
    finally:
        await asyncio.gather(*(providers.close() for providers in replaced))


def _of_before(outcome: Outcome) -> Outcome:
    """Of an attempt that was begun before a reload: what refused it, or held it, may be mended by now."""
    if isinstance(outcome, Held) or (isinstance(outcome, SendError) and outcome.error_class == "misconfigured"):
        return Held(0.0)
    return outcome


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
                    failed.append(
                        (entry, outcome.error_class, outcome.message, advice_of(outcome, self.name, parcel.recipient))
                    )
                case Held():
                    held.append((entry, outcome.until))
                case Unreachable():
                    unreachable.append(entry)
        slows = not self._courier.is_of_users(self.name)
        return Results(list(delivered.items()), failed, held, unreachable, bad, slows)

    def next_due(self) -> float | None:
        return 0.0 if self._courier.has_ended(self.name) else None
