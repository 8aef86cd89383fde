"""Invariants B and I, and that memory agrees with the journal: checked after each turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from shards import contents, ledger
from shards.changes import Now
from shards.core import Core
from shards.shard import Shard
from shards.tables import ledgers
from shards.worker import Worker
from tests.simulation.channels import TemperedChannel
from tests.simulation.endpoints import Endpoints
from tests.simulation.order import CheckedQueue
from tests.simulation.stored import Place, Stored

RELEASED_MAX = 5  # of one lane in a turn: deferred deliveries, and windows
POSITIONS_MAX = 60  # of a frame: 20 entries, three recipients each
KEYS_PER_TURN_MAX = 100


class Memory:
    """One life of a shard, from outside."""

    def __init__(self, core: Core, stored: Stored, endpoints: Endpoints) -> None:
        self.core = core
        self._endpoints = endpoints
        self._stored = stored
        self._recovered = -1  # retries that waited at the start
        self._maintained = 0.0
        self._idle: dict[
            int, tuple[tuple[int, int], int]
        ] = {}  # of a channel with work and room: turns without progress

    def check(self, worker: Worker, shard: Shard, starts: Counter[str], due_ms: Mapping[int, int], now: Now) -> None:
        """``due_ms`` says of each lane when its first timer or window is due."""
        self._due_ms = due_ms
        channels = {
            number: channel for number, channel in shard.channels.items() if isinstance(channel, TemperedChannel)
        }
        if self._recovered < 0:
            self._recovered = sum(map(len, self.core.retrying))
        self._bounds(shard)
        self._everywhere_once(channels)
        self._frames()
        self._nothing_idles(channels, starts, now)
        self._wakes_in_time(worker._wait_ms(shard, now) / 1000, channels, now)
        if not self.core.changes:
            assert shard.journal.ledgers.pending() == len(self._stored.open), "C: pending, as the journal says it"

    # --- B -----------------------------------------------------------------------------------------------------

    def _bounds(self, shard: Shard) -> None:
        """Operators may replay what they like; that is not bounded here."""
        core = self.core
        settings, bounds, replayed = core.settings, core.settings.bounds, self._stored.revivals.total()
        for lane, queued in enumerate(core.queued):
            limit = bounds.lane_items + POSITIONS_MAX + RELEASED_MAX + bounds.retrying + self._recovered + replayed
            assert 0 <= queued <= limit, f"B: lane {lane} has {queued}"
        for channel, heap in enumerate(core.retrying):
            limit = max(bounds.retrying, self._recovered) + replayed
            assert len(heap) + core.in_flight[channel] <= limit, f"B: {len(heap)} wait for a retry"
            configured = settings.channels.get(core.channel_names[channel])
            assert 0 <= core.in_flight[channel] <= (configured.concurrency if configured else 0), "B: in flight"
        assert len(core.people.known) <= bounds.users, "B: users"
        assert len(core.contents._kept) <= contents.FRAMES_KEPT, "B: contents"
        assert not core.contents._new, "B: contents of frames that are committed"
        assert all(len(limiter) <= bounds.limiter_keys for limiter in core.limiters.values()), "B: limiter"
        assert len(shard.stream._topics) <= bounds.users, "B: topics"
        assert len(shard.journal.ledgers._logged) <= ledgers.LOGGED_FRAMES_MAX + POSITIONS_MAX, "B: logged frames"
        if shard.maintenance.next_at != self._maintained:  # in this turn, whose own keys it does not see yet
            self._maintained = shard.maintenance.next_at
            excess = len(core.idempotency) - settings.idempotency.max_entries
            assert excess <= KEYS_PER_TURN_MAX, f"B: {excess} keys over the bound"

    # --- each open delivery is in one place --------------------------------------------------------------------

    def _everywhere_once(self, channels: Mapping[int, TemperedChannel]) -> None:
        """In a lane, under way, waiting for its retry, or on disk behind its lane's last frame; never twice."""
        core = self.core
        found: Counter[Place] = Counter()
        for channel, queue in enumerate(core.queues):
            assert isinstance(queue, CheckedQueue)
            for priority, lane in enumerate(queue.came):
                lane_number = ledger.lane_of(channel, priority)
                places = [(run.frame.seq, slot) for run, _ in lane for slot in run.slots]
                places += [
                    (frame.seq, slot)
                    for frame, slot, *_ in core.returned.get(channel, ())
                    if ledger.lane_of_word(frame.slots[slot]) == lane_number
                ]
                queued = core.queued[lane_number]
                assert queued == len(places), f"lane {channel}/{priority} counts {queued} and has {len(places)}"
                found.update(places)
        for number, one in channels.items():
            assert core.in_flight[number] == len(one.under_way), f"in flight on {one.name}: {core.in_flight[number]}"
            found.update((entry[0].seq, entry[1]) for _, entry in one.under_way)
        for heap in core.retrying:
            for _, _, item in heap._heap:
                found[(item[0].seq, item[1]) if len(item) == 5 else item] += 1
        for places in self._endpoints.waiting(core).values():
            found.update(places)
        for waiting in core.suspects._waiting.values():
            found.update((entry[0].seq, entry[1]) for _, _, entry in waiting)
        twice = [place for place, count in found.items() if count > 1]
        assert not twice, f"D: {twice[:5]} are in memory twice"
        for (seq, slot), committed in self._stored.open.items():
            frame = core.frames.get(seq)
            word = frame.slots[slot] if frame else committed
            if ledger.outcome_of(word) not in ledger.OPEN:
                continue  # it expired on its way to the channel: stored with the next turn
            lane_number = ledger.lane_of(ledger.channel_of(word), ledger.priority_of(word))
            if ledger.outcome_of(word) == ledger.DEFERRED:
                assert (seq, slot) not in found, f"C: {(seq, slot)} is deferred, and in memory"
                continue
            is_pending = ledger.outcome_of(word) == ledger.PENDING
            is_on_disk = is_pending and seq > core.behind.get(lane_number, 2**62)
            count = found.pop((seq, slot), 0)
            assert count == (not is_on_disk), f"C: {(seq, slot)} is in {count} places in memory, on disk: {is_on_disk}"
        left = [(seq, slot) for seq, slot in found if not self._is_cancelled(seq, slot)]
        assert not left, f"C: {left[:5]} are in memory, and are not open"

    def _is_cancelled(self, seq: int, slot: int) -> bool:
        """It stays where it is until its turn comes."""
        frame = self.core.frames.get(seq)
        word = frame.slots[slot] if frame else self._stored.words[seq][slot]
        return ledger.outcome_of(word) == ledger.CANCELLED

    def _frames(self) -> None:
        changed = {frame.seq for frame in self.core.changes.frames}
        for seq, frame in self.core.frames.items():
            assert frame.active or seq in changed, f"B: frame {seq} is in memory for nothing"
            is_open = [ledger.outcome_of(word) in ledger.OPEN for word in frame.slots]
            assert frame.open == sum(is_open), f"C: frame {seq} counts {frame.open} open"
            assert seq in changed or tuple(frame.slots) == self._stored.words[seq], f"C: frame {seq} is not as stored"

    # --- I -----------------------------------------------------------------------------------------------------

    def _nothing_idles(self, channels: Mapping[int, TemperedChannel], starts: Counter[str], now: Now) -> None:
        """A channel that has work and room starts it in this turn, whatever the others do; work on disk is found
        within as many turns as frames are open."""
        core = self.core
        open_frames = len({seq for seq, _ in self._stored.open})
        open_words = [word for word in self._stored.open.values() if ledger.outcome_of(word) != ledger.DEFERRED]
        still_open = Counter(ledger.channel_of(word) for word in open_words)
        for_endpoints = self._endpoints.waiting(core)
        for number, one in channels.items():
            settings, waiting = core.settings.channels[one.name], len(core.retrying[number])
            room = min(
                settings.concurrency - core.in_flight[number],
                core.settings.bounds.retrying - waiting - core.in_flight[number],
            )
            queued = sum(core.queued[ledger.lane_of(number, 0) : ledger.lane_of(number + 1, 0)])
            slowing = core.slowings.get(number)
            is_slowed = slowing is not None and slowing.next_at(now.mono) is not None
            if number in core.paused or core.holds.get(number, 0.0) > now.mono or is_slowed:
                self._idle.pop(number, None)
                continue
            if one.name == self._endpoints.channel and not core.changes and not core.crowded:
                self._endpoints.check(core, [entry for _, entry in one.under_way], room)
            assert room <= 0 or not queued or core.changes or core.crowded, (
                f"I: {one.name} has {queued} due and room for {room}"
            )
            progress = starts[one.name], still_open[number]
            others = len(core.suspects._waiting.get(number, ())) + len(for_endpoints.get(number, ()))
            idles = room > 0 and still_open[number] > waiting + others + core.in_flight[number]
            before, turns = self._idle.get(number, (progress, 0))
            self._idle[number] = progress, turns + 1 if idles and before == progress else 0
            assert turns <= open_frames + 3, f"I: {one.name} has work and room, and idles for {turns} turns"

    def _wakes_in_time(self, wait_s: float, channels: Mapping[int, TemperedChannel], now: Now) -> None:
        """The next turn begins when the first result or retry is due, whatever else is under way."""
        dues = [due for one in channels.values() for due, _ in one.under_way]
        dues += [due for heap in self.core.retrying for due, *_ in heap._heap]
        for lane, due_ms in self._due_ms.items():
            if self.core.queued[lane] < self.core.settings.bounds.lane_items:
                dues.append(now.mono + due_ms / 1000 - now.wall_us / 1e6)
        first_s = min(dues, default=float("inf")) - now.mono
        assert wait_s <= max(0.0, first_s) + 0.002, f"I: it sleeps {wait_s} s, and something is due in {first_s} s"
        assert wait_s == 0 or not self.core.changes, "I: it sleeps, and has something to store"
