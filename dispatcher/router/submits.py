"""Submits: taken as a whole or refused, and answered with a receipt when every shard has its part on disk."""

from __future__ import annotations

from collections import deque

from dispatcher.child_settings import RouterSettings
from dispatcher.router.answers import Answers
from dispatcher.router.gathering import Gathering
from dispatcher.router.links import Links
from dispatcher.router.receipts import Receipt
from dispatcher.router.splitter import Limits, split
from shards.wire.errors import Error, RequestError
from shards.wire.link import SUBMIT, Stalled
from shards.wire.requests import Submit

RETRY_AFTER_MS = 100
STALL_RETRY_MS = 1_000
STALL_HOLDS_S = 2.0  # a stalled shard says so ten times a second


class Submits:
    """Times are monotonic seconds."""

    def __init__(
        self, settings: RouterSettings, limits: Limits, links: Links, gathering: Gathering, answers: Answers
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._links = links
        self._gathering = gathering
        self._answers = answers
        self._receipts: deque[Receipt] = deque()  # in the order of their deadlines
        self._unanswered = 0
        self._stalled: dict[int, tuple[str, float]] = {}  # shard -> why it writes nothing, and until when that holds

    @property
    def wait(self) -> bool:
        """Whether somebody may wait for a receipt."""
        return bool(self._receipts)

    def take(self, envelope: list[bytes], request: Submit, as_json: bool, now: float) -> None:
        """Raises ``RequestError``; nothing is taken then."""
        found = split(request.notifications, self._limits)
        if self._unanswered >= self._settings.requests:
            raise RequestError("overloaded", "too many submits wait; send again", retry_after_ms=RETRY_AFTER_MS)
        for piece in found.pieces:
            self._check_open(piece.shard, now)
            gathered = self._gathering.size(piece.shard, as_json, SUBMIT)
            if not self._links[piece.shard].has_room(piece.size + gathered):
                raise RequestError(
                    "overloaded",
                    f"shard {piece.shard} has a full window; nothing was taken, send again",
                    retry_after_ms=RETRY_AFTER_MS,
                )
        receipt = Receipt(
            envelope,
            as_json,
            request.seq,
            found.positions,
            now + self._settings.receipt_timeout_s,
            found.shape,
            found.sizes,
            found.topics,
            self._settings.shards,
        )
        for at, (_, error, _) in enumerate(found.errors):
            receipt.rejected.append((found.positions - len(found.errors) + at, error))
        receipt.waiting = len(found.pieces)
        if not receipt.waiting:
            self._answers.send(envelope, as_json, receipt.document())
            return
        self._receipts.append(receipt)
        self._unanswered += 1
        self._gathering.add(found, as_json, SUBMIT, receipt)

    def _check_open(self, shard: int, now: float) -> None:
        reason, until = self._stalled.get(shard, ("", 0.0))
        if now < until:
            raise RequestError(
                "unavailable",
                f"shard {shard} writes nothing now ({reason}); nothing was taken, send again",
                retry_after_ms=STALL_RETRY_MS,
            )

    def stall(self, found: Stalled, now: float) -> None:
        self._stalled[found.shard] = found.reason, now + STALL_HOLDS_S

    def reopen(self, shard: int) -> None:
        """The shard has reported: it writes."""
        self._stalled.pop(shard, None)

    def answer(self, receipt: Receipt) -> None:
        """All of it is on disk; it may be too late to say so."""
        if receipt.envelope:
            self._answers.send(receipt.envelope, receipt.as_json, receipt.document())
            self._close(receipt)

    def expire(self, now: float) -> None:
        while self._receipts and (not self._receipts[0].envelope or self._receipts[0].deadline <= now):
            receipt = self._receipts.popleft()
            if receipt.envelope:
                error = Error("unavailable", "no receipt from all shards in time; send again with the same keys")
                self._answers.give(receipt.envelope, receipt.as_json, receipt.seq, error)
                self._close(receipt)

    def _close(self, receipt: Receipt) -> None:
        receipt.envelope = []
        self._unanswered -= 1
