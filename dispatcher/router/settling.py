"""From a shard's report to receipts: what is on disk there is settled, with its verdict.

A verdict may be lost with its report. It is asked for, and the shard reads it from its journal.
"""

from __future__ import annotations

from collections.abc import Callable

from dispatcher.router.gathering import Part
from dispatcher.router.link import Link, Released
from dispatcher.router.links import Links
from dispatcher.router.receipts import Receipt, frame_ids
from shards.wire.link import Ask, Report, Verdict

ASKED = 1_000  # verdicts, at a time


class Settling:
    """``settled`` gets each receipt of which nothing is waited for any more."""

    def __init__(self, shards: int, links: Links, settled: Callable[[Receipt], None]) -> None:
        self._links = links
        self._settled = settled
        self._without_verdict: list[dict[int, Released[list[Part]]]] = [{} for _ in range(shards)]

    def report(self, report: Report) -> bool:
        """Take the facts; whether the shard is to get its window again. Raises ``SupersededError``."""
        link = self._links[report.shard]
        waiting = self._without_verdict[report.shard]
        series = (link.epoch, link.gen)
        released, resend = link.report(report)
        verdicts = dict(report.verdicts) if (report.epoch, report.gen) == series else {}
        for one in released:
            if one.n in verdicts or all(part.receipt is None for part in one.owner):
                self._settle(link, one, verdicts.get(one.n))
            else:
                waiting[one.n] = one
        for n in [n for n in waiting if n in verdicts]:
            self._settle(link, waiting.pop(n), verdicts[n])
        if link.gen != series[1]:
            waiting.clear()  # the journal that had their verdicts lost them; their receipts run out
        return resend

    def _settle(self, link: Link[list[Part]], released: Released[list[Part]], verdict: Verdict | None) -> None:
        first = 0
        for receipt, positions, hashes in released.owner:
            if receipt is not None:
                receipt.settle(positions, frame_ids(link.generation, hashes, released.seq, first), first, verdict)
                if not receipt.waiting:
                    self._settled(receipt)
            first += len(hashes)

    def ask(self) -> None:
        """Ten times a second: for verdicts that somebody waits for."""
        for shard, waiting in enumerate(self._without_verdict):
            for n in [n for n, one in waiting.items() if not any(map(_waits, one.owner))]:
                del waiting[n]
            if waiting:
                link = self._links[shard]
                self._links.try_send(shard, Ask(link.epoch, link.gen, list(waiting)[:ASKED]))


def _waits(part: Part) -> bool:
    """Whether somebody still waits for this part's receipt, or this router does."""
    return part.receipt is not None and bool(part.receipt.envelope or not part.receipt.deadline)
