"""Workers of attached channels, as the router has them: who is there, what they have room for, and who gets what.

A delivery comes from its shard because workers have room, and waits here, in the order in which it came, until a call
has some. Its shard hears who is given it, and then what became of it. Nothing here is needed to tell results apart, as
a token names the shard and a number there: so a router may die, and the results of what it gave out still arrive.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from shards.nearest import unknown
from shards.validation import located
from shards.wire.errors import Code, Error, RequestError
from shards.wire.requests import PAGE_BYTES_MAX, WorkerCall, WorkResult
from shards.wire.workers import Gone, Offer, Settled, Taken, Want, Work

WORKERS_MAX = 256  # of a channel
RESULTS_MAX = 1_000  # of a call
NAME_BYTES_MAX = 64
QUEUE_BYTES_MAX = 64 * 2**20  # of a channel: with more here, nothing more is asked for
TIMEOUTS_PER_LEASE = 3  # a worker that is silent for longer has lost everything that it had to the timeout
MESSAGE_SHOWN = 300  # characters; a decoder's words may quote the value
RETURNED = WorkResult("", error_class="returned")

Send = Callable[[int, Work], bool]  # to a shard; whether it was taken
# to a client: whether it was sent, which says that there is somebody
Answer = Callable[[list[bytes], bool, int | str | None, dict[str, Any] | Error], bool]


class Offered(NamedTuple):
    shard: int
    number: int
    document: msgspec.Raw

    @property
    def token(self) -> str:
        return f"{self.shard:x}-{self.number:x}"

    @property
    def size(self) -> int:
        return len(memoryview(self.document))


class Call(NamedTuple):
    """An ``attach`` that waits for its answer."""

    envelope: list[bytes]
    as_json: bool
    seq: int | str | None
    deadline: float


class Worker:
    __slots__ = ("call", "credit", "lease_end", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.credit = 0  # how many more deliveries it takes
        self.call: Call | None = None
        self.lease_end = 0.0


class Channel:
    def __init__(self, name: str, shards: int) -> None:
        self.name = name
        self.timeout_s = 0.0
        self.workers: dict[str, Worker] = {}  # in the order of their last calls
        self.queue: deque[Offered] = deque()
        self.size = 0  # bytes in the queue
        self.held: dict[str, tuple[Worker, float]] = {}  # tokens without a result, and until when they may have one
        self.told: list[tuple[int, int] | None] = [None] * shards  # the last ``Want``: count and workers

    @property
    def lease_s(self) -> float:
        return TIMEOUTS_PER_LEASE * self.timeout_s


class Workers:
    """``send`` and ``answer`` are the router's. Times are monotonic seconds."""

    def __init__(self, epoch: int, shards: int, send: Send, answer: Answer) -> None:
        self._epoch = epoch
        self._shards = shards
        self._send = send
        self._answer = answer
        self._channels: dict[str, Channel] = {}
        self._others: frozenset[str] = frozenset()
        self._closed = False
        self.touched: set[Channel] = set()  # those to which a step may have something to do

    def configure(self, timeouts: Mapping[str, float | None]) -> None:
        """All channels with their timeout in seconds, None of those that are not attached."""
        self._others = frozenset(name for name, timeout_s in timeouts.items() if timeout_s is None)
        for name, timeout_s in timeouts.items():
            if timeout_s is not None:
                channel = self._channels.setdefault(name, Channel(name, self._shards))
                channel.timeout_s = timeout_s
                channel.told = [None] * self._shards  # of this router they do not know, and of the channel they may not
                self.touched.add(channel)

    # --- what clients and shards say ---------------------------------------------------------------------------

    def call(self, envelope: list[bytes], as_json: bool, request: WorkerCall, now: float) -> None:
        """Raises ``RequestError``."""
        channel = self._channel(request.channel)
        if not 1 <= len(request.worker.encode()) <= NAME_BYTES_MAX:
            raise RequestError("bad_value", f"worker has to be 1 to {NAME_BYTES_MAX} bytes", "worker")
        if request.op == "channel.detach":
            worker = channel.workers.get(request.worker)
            if worker is not None:
                self._leave(channel, worker)
            self._answer(envelope, as_json, request.seq, {"detached": worker is not None})
            return
        rejected = self._settle(channel, request.results)
        worker = self._attached(channel, request.worker)
        self._end_call(channel, worker, now)
        worker.credit = 0 if self._closed else request.limit
        wait_s = 0.0 if rejected or not worker.credit else request.wait_ms / 1000
        worker.call = Call(envelope, as_json, request.seq, now + wait_s)
        self._renew(channel, worker, now)
        self.touched.add(channel)
        if rejected or not worker.credit:
            self._end_call(channel, worker, now, rejected=rejected)

    def _channel(self, name: str) -> Channel:
        channel = self._channels.get(name)
        if channel is not None:
            return channel
        if name in self._others or name == "inapp":
            problem = f'{name} has its provider already; only a channel with provider = "attached" takes workers'
            raise RequestError("bad_request", problem, "channel")
        message = unknown("channel", name, {*self._channels, *self._others})
        hint = f'; to attach to it, configure [channels.{name[:80]}] with provider = "attached"'
        raise RequestError("unknown_channel", message + hint, "channel")

    def _attached(self, channel: Channel, name: str) -> Worker:
        worker = channel.workers.pop(name, None)
        if worker is None:
            if len(channel.workers) >= WORKERS_MAX:
                problem = f"the channel has {WORKERS_MAX} workers; detach one, or have each take more"
                raise RequestError("too_many", problem, "worker")
            worker = Worker(name)
        channel.workers[name] = worker
        return worker

    def _settle(self, channel: Channel, given: list[Any]) -> list[dict[str, Any]]:
        """Pass results on to their shards; those that are none, as ``rejected`` has them."""
        if len(given) > RESULTS_MAX:
            raise RequestError("too_many", f"{len(given)} results; at most {RESULTS_MAX} per call", "results")
        rejected: list[dict[str, Any]] = []
        by_shard: dict[int, list[tuple[int, WorkResult]]] = {}
        for index, document in enumerate(given):
            try:
                result, shard, number = self._result(document)
            except RequestError as refused:
                error = refused.error
                field = f"results[{index}].{error.field}" if error.field else f"results[{index}]"
                rejected.append({"index": index, "error": msgspec.structs.replace(error, field=field)})
                continue
            by_shard.setdefault(shard, []).append((number, result))
            channel.held.pop(result.token, None)
        for shard, results in by_shard.items():
            if not self._send(shard, Settled(channel.name, results)):
                raise RequestError("unavailable", f"shard {shard} takes no results now; send them again")
        return rejected

    def _result(self, document: object) -> tuple[WorkResult, int, int]:
        """With the shard and the number that its token names."""
        try:
            result = msgspec.convert(document, WorkResult)
        except msgspec.ValidationError as error:
            what, field = located(error, WorkResult)
            if found := re.search(r"(unknown|required) field `(.*)`", what, re.DOTALL):
                code: Code = "unknown_key" if found[1] == "unknown" else "bad_request"
                raise RequestError(code, what[:MESSAGE_SHOWN], found[2][:80]) from None
            raise RequestError("bad_value", what[:MESSAGE_SHOWN], field[:80] or None) from None
        try:
            shard, number = (int(part, 16) for part in result.token.split("-"))
        except ValueError:
            shard, number = -1, 0
        if not (0 <= shard < self._shards and 0 <= number < 2**63):
            raise RequestError("bad_value", f"{result.token[:80]!r} is not a token that a delivery had", "token")
        return result, shard, number

    def offer(self, offer: Offer) -> None:
        """Deliveries from a shard, which has been asked for them; maybe by a router before this one."""
        channel = self._channels.get(offer.channel)
        if channel is None:
            self._give_back(offer.channel, [Offered(offer.shard, number, raw) for number, raw in offer.deliveries])
            return
        for number, document in offer.deliveries:
            one = Offered(offer.shard, number, document)
            channel.queue.append(one)
            channel.size += one.size
        self.touched.add(channel)

    def forget(self, shard: int) -> None:
        """Another process has the shard: it will offer what it has by itself, and is to be told what is wanted."""
        for channel in self._channels.values():
            self._keep(channel, [one for one in channel.queue if one.shard != shard])
            channel.told[shard] = None
            self.touched.add(channel)

    # --- what follows ------------------------------------------------------------------------------------------

    def step(self, now: float) -> None:
        """At the end of a turn in which something was said: give out what there is, and say what is wanted."""
        touched, self.touched = self.touched, set()
        for channel in touched:
            self._give_out(channel, now)
            for worker in list(channel.workers.values()):
                if worker.call is not None and worker.call.deadline <= now:
                    self._end_call(channel, worker, now)
            if channel.queue and (not channel.workers or self._closed):
                self._keep(channel, self._give_back(channel.name, channel.queue))
            if not self._tell(channel):
                self.touched.add(channel)

    def tick(self, now: float) -> None:
        """Ten times a second."""
        for channel in self._channels.values():
            while channel.held and next(iter(channel.held.values()))[1] <= now:
                del channel.held[next(iter(channel.held))]
            for worker in list(channel.workers.values()):
                if worker.call is not None:
                    if worker.call.deadline <= now:
                        self.touched.add(channel)
                elif worker.lease_end <= now:
                    self._leave(channel, worker)
        if self.touched:
            self.step(now)

    def close(self) -> None:
        """Give out nothing more; results are still taken."""
        self._closed = True
        for channel in self._channels.values():
            for worker in channel.workers.values():
                worker.credit = 0
                if worker.call is not None:
                    worker.call = worker.call._replace(deadline=0.0)
            self.touched.add(channel)

    @property
    def has_work(self) -> bool:
        """Whether a worker may still have a result."""
        return any(channel.held for channel in self._channels.values())

    def _give_out(self, channel: Channel, now: float) -> None:
        """To each call its share by what it has room for, the longest silent first."""
        calling = [worker for worker in channel.workers.values() if worker.call is not None and worker.credit]
        room = sum(worker.credit for worker in calling)
        for worker in calling:
            if not channel.queue:
                return
            share = max(1, round(len(channel.queue) * worker.credit / room))
            room -= worker.credit
            self._give(channel, worker, min(share, worker.credit), now)

    def _give(self, channel: Channel, worker: Worker, count: int, now: float) -> None:
        given: list[Offered] = []
        size = 0
        while channel.queue and len(given) < count and (not given or size + channel.queue[0].size <= PAGE_BYTES_MAX):
            one = channel.queue.popleft()
            size += one.size
            given.append(one)
        channel.size -= size
        for shard, numbers in _by_shard(given).items():
            if not self._send(shard, Taken(channel.name, worker.name, numbers)):
                back = [one for one in given if one.shard == shard]
                given = [one for one in given if one.shard != shard]
                channel.queue.extendleft(reversed(back))
                channel.size += sum(one.size for one in back)
                self.touched.add(channel)
        if given and not self._end_call(channel, worker, now, given):  # it is not there any more
            self._give_back(channel.name, given)
            worker.credit = 0

    def _end_call(
        self,
        channel: Channel,
        worker: Worker,
        now: float,
        given: list[Offered] | None = None,
        rejected: list[dict[str, Any]] | None = None,
    ) -> bool:
        """Answer the call that waits, if there is one; False where nobody is there to get the answer."""
        call, worker.call = worker.call, None
        if call is None:
            return True
        given = given or []
        timeout_ms = round(channel.timeout_s * 1000)
        answer = {
            "deliveries": [
                {"token": one.token, "timeout_ms": timeout_ms, "delivery": _document(one, call.as_json)}
                for one in given
            ],
            "rejected": rejected or [],
            "lease_ms": round(channel.lease_s * 1000),
        }
        if not self._answer(call.envelope, call.as_json, call.seq, answer):
            return False
        worker.credit -= len(given)
        channel.held |= {one.token: (worker, now + channel.timeout_s) for one in given}
        self._renew(channel, worker, now)
        return True

    def _renew(self, channel: Channel, worker: Worker, now: float) -> None:
        worker.lease_end = now + channel.lease_s

    def _leave(self, channel: Channel, worker: Worker) -> None:
        """It is gone, and so is what it had."""
        del channel.workers[worker.name]
        self._end_call(channel, worker, worker.lease_end)
        held = [token for token, (by, _) in channel.held.items() if by is worker]
        for token in held:
            del channel.held[token]
        for shard in sorted({int(token.partition("-")[0], 16) for token in held}):
            self._send(shard, Gone(channel.name, worker.name))  # not taken: the timeout says the same later
        self.touched.add(channel)

    def _give_back(self, name: str, offered: Iterable[Offered]) -> list[Offered]:
        """Deliveries that nobody was given go back to their shards; those that could not be sent."""
        left = list(offered)
        for shard, numbers in _by_shard(left).items():
            if self._send(shard, Settled(name, [(number, RETURNED) for number in numbers])):
                left = [one for one in left if one.shard != shard]
        return left

    def _keep(self, channel: Channel, queue: Iterable[Offered]) -> None:
        channel.queue = deque(queue)
        channel.size = sum(one.size for one in channel.queue)

    def _tell(self, channel: Channel) -> bool:
        """Tell the shards what is wanted, where that is news; whether they have taken it."""
        room = sum(worker.credit for worker in channel.workers.values())
        wanted = room if channel.size < QUEUE_BYTES_MAX else 0, len(channel.workers)
        for shard, told in enumerate(channel.told):
            if told != wanted and self._send(shard, Want(self._epoch, channel.name, *wanted)):
                channel.told[shard] = wanted
        return all(told == wanted for told in channel.told)


def _by_shard(offered: Iterable[Offered]) -> dict[int, list[int]]:
    """The numbers, in their order."""
    found: dict[int, list[int]] = {}
    for shard, group in groupby(offered, key=lambda one: one.shard):
        found.setdefault(shard, []).extend(one.number for one in group)
    return found


def _document(offered: Offered, as_json: bool) -> Any:
    """MessagePack goes into an answer as it is."""
    return msgspec.msgpack.decode(offered.document) if as_json else offered.document
