"""The ledgers of frames, and the log of single changes since a ledger was last written.

A retry touches one delivery, and its frame's ledger is some 5 kB: so its new word is logged, until the ledger is
written for other reasons, or the log has grown long. At a start the log is folded into the ledgers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from shards.changes import Note, Result, decode_notes
from shards.frames import Frame
from shards.ledger import OPEN, outcome_of, words
from shards.schema import checksum
from shards.tables.rows import Rows
from shards.wire.encoding import pack

LOG_ROWS_MAX = 1_000
LOGGED_FRAMES_MAX = 2_000
_UPDATE = "UPDATE ledger SET open = ?, mask = ?, updated_ms = ?, log = ?, slots = ?, notes = ?, crc = ? WHERE seq = ?"


class LedgerTable:
    """``last`` is the number of the last transaction."""

    def __init__(self, rows: Rows, last: int) -> None:
        self._rows = rows
        self._logged: dict[int, Frame] = {}  # frames with changes that only the log has
        self._log_settled = last

    def write(self, frames: Iterable[Frame], results: list[Result], number: int, now_ms: int) -> None:
        """What transaction ``number`` has changed: whole ledgers, or for frames that stay in memory, single results."""
        entered, updated = [], []
        logged = False
        for frame in frames:
            frame.updated_ms = now_ms
            if frame.new is None and not frame.dirty and frame.active:
                logged = True
                self._logged[frame.seq] = frame
                continue
            frame.stored_open = frame.open
            if frame.new is None:
                updated.append(_update(frame, number, now_ms))
                self._logged.pop(frame.seq, None)
            else:
                row = (frame.seq, *_values(frame, number, now_ms))
                entered.append((*row, checksum(*row)))
        if entered:
            self._rows.many("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", entered)
        if updated:
            self._rows.many(_UPDATE, updated)
        if logged:
            self._write_log(results, number, now_ms)

    def _write_log(self, results: list[Result], number: int, now_ms: int) -> None:
        """A long log is settled by writing the ledgers of all that it is about."""
        if len(self._logged) > LOGGED_FRAMES_MAX or number >= self._log_settled + LOG_ROWS_MAX:
            self._rows.many(_UPDATE, [_update(frame, number, now_ms) for frame in self._logged.values()])
            self._rows.run("DELETE FROM results")
            for frame in self._logged.values():
                frame.stored_open = frame.open
            self._logged.clear()
            self._log_settled = number
            return
        entries = [(frame.seq, slot, value, note) for frame, slot, value, note in results if frame.seq in self._logged]
        row = (number, pack(entries), now_ms)
        self._rows.run("INSERT INTO results VALUES (?, ?, ?, ?)", (*row, checksum(*row)))

    def settle_log(self) -> None:
        """At the start: what was logged goes into the ledgers, where these were not written later."""
        run = self._rows.run
        ledgers: dict[int, tuple[tuple[Any, ...], array[int], dict[int, Note]]] = {}
        changed_ms: dict[int, int] = {}
        for row in run("SELECT * FROM results ORDER BY id").fetchall():
            number, blob, at_ms = self._rows.verified("results", row)
            for seq, slot, value, note in msgspec.msgpack.decode(blob, type=list[tuple[int, int, int, Note | None]]):
                if seq not in ledgers:
                    found = self._rows.get("ledger", seq)
                    if found is None:
                        continue
                    ledgers[seq] = found, words(found[5]), decode_notes(found[6])
                (*_, written, _, _), slots, notes = ledgers[seq]
                if number > written:
                    changed_ms[seq] = at_ms
                    slots[slot] = value
                    if note is not None:
                        notes[slot] = note
        for seq, ((_, _, mask, updated_ms, written, _, _), slots, notes) in ledgers.items():
            still_open = sum(outcome_of(value) in OPEN for value in slots)
            updated_ms = max(updated_ms, changed_ms.get(seq, 0))
            settled = (still_open, mask, updated_ms, written, slots.tobytes(), pack(notes) if notes else None)
            run(_UPDATE, (*settled, checksum(seq, *settled), seq))
        run("DELETE FROM results")

    # --- reading -----------------------------------------------------------------------------------------------

    def open_mask(self) -> tuple[int, int]:
        """The first frame with open deliveries, and the lanes of all such frames; (0, 0) if there is none."""
        first = self._rows.run("SELECT min(seq) FROM ledger WHERE open > 0").fetchone()[0]
        mask = 0
        for (one,) in self._rows.run("SELECT DISTINCT mask FROM ledger WHERE open > 0"):
            mask |= one
        return first or 0, mask

    def tried(self) -> Iterator[tuple[int, bytes, bytes]]:
        """``(seq, slots, notes)`` of open frames in which something was tried."""
        for row in self._rows.run("SELECT * FROM ledger WHERE open > 0 AND notes IS NOT NULL"):
            seq, *_, slots, notes = self._rows.verified("ledger", row)
            yield seq, slots, notes

    def pending(self) -> int:
        """Deliveries that are not final: by the stored ledgers, less what the log has ended since."""
        stored = self._rows.run("SELECT coalesce(sum(open), 0) FROM ledger WHERE open > 0").fetchone()[0]
        return int(stored) - sum(frame.stored_open - frame.open for frame in self._logged.values())

    def updated_ms(self, seq: int) -> int:
        row = self._rows.run("SELECT updated_ms FROM ledger WHERE seq = ?", (seq,)).fetchone()
        return int(row[0]) if row else 0


def _values(frame: Frame, number: int, now_ms: int) -> tuple[Any, ...]:
    notes = pack(frame.notes) if frame.notes else None
    return (frame.open, frame.mask, now_ms, number, frame.slots.tobytes(), notes)


def _update(frame: Frame, number: int, now_ms: int) -> tuple[Any, ...]:
    values = _values(frame, number, now_ms)
    return (*values, checksum(frame.seq, *values), frame.seq)
