"""The operations that a shard answers: each takes a request and gives a document, or raises ``RequestError``.

Those that change something write within the turn's transaction; the answer leaves after the commit.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from shards import history, ledger, validation
from shards.book import PLACE_MASK, waits_in_digest
from shards.broadcast import OPEN
from shards.changes import Now, Pause, Place, Wait, decode_notes
from shards.contacts import Contacts
from shards.core import Core
from shards.explaining import Explainer
from shards.history import Delivery, Routed
from shards.inbox import PLACE_SHIFT, Inbox
from shards.journal import SqliteJournal
from shards.meter import Meter
from shards.nearest import unknown
from shards.people import User
from shards.preferences import UserDocument, check_size, parse_document, problem_of_topic
from shards.stored import StoredFrame
from shards.template_parts import TemplateError, listed
from shards.wire.errors import RequestError
from shards.wire.ids import hash_user, is_broadcast
from shards.wire.notification import CHANNELS, PRIORITIES, Notification
from shards.wire.requests import PAGE_BYTES_MAX, Request

INBOX_PAGE = 50
FIELD_MAX = 200  # characters
DEAD_MAX = 1_000  # per call of dead.replay and dead.purge; the caller repeats


class Operations:
    """Dispatches on ``request.op``; what is not here never reaches a shard."""

    def __init__(self, core: Core, journal: SqliteJournal, inbox: Inbox) -> None:
        self._core = core
        self._journal = journal
        self._inbox = inbox
        self._explainer = Explainer(core)

    def answer(self, request: Request, now: Now) -> dict[str, Any]:
        match request.op:
            case "status":
                return self._status(request, now)
            case "explain":
                return self._explain(request, now)
            case "cancel":
                return self._cancel(request, now)
            case "user.put":
                return self._user_put(request)
            case "user.get":
                return self._user_get(request.user_id)
            case "user.delete":
                return self._user_delete(request)
            case "topic.subscribe" | "topic.unsubscribe":
                return self._subscribe(request, request.op == "topic.subscribe")
            case "inbox.list":
                return self._inbox_list(request)
            case "inbox.mark":
                return self._inbox_mark(request)
            case "template.list":
                settings = self._core.settings
                put = frozenset(settings.templates_put)
                return {"items": [listed(name, parts, name in put) for name, parts in settings.templates.items()]}
            case "dead.replay":
                return self._dead_replay(request, now)
            case "dead.purge":
                return self._dead_purge(request)
        raise RequestError("unknown_op", f"a shard does not know {request.op!r}", "op")

    def _explain(self, request: Request, now: Now) -> dict[str, Any]:
        notification = request.notification or {}
        others = (notification.get("user_id"), notification.get("recipients"))
        if isinstance(notification.get("topic"), str) and others == (None, None):
            return self._explainer.explain_topic(notification, request.id, now)
        return {"decisions": self._explainer.explain(notification, now)}

    # --- status ------------------------------------------------------------------------------------------------

    def _status(self, request: Request, now: Now) -> dict[str, Any]:
        if request.id is not None and is_broadcast(request.id):
            return {"broadcast": self._broadcast(request.id)}
        seq, index = self._place(request)
        row = self._journal.frames.get(seq)
        if row is None or index >= len(row.widths) or not row.widths[index]:
            raise RequestError("not_found", "no such notification; it may be older than retention", "id")
        user_id, notification = self._item(seq, index)
        deliveries = self._deliveries(row, index, user_id, now)
        routed = Routed(*self._journal.configs.routed_by(seq, index))
        core = self._core
        same = routed.config_version == core.settings.version  # else it may have been configured otherwise then
        by_default = same and core.routing.is_default(notification.category)
        found = history.decided(notification, row.at_us // 1000, routed, deliveries, by_default=by_default)
        return {
            "id": core.ids.make(hash_user(user_id), seq, index),
            "deliveries": [delivery.document() for delivery in deliveries],
            "decisions": [finding.document() for finding in found],
        }

    def _deliveries(self, row: StoredFrame, index: int, user_id: str, now: Now) -> list[Delivery]:
        frame = self._core.frames.get(row.seq)
        slots = ledger.words(row.slots) if frame is None else frame.slots
        notes = decode_notes(row.notes) if frame is None else frame.notes
        if frame is not None and frame.touched:  # what has changed in this turn is committed before the answer leaves
            updated_ms = now.wall_us // 1000
        else:
            updated_ms = (frame and frame.updated_ms) or self._journal.ledgers.updated_ms(row.seq)
        first = sum(row.widths[:index])
        return [
            Delivery(
                self._core.channel_names[ledger.channel_of(slots[slot])],
                slots[slot],
                notes.get(slot, (None, "", "")),
                updated_ms,
                self._journal.dead.letter(row.seq, slot) if ledger.outcome_of(slots[slot]) == ledger.DEAD else None,
                self._wait(slots[slot], user_id, (row.seq, slot), now),
                self._sent_as(user_id, row.seq << PLACE_SHIFT | index, slots[slot]),
            )
            for slot in range(first, first + row.widths[index])
        ]

    def _wait(self, word: int, user_id: str, place: Place, now: Now) -> Pause | Wait | None:
        """What an open delivery waits for that would be sent otherwise."""
        if ledger.outcome_of(word) not in {ledger.PENDING, ledger.RETRYING}:
            return None
        channel, frame = ledger.channel_of(word), self._core.frames.get(place[0])
        if ledger.outcome_of(word) == ledger.RETRYING or (frame is not None and place[1] in frame.flying):
            return self._core.pause_of(channel)
        return self._core.waits_for(channel, self._core.people.user(user_id), now)

    def _sent_as(self, user_id: str, place: int, word: int) -> str | None:
        """The id of the delivery by which a closed digest is sent that has this item."""
        if not waits_in_digest(word):
            return None
        digest = self._core.digests.holding(user_id, self._core.channel_names[ledger.channel_of(word)], place)
        if digest is None or digest.carrier is None:
            return None
        return self._core.ids.make(hash_user(user_id), digest.carrier >> PLACE_SHIFT, digest.carrier & PLACE_MASK)

    def _broadcast(self, id_: str) -> dict[str, Any] | None:
        """This shard's part of a broadcast; None if it has none."""
        broadcast = self._core.broadcasts.find(id_)
        if broadcast is None:
            return None
        outcomes: Counter[str] = Counter()
        for seq in self._journal.topics.pages(id_):
            frame, row = self._core.frames.get(seq), self._journal.frames.get(seq)
            words = frame.slots if frame else ledger.words(row.slots) if row else ()  # some may be pruned
            for value, count in Counter(words).items():
                outcomes[ledger.OUTCOMES[ledger.outcome_of(value)]] += count
        return {**broadcast.document(), "outcomes": outcomes}

    def _cancel_broadcast(self, id_: str) -> dict[str, Any]:
        """What is pending now is counted here, and ended in the turns that follow."""
        core = self._core
        broadcast = core.broadcasts.find(id_)
        if broadcast is None:
            return {"cancelled": 0, "was_open": None}
        if broadcast.state == "cancelled":
            return {"cancelled": 0, "was_open": False}
        count, was_open = 0, broadcast.state in OPEN
        for seq, still_open in self._journal.topics.open_pages(id_):
            frame = core.frames.get(seq)
            count += frame.open - len(frame.flying) if frame else still_open
            was_open = was_open or (frame.open if frame else still_open) > 0
        if was_open:
            core.broadcasts.cancel(broadcast, core.last)
        return {"cancelled": count, "was_open": was_open}

    def _cancel(self, request: Request, now: Now) -> dict[str, Any]:
        if request.id is not None and is_broadcast(request.id):
            return self._cancel_broadcast(request.id)
        seq, index = self._place(request)
        count, was_open = self._core.cancel(seq, index, now)
        if not was_open:
            raise RequestError("already_final", "every delivery of it has ended; nothing is left to cancel", "id")
        return {"cancelled": count}

    def _place(self, request: Request) -> tuple[int, int]:
        return self._place_by_id(request.id) if request.id is not None else self._place_by_key(request)

    def _place_by_id(self, text: str) -> tuple[int, int]:
        found = self._core.ids.find(text)
        if found is None:
            raise RequestError("not_found", "no such notification; it may be older than retention", "id")
        user_hash, seq, index = found
        try:
            user_id, _ = self._item(seq, index)
        except LookupError:
            raise RequestError("not_found", "no such notification; it may be older than retention", "id") from None
        if hash_user(user_id) != user_hash:
            raise RequestError("not_found", "no such notification", "id")
        return seq, index

    def _place_by_key(self, request: Request) -> tuple[int, int]:
        validation.check_user_id(request.user_id or "")
        digest = self._core.idempotency.digest(request.user_id or "", request.idempotency_key or "")
        seq = self._core.idempotency.find(digest)
        if seq is None:
            raise RequestError(
                "not_found", "no such key for this user; it may be older than the window", "idempotency_key"
            )
        content = self._core.contents.get(seq)
        place = content.find(digest) if content else None
        if place is None:
            raise RequestError("not_found", "no such key for this user", "idempotency_key")
        return seq, place

    def _item(self, seq: int, index: int) -> tuple[str, Notification]:
        """The notification at a place; ``LookupError`` if there is none."""
        content = self._core.contents.get(seq)
        if content is None:
            raise LookupError(seq)
        try:
            return content.item(index)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # what could not be routed is no list
            raise LookupError(seq) from None

    # --- users -------------------------------------------------------------------------------------------------

    def _document(self, user_id: str | None) -> UserDocument:
        validation.check_user_id(user_id or "")
        document = self._journal.users.get(user_id or "")
        if document is None:
            raise RequestError("not_found", f"no document is stored for {user_id!r:.80}", "user_id")
        return document

    def _user_get(self, user_id: str | None) -> dict[str, Any]:
        """The document, and which of its contacts are not used any more."""
        answer: dict[str, Any] = {"user": _plain(self._document(user_id))}
        dead = [
            {"channel": channel, "contact": contact, "since_ms": health.since_ms, "error": health.detail}
            for (channel, contact), health in self._core.health.of(user_id or "").items()
            if health.state == "dead"
        ]
        return {**answer, "not_used": dead} if dead else answer

    def _user_put(self, request: Request) -> dict[str, Any]:
        user_id = request.user_id or ""
        validation.check_user_id(user_id)
        document = parse_document(request.user)
        self._check_channels(document)
        self._journal.begin()
        self._journal.users.put(user_id, document)
        self._core.health.retain(user_id, document.contacts)
        self._core.people.forget(user_id)
        return {"user": _plain(document)}

    def _check_channels(self, document: UserDocument) -> None:
        """A misspelt channel would switch nothing off. Not so of categories: one may be configured later."""
        known = {*CHANNELS, *self._core.channel_names}
        given = [(name, "channels") for name in document.preferences.channels]
        for category, choice in document.preferences.categories.items():
            if not isinstance(choice, bool):
                given += [(name, f"categories.{category}") for name in choice]
        for name, table in given:
            if name not in known:
                field = f"user.preferences.{table}.{name}"[:FIELD_MAX]
                raise RequestError("unknown_channel", unknown("channel", name, known), field)

    def _user_delete(self, request: Request) -> dict[str, Any]:
        document = self._document(request.user_id)
        self._journal.begin()
        self._journal.users.put(request.user_id or "", None)
        self._core.health.retain(request.user_id or "", Contacts())
        self._core.people.forget(request.user_id or "")
        return {"user": _plain(document)}

    # --- topics ------------------------------------------------------------------------------------------------

    def _subscribe(self, request: Request, wanted: bool) -> dict[str, Any]:
        """What the user's document says of a topic; one is made where there is none."""
        user_id, topic = request.user_id or "", request.topic or ""
        validation.check_user_id(user_id)
        if problem := problem_of_topic(topic):
            raise RequestError("bad_value", problem, "topic")
        document = self._journal.users.get(user_id) or UserDocument()
        topics = document.preferences.topics
        if wanted != (topic in topics):
            topics = (*topics, topic) if wanted else tuple(one for one in topics if one != topic)
            preferences = msgspec.structs.replace(document.preferences, topics=topics)
            document = msgspec.structs.replace(document, preferences=preferences)
            check_size(document)
            self._journal.begin()
            self._journal.users.put(user_id, document)
            self._core.people.forget(user_id)
        return {"subscribed": wanted}

    # --- inbox -------------------------------------------------------------------------------------------------

    def _inbox_list(self, request: Request) -> dict[str, Any]:
        user = self._core.people.user(request.user_id or "")
        limit = request.limit or INBOX_PAGE
        try:
            after = int(request.cursor or 0)
        except ValueError:
            raise RequestError("bad_value", "cursor is not one that inbox.list answered", "cursor") from None
        found = self._inbox.places(user.signed_hash, after, limit + 1)
        items, ends = self._inbox_items(user, found[:limit])
        return {
            "items": items,
            "next": found[ends - 1][0] if len(found) > ends else None,
            "unread": self._inbox.unread(user.signed_hash, self._oldest()),
        }

    def _inbox_items(self, user: User, entries: list[tuple[int, int]]) -> tuple[list[dict[str, Any]], int]:
        """As many as an answer has room and a turn has time for, and of how many of the entries those are all."""
        items: list[dict[str, Any]] = []
        size = 0
        said = self._core.inapp_said([place for _, place in entries])
        with Meter() as turn:
            for at, (number, place) in enumerate(entries):
                if items and turn.left <= 0:
                    return items, at
                item = self._inbox_item(user, number, place, said.get(place))
                size += len(orjson.dumps(item))
                if items and size > PAGE_BYTES_MAX:
                    return items, at
                if item is not None:
                    items.append(item)
        return items, len(entries)

    def _oldest(self) -> int:
        """The first frame that is kept; the next one to come, if none is."""
        row = self._journal.database.execute("SELECT min(seq) FROM frames").fetchone()
        return int(row[0] or self._core.last + 1)

    def _inbox_item(self, user: User, number: int, place: int, digest: Notification | None) -> dict[str, Any] | None:
        """An inbox entry as its reader sees it; None if its frame is pruned, or a stranger's with an equal hash."""
        seq, index = place >> PLACE_SHIFT, place & (1 << PLACE_SHIFT) - 1
        found = self._journal.frames.deliveries(seq, index)
        if found is None:
            return None
        user_id, notification = self._item(seq, index)
        if user_id != user.user_id:
            return None
        at_us, words = found
        notification = digest or notification
        state = self._inbox.state(user.signed_hash, place)
        priority = next(ledger.priority_of(word) for word in words if ledger.channel_of(word) == self._core.inapp)
        return self.item_document(user, number, place, notification, priority, at_us, state)

    def item_document(
        self, user: User, number: int, place: int, notification: Notification, priority: int, at_us: int, state: str
    ) -> dict[str, Any]:
        """``priority`` is the one that it was accepted with: the configuration may know its category no more."""
        parts: Mapping[str, str] = {}
        if notification.template is not None:
            with contextlib.suppress(TemplateError):  # it is not as it was when this was delivered
                parts = self._core.inapp_parts(user, notification, priority)
        return {
            "id": self._core.ids.make(user.hash, place >> PLACE_SHIFT, place & (1 << PLACE_SHIFT) - 1),
            "cursor": number,
            "user_id": user.user_id,
            "category": notification.category,
            "type": notification.type,
            "priority": PRIORITIES[priority],
            "title": parts.get("title") or notification.title,
            "body": parts.get("body") or notification.body,
            "template": notification.template,
            "payload": notification.payload,
            "metadata": notification.metadata,
            "idempotency_key": notification.idempotency_key or notification.id,
            "accepted_at": at_us // 1000,
            "state": state,
        }

    def _inbox_mark(self, request: Request) -> dict[str, Any]:
        user = self._core.people.user(request.user_id or "")
        places = []
        for text in request.ids or ():
            _, seq, index = self._core.ids.find(text) or (0, 0, 0)
            places.append(seq << PLACE_SHIFT | index)
        numbers = self._inbox.numbers(user.signed_hash, frozenset(places))
        for at, place in enumerate(places):
            if place not in numbers:
                text = (request.ids or [])[at]
                raise RequestError("not_found", f"{text!r:.80} is not in this user's inbox", f"ids[{at}]")
        self._journal.begin()
        for place in numbers:
            self._inbox.mark(user.signed_hash, place, request.state or "seen")
        items, _ = self._inbox_items(user, [(number, place) for place, number in numbers.items()])
        return {"items": items, "next": None, "unread": self._inbox.unread(user.signed_hash, self._oldest())}

    # --- dead letters ------------------------------------------------------------------------------------------

    def _dead(self, request: Request, channels: list[str] | None = None) -> list[tuple[int, int, str]]:
        """``(seq, slot, reason)`` of the letters that a request concerns; without those that this turn has dealt with,
        which are still stored."""
        filters = {key: value for key, value in msgspec.to_builtins(request).items() if value is not None}
        limit = request.limit or DEAD_MAX
        gone = set(self._core.changes.revived)
        found = self._journal.dead.find(filters, limit + len(gone), channels)
        return [(seq, slot, letter.reason) for seq, slot, letter in found if (seq, slot) not in gone][:limit]

    def _dead_replay(self, request: Request, now: Now) -> dict[str, Any]:
        core, count = self._core, 0
        channels = [name for number, name in enumerate(core.channel_names) if core.people.is_configured(number)]
        for seq, slot, reason in self._dead(request, channels):
            count += self._core.revive(seq, slot, reason, now)
        return {"count": count}

    def _dead_purge(self, request: Request) -> dict[str, Any]:
        found = self._dead(request)
        for seq, slot, reason in found:
            self._core.dead_letters.forget(seq, slot, reason)
        return {"count": len(found)}


def _plain(document: UserDocument) -> Any:
    return msgspec.to_builtins(document)
