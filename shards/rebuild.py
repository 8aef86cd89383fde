"""Journals made from journals: for another number of shards, or from what can be read of a damaged one.

Frames are put in the order of their acceptance and go to the shards of their users (``cutting.py``). Whatever names
a frame goes along: dead letters, inbox entries, suspects, and the ids of receipts, by way of ``origins``. One source
keeps its numbers; of several, all parts of a frame get the same number, so that they are found together next time.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby

import msgspec

from shards import ledger
from shards.broadcast import Broadcast, merged
from shards.counters import ChannelCounters
from shards.cutting import Part, cut
from shards.inbox import NUMBER_BYTES, PLACE_SHIFT, unsorted
from shards.limit_store import split
from shards.source import Found, Source
from shards.tables.topics import broadcast_of, row_of
from shards.target import Target
from shards.wire.encoding import pack
from shards.wire.ids import hash_user, parse_id
from shards.wire.outbox import DeadRemoved, OutboxItem

Progress = Callable[[int, int], None]  # frames done, of how many

PROGRESS_EVERY = 256
NOBODY = hash_user("")  # of what has no user
_item = msgspec.msgpack.Decoder(OutboxItem)


class Rebuild:
    """One run. ``told`` is what the collector has: (shard, generation) -> number of the outbox.

    Raises ``DamagedError`` and ``sqlite3.Error`` of strict sources; ``sqlite3.Error`` and ``OSError`` where the new
    journals cannot be written.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        targets: Sequence[Target],
        told: Mapping[tuple[int, str], int],
        progress: Progress = lambda _done, _total: None,
    ) -> None:
        self.sources = sources
        self.targets = targets
        self._told = told
        self._progress = progress
        self._alone = len(sources) == 1
        self._last = 0  # the last number given
        names = list(dict.fromkeys(name for source in sources for name in source.channels))
        self.names = names
        # channel numbers of each source -> the new ones; None where they are the same
        self._renamed = [
            None if source.channels == names[: len(source.channels)] else [names.index(one) for one in source.channels]
            for source in sources
        ]

    def run(self, numbers: Sequence[int], keep_link: bool = False) -> dict[str, int]:
        """Fill the targets and finish them; ``numbers`` are the shard numbers of the sources, for ``told``.

        ``keep_link``: the only source's journal goes on as itself, and what does not add up is taken off what was
        planned. The deliveries that are gone are answered, by channel.
        """
        self._copy_frames()
        for source in self.sources:
            self._copy_users(source)
            self._copy_inbox(source)
            self._copy_digests(source)
        for number, source in zip(numbers, self.sources, strict=True):
            self._copy_outbox(number, source)
        self._copy_broadcasts()
        self._copy_limits()
        self._copy_configs()
        state = self.sources[0].state
        last = max(self._last, state.last) if self._alone and state else self._last
        gone = self._count(keep_link)
        merged = self.sources[0].merged if keep_link else last
        paused = {name: at for source in self.sources if source.state for name, at in source.state.paused.items()}
        for target in self.targets:
            target.state.last = target.state.base = last
            target.state.paused = paused
            if keep_link and state is not None and state.last == last:
                target.state.epoch, target.state.gen, target.state.base = state.epoch, state.gen, state.base
            target.finish(self.names, merged)
        return gone

    # --- frames ------------------------------------------------------------------------------------------------

    def _in_order(self) -> Iterator[list[Found]]:
        """The parts of each frame, by the time of acceptance; each source's order stays."""
        if self._alone:
            for found in self.sources[0].frames():
                yield [found]
            return

        def key(found: Found) -> tuple[int, int]:
            return (0, found.seq) if found.seq <= found.source.merged else (1, found.part.at_us)

        ordered = heapq.merge(*(source.frames() for source in self.sources), key=key)
        for (late, _), group in groupby(ordered, key):
            if late:
                for found in group:
                    yield [found]
            else:
                yield list(group)

    def _copy_frames(self) -> None:
        total = sum(source.total for source in self.sources)
        shards = len(self.targets)
        done = 0
        for found in self._in_order():
            first = found[0]
            number = self._number(first.seq)
            for one in found:
                one.source.number(one.seq, number)
                self._orphans(one.source, one.seq - 1)
            parts = [self._renumbered(one) for one in found]
            pieces = cut(parts, shards)
            generation, old = first.source.origin(first.seq)
            for one in found[1:]:
                one.source.origin(one.seq)
            for shard, part in pieces.parts.items():
                self.targets[shard].add_frame(number, part, (generation, old))
            for at, one in enumerate(found):
                for row in one.source.dead_upto(one.seq):
                    slot = row[1]
                    shard, there = (self._of_id(row[2]), slot) if slot < 0 else pieces.place(at, slot)
                    self.targets[shard].add_dead((number, there, *row[2:]))
                if one.source.suspects:
                    self._copy_suspects(one, number, partial(pieces.place, at))
            done += len(found)
            if done % PROGRESS_EVERY < len(found):
                self._progress(done, total)
        for source in self.sources:
            self._orphans(source, 2**63)
        self._progress(total, total)

    def _number(self, seq: int) -> int:
        number = seq if self._alone else self._last + 1
        self._last = max(self._last, number)
        return number

    def _renumbered(self, found: Found) -> Part:
        """With the new numbers of its channels."""
        table = self._renamed[self.sources.index(found.source)]
        if table is not None:
            slots = found.part.slots
            for slot, value in enumerate(slots):
                slots[slot] = value & ~0xFF | table[value & 0xFF]
        return found.part

    def _orphans(self, source: Source, upto: int) -> None:
        """Dead letters of frames that are no more: a person can still read them."""
        number = before = 0
        for row in source.dead_upto(upto):
            if row[0] != before:
                before, number = row[0], self._number(row[0])
            self.targets[self._of_id(row[2])].add_dead((number, *row[1:]))

    def _copy_suspects(self, found: Found, number: int, place: Callable[[int], tuple[int, int]]) -> None:
        for slot, value in enumerate(found.part.slots):
            crashes = found.source.suspects.get((found.seq, slot))
            if crashes and ledger.outcome_of(value) in ledger.OPEN:
                shard, there = place(slot)
                self.targets[shard].add("suspects", (number, there, crashes))

    def _of_id(self, text: str) -> int:
        user_hash = parse_id(text)[1]
        return 0 if user_hash == NOBODY else user_hash % len(self.targets)

    # --- users and inboxes -------------------------------------------------------------------------------------

    def _copy_users(self, source: Source) -> None:
        for user_id, document in source.reader.rows("users"):
            self.targets[hash_user(user_id) % len(self.targets)].add_user(user_id, document)
        for row in source.reader.rows("health"):
            self.targets[hash_user(row[0]) % len(self.targets)].add("health", row)

    def _copy_broadcasts(self) -> None:
        """Every shard has all of them: whom each has reached is said of the users as they were distributed."""
        parts: dict[str, list[tuple[int, Broadcast]]] = {}
        pages = set()
        for number, source in enumerate(self.sources):
            for row in source.reader.rows("broadcasts"):
                parts.setdefault(row[0], []).append((number, broadcast_of(row)))
            for id_, seq in source.reader.rows("pages"):
                new = source.new_number(seq)
                if new is not None:
                    pages.add((id_, new))
        for found in parts.values():
            whole = merged(found, len(self.sources))
            for target in self.targets:
                target.add("broadcasts", row_of(whole))
                whole = msgspec.structs.replace(whole, users=0, done=0, planned=0)  # the first accounts for all
        for target in self.targets:
            for page in sorted(pages):
                target.add("pages", page)

    def _copy_limits(self) -> None:
        """Source by source, in their order: all rows of one user are in one of them."""
        number = 0
        for source in self.sources:
            for row in source.reader.rows("limits"):
                number += 1
                for shard, part in split(row[1:], len(self.targets)).items():
                    self.targets[shard].add("limits", (number, *part))

    def _copy_digests(self, source: Source) -> None:
        """With the new numbers of their items' frames and of their lanes; what is left of no item is forgotten."""
        table = self._renamed[self.sources.index(source)]
        for digest in source.digests:
            if table is not None:
                digest.lane = ledger.lane_of(table[digest.lane >> 2], digest.lane & 3)
            digest.places = self._renewed(source, digest.places)
            digest.withdrawn = self._renewed(source, digest.withdrawn)
            if digest.carrier is not None:
                digest.carrier = self._place(source, digest.carrier)
            if digest.places and (digest.carrier is not None or digest.due_ms is not None):
                self.targets[hash_user(digest.user_id) % len(self.targets)].add("digests", digest.row())

    def _renewed(self, source: Source, places: list[int]) -> list[int]:
        """Without those whose frame is no more."""
        return [new for place in places if (new := self._place(source, place)) is not None]

    def _place(self, source: Source, place: int) -> int | None:
        """Renumbered; None if its frame is no more."""
        new = source.new_number(place >> PLACE_SHIFT)
        return None if new is None else new << PLACE_SHIFT | place & (1 << PLACE_SHIFT) - 1

    def _copy_configs(self) -> None:
        configs = {version: rules for source in self.sources for version, rules in source.reader.rows("configs")}
        for target in self.targets:
            for row in sorted(configs.items()):
                target.add("configs", row)

    def _of_user(self, signed_hash: int) -> Target:
        return self.targets[signed_hash % 2**64 % len(self.targets)]

    def _copy_inbox(self, source: Source) -> None:
        for user_hash, first, blob in source.reader.rows("inbox"):
            places = array("q")
            places.frombytes(blob)
            self._of_user(user_hash).add("inbox", (user_hash, first, self._places(source, places)))
        tail: dict[int, array[int]] = {}
        for _, user_hash, place in unsorted(source.reader.rows("inbox_tail")):
            tail.setdefault(user_hash, array("q")).append(place)
        for target in self.targets:
            target.flush()
        for user_hash, places in sorted(tail.items()):
            target = self._of_user(user_hash)
            row = target.database.execute(
                "SELECT first, length(places) FROM inbox WHERE user_hash = ? ORDER BY first DESC LIMIT 1", (user_hash,)
            ).fetchone()
            first = row[0] + row[1] // NUMBER_BYTES if row else 1
            target.add("inbox", (user_hash, first, self._places(source, places)))
        for user_hash, place, state in source.reader.rows("inbox_marks"):
            new = array("q", self._places(source, array("q", [place])))[0]
            if new:
                self._of_user(user_hash).add("inbox_marks", (user_hash, new, state))

    def _places(self, source: Source, places: array[int]) -> bytes:
        """Renumbered; an entry whose frame is no more keeps its number in the inbox, and names no frame."""
        if not self._alone:
            low = (1 << PLACE_SHIFT) - 1
            for at, place in enumerate(places):
                new = source.new_number(place >> PLACE_SHIFT)
                places[at] = 0 if new is None else new << PLACE_SHIFT | place & low
        return places.tobytes()

    # --- outbox and counters -----------------------------------------------------------------------------------

    def _copy_outbox(self, number: int, source: Source) -> None:
        """What the collector does not have; about dead letters by way of their users' shards, which keeps the order."""
        reached = self._told.get((number, source.generation), 0)
        for n, blob in source.reader.rows("outbox"):
            if n <= reached:
                continue
            item = _item.decode(blob)
            if isinstance(item, DeadRemoved):
                removed: dict[int, list[tuple[str, str | None]]] = {}
                for letter in item.ids:
                    removed.setdefault(self._of_id(letter[0]), []).append(letter)
                for shard, ids in removed.items():
                    self.targets[shard].post(pack(DeadRemoved(ids)))
                continue
            shard = number % len(self.targets) if not hasattr(item, "letter") else self._of_id(item.letter.id)
            self.targets[shard].post(blob)

    def _count(self, reconcile: bool) -> dict[str, int]:
        """Every shard accounts for what is pending in it, the first for all the rest. What is gone, by channel."""
        totals = {name: ChannelCounters() for name in self.names}
        untold: Counter[tuple[str, str]] = Counter()
        first = self.targets[0].state
        for source in self.sources:
            state = source.state
            if state is None:
                continue
            counters = state.counters
            first.counters.accepted += counters.accepted
            first.counters.duplicates += counters.duplicates
            first.counters.rejected += counters.rejected
            names = source.channels[: len(counters.channels)]
            for name, channel in zip(names, counters.channels, strict=True):
                add(totals[name], channel)
            if state.counted is not None:
                told = state.counted + [0] * len(names) * len(ledger.OUTCOMES) * 2
                for at, (name, what, count) in enumerate(counters.finals(names)):
                    untold[name, what] += count - told[at]
        for target in self.targets:
            target.count_pending(self.names)
        if not any(source.state for source in self.sources):  # the totals are lost: what the ledgers say
            for target in self.targets:
                for name, channel in target.seen(self.names).items():
                    add(totals[name], channel)
                first.counters.accepted += target.accepted
        gone: dict[str, int] = {}
        for number, name in enumerate(self.names):
            total = totals[name]
            mine = first.counters.channels[number]
            elsewhere = sum(target.state.counters.channels[number].planned for target in self.targets[1:])
            pending = mine.planned
            balance = total.planned - sum(total.outcomes) - elsewhere - pending
            if balance and reconcile:
                gone[name] = balance
                total.planned -= balance
            mine.planned = total.planned - elsewhere
            mine.attempts, mine.failed_attempts, mine.outcomes = total.attempts, total.failed_attempts, total.outcomes
        for target in self.targets:
            target.state.counted = [count for _, _, count in target.state.counters.finals(self.names)]
        first.counted = [count - untold[name, what] for name, what, count in first.counters.finals(self.names)]
        return gone


def add(total: ChannelCounters, part: ChannelCounters) -> None:
    total.planned += part.planned
    total.attempts += part.attempts
    total.failed_attempts += part.failed_attempts
    total.outcomes = [one + other for one, other in zip(total.outcomes, part.outcomes, strict=True)]
