"""Everything that can be verified of a journal that nobody has open; nothing is written."""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from shards import ledger, schema
from shards.cutting import Part
from shards.inbox import NUMBER_BYTES, PLACE_SHIFT, unsorted
from shards.journal import witness_path
from shards.preferences import UserDocument
from shards.reader import Loss
from shards.schema import DamagedError, JournalError
from shards.source import Source, item, waits_for_digest
from shards.tables.users import topics_of
from shards.wire.notification import EVERY_USER
from shards.wire.outbox import DeadAdded, DeadRemoved, OutboxItem
from shards.witness import latest

PROBLEMS_MAX = 1_000
Letter = tuple[str, str]  # a dead letter's id and channel, as the collector has them
_item = msgspec.msgpack.Decoder(OutboxItem)


class Inspection(NamedTuple):
    """``problems`` in plain words. ``changes`` are what the outbox has on dead letters: (number, letter, is there)."""

    problems: list[str]
    generation: str
    frames: int
    letters: set[Letter]
    changes: list[tuple[int, Letter, bool]]


def inspect(path: Path, shard: int, shards: int, progress: Callable[[int, int], None]) -> Inspection:
    """Verify the journal of a shard; ``progress`` is told of frames done, and how many there are.

    Raises ``JournalError`` where it is not for this version or this shard.
    """
    losses: list[Loss] = []
    found = Inspection([], "", 0, set(), [])
    try:
        source = Source(path, (), losses, ("", ()))
    except sqlite3.Error as error:
        return found._replace(problems=[f"it cannot be read: {error}"])
    problems: list[str] = []
    try:
        database = source.reader.database
        problems = list(_structure(path, database, shard, shards))
        if not problems:
            frames = _frames(source, problems, progress)
            problems += _places(source, frames)
            problems += _digests(source, frames[0])
            problems += _origins(source)
            problems += _topics(source)
            problems += _state(path, source)
            found = found._replace(generation=source.generation, frames=len(frames[0]))
            problems += _letters(source, found)
        problems += [f"table {loss.table}: {loss.what}" for loss in losses]
        return found._replace(problems=list(dict.fromkeys(problems))[:PROBLEMS_MAX])
    except sqlite3.Error as error:
        return found._replace(problems=[*problems, f"it cannot be read to its end: {error}"])
    finally:
        source.close()


def _structure(path: Path, database: sqlite3.Connection, shard: int, shards: int) -> Iterator[str]:
    try:
        schema.check_meta(path, database)
        known = schema.meta(database, "format")
        if known != schema.FORMAT:
            raise JournalError(
                f"format {known}, and this version checks {schema.FORMAT}: "
                + ("start the dispatcher once, which converts it" if known < schema.FORMAT else "use the newer version")
            )
        schema.check_tables(path, database)
        owner = schema.meta(database, "shard"), schema.meta(database, "shards")
        if owner != (shard, shards):
            raise JournalError(f"it is of shard {owner[0]} of {owner[1]}, not {shard} of {shards}")
    except DamagedError as error:
        yield str(error).removeprefix(f"{path}: ")
    for (text,) in database.execute("PRAGMA integrity_check(100)"):
        if text != "ok":
            yield f"SQLite says: {text}".replace("\n", " ")


def _frames(source: Source, problems: list[str], progress: Callable[[int, int], None]) -> tuple[array[int], array[int]]:
    """Frames with their ledgers, and the counters beside them. The frames' numbers, and how many positions each has."""
    numbers, positions = array("q"), array("I")
    pending: Counter[int] = Counter()
    for done, (_, seq, part) in enumerate(source.frames()):
        source.number(seq, seq)
        numbers.append(seq)
        positions.append(len(part.widths))
        if sum(part.widths) != len(part.slots):
            problems.append(f"frame {seq} plans {sum(part.widths)} deliveries, and its ledger has {len(part.slots)}")
        for value, count in Counter(part.slots).items():
            if ledger.outcome_of(value) in ledger.OPEN:
                pending[ledger.channel_of(value)] += count
        for _, slot, letter, *_ in source.dead_upto(seq):
            if slot >= 0 and (slot >= len(part.slots) or ledger.outcome_of(part.slots[slot]) != ledger.DEAD):
                problems.append(f"{letter} is a dead letter, and its delivery is not dead")
        problems += _timers(source, seq, part)
        if done % 256 == 0:
            progress(done, source.total)
    for seq, slot, letter, *_ in source.dead_upto(2**63):
        if slot >= 0:
            problems.append(f"{letter} is a dead letter, and its frame {seq} is not there")
    counters = source.state.counters.channels if source.state else []
    for number, channel in enumerate(counters):
        due = channel.planned - sum(channel.outcomes)
        if due != pending[number]:
            problems.append(
                f"{source.channels[number]}: of {channel.planned} planned deliveries {sum(channel.outcomes)} have an "
                f"outcome, and {pending[number]} instead of {due} are pending"
            )
    progress(source.total, source.total)
    return numbers, positions


