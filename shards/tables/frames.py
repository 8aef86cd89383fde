"""Frames on disk: the frame is the row, and its ledger is a small blob beside it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from shards.frames import Frame
from shards.ledger import LANE_BITS, words
from shards.schema import DamagedError, checksum
from shards.stored import StoredFrame
from shards.tables.rows import Rows

WORD_BYTES = 4


class FrameTable:
    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    # --- writing -----------------------------------------------------------------------------------------------

    def enter(self, frames: Iterable[Frame]) -> None:
        """Those that are new; their ledgers are written beside."""
        entered = []
        for frame in frames:
            new = frame.new
            if new is None:
                continue
            row = (
                frame.seq,
                frame.at_us,
                new.source,
                int(new.fanned),
                int(new.has_inbox),
                frame.widths,
                new.verdict,
                new.digests,
                new.body,
                new.config,
                new.rules,
            )
            entered.append((*row, checksum(*row)))
        if entered:
            self._rows.many("INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", entered)

    def mark_inbox(self, seqs: Iterable[int]) -> None:
        """Frames of which a delivery was moved to the inbox are kept as long as those that named it."""
        for seq in set(seqs):
            row = self._rows.get("frames", seq)
            if row is not None:
                marked = (*row[:4], 1, *row[5:])
                self._rows.run("UPDATE frames SET inbox = 1, crc = ? WHERE seq = ?", (checksum(*marked), seq))

    def remove(self, seqs: Iterable[int]) -> None:
        places = [(seq,) for seq in seqs]
        self._rows.many("DELETE FROM frames WHERE seq = ?", places)
        self._rows.many("DELETE FROM ledger WHERE seq = ?", places)

    # --- reading -----------------------------------------------------------------------------------------------

    def get(self, seq: int) -> StoredFrame | None:
        frame, ledger = self._rows.get("frames", seq), self._rows.get("ledger", seq)
        if frame is None or ledger is None:
            if frame or ledger:
                raise DamagedError(f"{self._rows.path}: frame {seq} has no {'ledger' if frame else 'content'}")
            return None
        _, at_us, source, fanned, _, widths, _, _, body, *_ = frame
        _, still_open, mask, _, _, slots, notes = ledger
        return StoredFrame(seq, at_us, source, bool(fanned), body, widths, still_open, mask, slots, notes)

    def check_tail(self, count: int) -> None:
        """Raises ``DamagedError`` where one of the last frames is not what was written."""
        for (seq,) in self._rows.run("SELECT seq FROM frames ORDER BY seq DESC LIMIT ?", (count,)):
            self.get(seq)

    def deliveries(self, seq: int, index: int) -> tuple[int, array[int]] | None:
        """When a frame was accepted, and the words of one of its notifications, without a look at its content."""
        row = self._rows.run(
            "SELECT at_us, widths, slots FROM frames JOIN ledger USING (seq) WHERE seq = ?", (seq,)
        ).fetchone()
        if row is None:
            return None
        at_us, widths, slots = row
        first = sum(widths[:index])
        return at_us, words(slots[WORD_BYTES * first : WORD_BYTES * (first + widths[index])])

    def open(self, lane: int, after: int, count: int) -> Iterator[StoredFrame]:
        """Frames after ``after`` that may have pending deliveries for the lane."""
        seqs = self._rows.run(
            "SELECT seq FROM ledger WHERE open > 0 AND seq > ? AND mask >> ? & 1 ORDER BY seq LIMIT ?",
            (after, lane % LANE_BITS, count),
        ).fetchall()
        return (frame for (seq,) in seqs if (frame := self.get(seq)) is not None)

    def content(self, seq: int) -> tuple[bytes, bool, bytes | None] | None:
        """``(body, fanned, digests)``, as ``contents.Content`` takes them."""
        row = self._rows.get("frames", seq)
        return (row[8], bool(row[3]), row[7]) if row else None

    def digests_from(self, seq: int, count: int) -> list[tuple[int, int, bytes]]:
        """``(seq, at_us, digests)`` of the frames from ``seq`` on that have any."""
        return self._rows.run(
            "SELECT seq, at_us, digests FROM frames WHERE seq >= ? AND digests IS NOT NULL ORDER BY seq LIMIT ?",
            (seq, count),
        ).fetchall()

    def verdicts(self, seqs: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
        for seq in seqs:
            row = self._rows.get("frames", seq)
            if row:
                yield seq, row[6]

    def prunable(self, after: int, finished_us: int, inbox_us: int, count: int) -> list[tuple[int, int, bool]]:
        """``(seq, at_us, may go)`` of the frames after ``after``: final, old enough, and no dead letter's."""
        return [
            (seq, at_us, bool(final) and at_us < (inbox_us if inbox else finished_us))
            for seq, at_us, inbox, final in self._rows.run(
                "SELECT seq, at_us, inbox, open = 0 AND NOT EXISTS (SELECT 1 FROM dead WHERE dead.seq = frames.seq) "
                "FROM frames JOIN ledger USING (seq) WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, count),
            )
        ]
