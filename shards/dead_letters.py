"""How a delivery that failed for good, or an entry that could not be accepted, becomes a dead letter."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import orjson

from shards import ledger, validation
from shards.changes import Changes, Dead, Now
from shards.frames import Entry
from shards.identifiers import Identifiers
from shards.wire.errors import Error
from shards.wire.ids import hash_user
from shards.wire.notification import Notification
from shards.wire.outbox import DeadLetter

ERROR_TEXT_MAX = 300


class DeadLetters:
    """Writes them into the turn's ``changes``, and counts them by reason as they stand."""

    def __init__(
        self,
        ids: Identifiers,
        channel_names: list[str],
        counts: dict[str, int],
        changes: Callable[[], Changes],
    ) -> None:
        self._ids = ids
        self._channel_names = channel_names
        self._counts = counts
        self._changes = changes

    def bury(
        self,
        entry: Entry,
        notification: Notification,
        reason: str,
        error_class: str,
        message: str,
        attempts: int,
        now: Now,
    ) -> None:
        """A delivery, whose word in the ledger is already its last, and what it says."""
        frame, slot, index, user, _ = entry
        letter = DeadLetter(
            self._ids.make(user.hash, frame.seq, index),
            user.user_id,
            self._channel_names[ledger.channel_of(frame.slots[slot])],
            notification.category,
            reason,
            error_class,
            message[:ERROR_TEXT_MAX],
            attempts,
            now.wall_us // 1000,
            orjson.dumps(msgspec.to_builtins(notification)),
        )
        self._add(frame.seq, slot, letter)

    def bury_rejected(self, seq: int, index: int, error: Error, user_id: str, raw: bytes, now: Now) -> None:
        """An entry that nobody waits for an answer to. Its slot is negative, as it never became a delivery."""
        where = f" (field {error.field})" if error.field else ""
        letter = DeadLetter(
            self._ids.make(hash_user(user_id), seq, index),
            user_id or None,
            None,
            None,
            "rejected",
            error.code,
            f"{error.message}{where}"[:ERROR_TEXT_MAX],
            0,
            now.wall_us // 1000,
            validation.readable(raw),
        )
        self._add(seq, -1 - index, letter)

    def _add(self, seq: int, slot: int, letter: DeadLetter) -> None:
        self._changes().dead.append(Dead(seq, slot, letter))
        self._counts[letter.reason] = self._counts.get(letter.reason, 0) + 1

    def forget(self, seq: int, slot: int, reason: str) -> None:
        """A dead letter is no more: replayed, or purged."""
        self._changes().revived.append((seq, slot))
        self._counts[reason] -= 1