def _places(source: Source, frames: tuple[array[int], array[int]]) -> Iterator[str]:
    """Inbox entries name places that are, or that were pruned; numbers have no gaps."""
    last = source.state.last if source.state else 2**63
    kept = dict(zip(*frames, strict=True))

    def wrong(user_hash: int, places: array[int]) -> Iterator[str]:
        for place in places:
            seq, index = place >> PLACE_SHIFT, place & (1 << PLACE_SHIFT) - 1
            if seq > last or index >= kept.get(seq, 1 << PLACE_SHIFT):
                yield f"the inbox of {user_hash % 2**64:016x} names position {index} of frame {seq}, which is not there"

    before = (0, 1)
    for user_hash, first, blob in source.reader.rows("inbox"):
        due = before[1] if before[0] == user_hash else 1
        if first != due:
            yield f"the inbox of {user_hash % 2**64:016x} has a gap: number {first} follows {due - 1}"
        before = user_hash, first + len(blob) // NUMBER_BYTES
        yield from wrong(user_hash, _numbers(blob))
    for _, user_hash, place in unsorted(source.reader.rows("inbox_tail")):
        yield from wrong(user_hash, array("q", [place]))


def _timers(source: Source, seq: int, part: Part) -> Iterator[str]:
    """Whatever is deferred is woken: by its timer, or by its digest."""
    for slot, value in enumerate(part.slots) if any(map(_has_timer, set(part.slots))) else ():
        if _has_timer(value):
            due_ms = part.notes.get(slot, (None, "", ""))[0]
            row = (ledger.lane_of_word(value), due_ms, seq, slot)
            if not source.reader.database.execute(
                "SELECT 1 FROM timers WHERE lane = ? AND due_ms = ? AND seq = ? AND slot = ?", row
            ).fetchone():
                yield f"delivery {slot} of frame {seq} is deferred, and has no timer"


def _has_timer(value: int) -> bool:
    return ledger.outcome_of(value) == ledger.DEFERRED and not waits_for_digest(value)


def _digests(source: Source, frames: array[int]) -> Iterator[str]:
    """The items of open windows wait for them. (What waits for a window that is not there, ``Source`` tells.)"""
    for _ in source.reader.rows("timers"):
        pass  # their checksums
    kept = frozenset(frames)
    for digest in source.digests:
        if digest.due_ms is None:
            carrier = (digest.carrier or 0) >> PLACE_SHIFT
            if carrier not in kept:
                yield f"digest {digest.id} is sent with frame {carrier}, which is not there"
            continue
        channel = source.channels.index(digest.channel)
        for place in digest.places:
            if item(place, channel) not in source.waiting:
                seq, index = place >> PLACE_SHIFT, place & (1 << PLACE_SHIFT) - 1
                yield f"digest {digest.id} names position {index} of frame {seq}, which does not wait for it"


def _numbers(blob: bytes) -> array[int]:
    numbers = array("q")
    numbers.frombytes(blob)
    return numbers


def _origins(source: Source) -> Iterator[str]:
    end = 0
    for seq, count, generation, _ in source.reader.rows("origins"):
        if seq < end:
            yield f"frame {seq} has two origins, one of them in {generation}"
        end = seq + count


def _topics(source: Source) -> Iterator[str]:
    """Who is subscribed to what follows from the users' documents."""
    said: Counter[str] = Counter()
    for _, document in source.reader.rows("users"):
        said.update(topics_of(msgspec.msgpack.decode(document, type=UserDocument)))
    listed = Counter(topic for topic, _ in source.reader.rows("subscriptions"))
    counted = Counter(dict(source.reader.rows("topics")))
    for topic in sorted({*said, *listed, *counted}):
        found = (listed[topic] if topic != EVERY_USER else said[topic], counted[topic])
        if found != (said[topic], said[topic]):
            yield f"topic {topic!r} has {said[topic]} users by their documents, {found[0]} listed, {found[1]} counted"


def _state(path: Path, source: Source) -> Iterator[str]:
    state = source.state
    if state is None and source.total:
        yield "its counters are missing"
    if not witness_path(path).exists():
        return
    statement = latest(witness_path(path).read_bytes())
    log, last = (state.log, state.last) if state else (0, 0)
    if statement is None or (statement.generation == source.generation and statement.commits <= log):
        return
    yield (
        f"it ends at frame {last}, transaction {log} of {source.generation}; its witness says "
        f"frame {statement.last}, transaction {statement.commits} of {statement.generation}"
    )


def _letters(source: Source, found: Inspection) -> Iterator[str]:
    reasons: Counter[str] = Counter()
    for _, _, letter, _, channel, _, reason, *_ in source.reader.rows("dead"):
        found.letters.add((letter, channel or ""))
        reasons[reason] += 1
    counted = source.state.counters.dead_letters if source.state else {}
    for reason in sorted({*reasons, *counted}):
        if reasons[reason] != counted.get(reason, 0):
            yield f"it counts {counted.get(reason, 0)} dead letters of reason {reason}, and has {reasons[reason]}"
    for n, blob in source.reader.rows("outbox"):
        item = _item.decode(blob)
        if isinstance(item, DeadAdded):
            found.changes.append((n, (item.letter.id, item.letter.channel or ""), True))
        elif isinstance(item, DeadRemoved):
            found.changes.extend((n, (letter, channel or ""), False) for letter, channel in item.ids)
