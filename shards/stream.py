"""What a shard publishes: in-app deliveries, to users that somebody follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import orjson

from shards import ledger
from shards.core import Core
from shards.frames import Run
from shards.inbox import PLACE_SHIFT, UNSEEN, Inbox
from shards.operations import Operations
from shards.people import User


class Stream:
    """``follow`` sets the prefixes that somebody is subscribed to; ``documents`` is called after each commit."""

    def __init__(self, core: Core, inbox: Inbox, operations: Operations, users_max: int) -> None:
        self._core = core
        self._inbox = inbox
        self._operations = operations
        self._users_max = users_max
        self._prefixes: tuple[bytes, ...] = ()
        self._topics: dict[User, bytes | None] = {}  # of the users seen since the subscriptions changed
        self._numbers: dict[User, int] = {}  # of those that are followed: the number of their last inbox entry

    def follow(self, prefixes: Iterable[bytes]) -> None:
        self._prefixes = tuple(prefixes)
        self._topics.clear()
        self._numbers.clear()

    def documents(self, runs: list[Run]) -> list[tuple[bytes, bytes]]:
        """``(topic, JSON)`` of what was delivered in-app and is wanted."""
        if not self._prefixes:
            return []
        wanted = [
            (topic, user, run.frame, run.indexes[at], run.slots[at])
            for run in runs
            for at, user in enumerate(run.users)
            if (topic := self._topic(user)) is not None
        ]
        for user, count in Counter(user for _, user, *_ in wanted).items():
            if user not in self._numbers:
                self._numbers[user] = self._inbox.last_number(user.signed_hash) - count
        documents = []
        for topic, user, frame, index, slot in wanted:
            number = self._numbers[user] = self._numbers[user] + 1
            place = frame.seq << PLACE_SHIFT | index
            digest = frame.digests.get(slot)
            notification = (
                self._core.digest_said(digest) if digest else self._core.contents.notification(frame.seq, index)
            )
            priority = ledger.priority_of(frame.slots[slot])
            item = self._operations.item_document(user, number, place, notification, priority, frame.at_us, UNSEEN)
            documents.append((topic, orjson.dumps(item)))
        return documents

    def _topic(self, user: User) -> bytes | None:
        """The user's topic, if somebody is subscribed to it."""
        topic = self._topics.get(user, b"")
        if topic == b"":
            topic = b"inapp." + user.user_id.encode() + b"\0"
            if len(self._topics) >= self._users_max:
                self._topics.clear()
                self._numbers.clear()
            topic = self._topics[user] = topic if topic.startswith(self._prefixes) else None
        return topic
