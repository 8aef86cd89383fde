"""The verdict on every notification of a frame: accepted, a duplicate (of which), or rejected (why).

Most frames are plain: every notification has a user, a title, a key, and nothing that needs a look of its own. Their
columns are judged by whole lists. Any other frame is judged entry by entry, with the same result.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection
from itertools import repeat
from typing import NamedTuple

import msgspec

from shards import validation
from shards.broadcasts import Broadcasts, UnknownTopicError
from shards.content_keys import content_key
from shards.contents import Content, Contents
from shards.dedupe import NO_DIGEST, IdempotencySet
from shards.identifiers import Identifiers
from shards.people import NO_DECISION, Decision, Decisions, People, User
from shards.preferences import ALLOW_ALL
from shards.rules import Look, Routing, Rule
from shards.wire.encoding import is_json, pack
from shards.wire.errors import Error, RequestError
from shards.wire.link import EXPANSION, Data, Duplicate, Rejection, Verdict
from shards.wire.notification import MADE_KEY, Notification, Plain

_plain = msgspec.msgpack.Decoder(list[Plain])
_plain_json = msgspec.json.Decoder(list[Plain])

NOBODY = User("", 0, ALLOW_ALL, Decisions(lambda _key, _choices: NO_DECISION, ALLOW_ALL))


class Judged(NamedTuple):
    """By position after fan-out; duplicates and rejections have ``NO_DECISION``."""

    users: list[User]
    decisions: list[Decision]
    keys: list[str | None]
    digests: bytes | None
    expiry: dict[int, int] | None  # position -> expires_at in ms, of those that have one
    schedule: dict[int, int] | None  # position -> send_at in ms, of those that are not due yet
    duplicates: list[Duplicate]
    rejected: list[Rejection]
    raw: dict[int, tuple[str, bytes]]  # of the rejected: user id as far as known, and the entry
    rules: array[int] | None = None  # the configured rules' numbers, if any has decided something; 0 is none
    topics: frozenset[int] = frozenset()  # positions that are addressed to a topic

    def counts(self) -> tuple[int, int, int]:
        """Accepted, duplicate and rejected, without what goes to topics: that counts with its users, page by page."""
        apart = self.topics
        duplicates = sum(one.index not in apart for one in self.duplicates)
        rejected = sum(one.index not in apart for one in self.rejected)
        return len(self.decisions) - len(apart) - duplicates - rejected, duplicates, rejected

    def verdict(self) -> Verdict | None:
        return Verdict(self.duplicates, self.rejected) if self.duplicates or self.rejected else None


class Judge:
    def __init__(
        self,
        ids: Identifiers,
        routing: Routing,
        people: People,
        idempotency: IdempotencySet,
        contents: Contents,
        broadcasts: Broadcasts,
        horizon_s: float,
        templates: Collection[str] = (),
    ) -> None:
        self._templates = templates
        self._horizon_ms = int(horizon_s * 1000)
        self._ids = ids
        self._routing = routing
        self._people = people
        self._idempotency = idempotency
        self._contents = contents
        self._broadcasts = broadcasts

    def judge(self, data: Data, seq: int, now_ms: int) -> Judged:
        """Judge a frame, and remember its keys; what a repeated key meant first is found through ``Contents``."""
        content = Content(data.body, data.fanned, None)
        judged = None if data.fanned else self._judge_columns(content, seq)
        if judged is None:
            judged = self._judge_entries(data, content, seq, now_ms)
        content.digests = judged.digests or b""
        self._contents.add_new(seq, content)
        return judged

    # --- the plain frame ---------------------------------------------------------------------------------------

    def _judge_columns(self, content: Content, seq: int) -> Judged | None:
        """None if anything in the frame needs a look of its own; nothing has been changed then."""
        try:
            notifications = (_plain_json if is_json(content.body) else _plain).decode(content.body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None
        names = [notification.user_id for notification in notifications]
        keys = [notification.idempotency_key for notification in notifications]
        joined = "".join(keys)
        if "\0" in joined or (self._routing.has_content_keys and MADE_KEY in joined):
            return None
        people = self._people
        users: list[User | None] = list(map(people.known.get, names))
        try:
            if None in users:
                # the cache may be emptied on the way: what was found stays valid (from here on none is None, which the
                # type cannot say without a second list)
                users = [user or people.user(name) for user, name in zip(users, names, strict=True)]
            decisions = [
                user.decisions[notification.category, notification.priority]  # type: ignore[union-attr]
                for user, notification in zip(users, notifications, strict=True)
            ]
        except (RequestError, KeyError):
            return None
        digests = self._idempotency.digests(names, keys)
        duplicates: list[Duplicate] = []
        found = self._idempotency.claim(digests, seq)
        judged = Judged(users, decisions, keys, None, None, None, duplicates, [], {})  # type: ignore[arg-type]
        repeated = [index for index, original in enumerate(found) if original != seq]
        if len(set(digests)) != len(digests):
            first: dict[bytes, int] = {}
            repeated = [
                index
                for index, digest in enumerate(digests)
                if found[index] != seq or first.setdefault(digest, index) != index
            ]
        if repeated:
            self._drop_repeated(judged, repeated, notifications, digests, found, content, seq)
        return judged._replace(digests=b"".join(digests))

    def _drop_repeated(
        self,
        judged: Judged,
        repeated: list[int],
        notifications: list[Plain],
        digests: list[bytes],
        found: list[int],
        here: Content,
        seq: int,
    ) -> None:
        """Verdicts for the keys that were known before, in earlier frames or earlier in this one."""
        for index in repeated:
            digest, original = digests[index], found[index]
            content: Content | None = here
            if original == seq:
                here.digests = b"".join(digests)
            else:
                content = self._contents.get(original)
            user = judged.users[index]
            duplicate = self._duplicate(index, notifications[index], here, user, digest, original, content)
            if duplicate is None:
                self._idempotency.add(digest, seq)
                continue
            judged.duplicates.append(duplicate)
            judged.decisions[index] = NO_DECISION
            digests[index] = NO_DIGEST

    # --- any frame ---------------------------------------------------------------------------------------------

    def _judge_entries(self, data: Data, here: Content, seq: int, now_ms: int) -> Judged:
        users: list[User] = []
        decisions: list[Decision] = []
        keys: list[str | None] = []
        digests: list[bytes] = []
        expiry: dict[int, int] = {}
        schedule: dict[int, int] = {}
        topics = set()
        judged = Judged(users, decisions, keys, None, None, None, [], [], {})
        for index, item in enumerate(validation.decode_items(data.body, data.fanned)):
            if isinstance(item, validation.RejectedItem):
                self._reject(judged, digests, index, item.error, item.user_id, item.raw)
                if item.to_topic:
                    topics.add(index)
                continue
            user_id, notification = item
            if notification.topic is not None and notification.user_id is None and data.source != EXPANSION:
                topics.add(index)
                self._judge_topic(judged, digests, index, user_id, notification, now_ms)
                continue
            try:
                user, decision, key, distinct = self.check(user_id, notification, now_ms)
            except RequestError as error:
                raw = _as_it_came(here, index, user_id, notification)
                self._reject(judged, digests, index, error.error, user_id, raw)
                continue
            digest = NO_DIGEST
            if distinct is not None:
                digest = self._idempotency.digest(user_id, distinct)
                original = self._idempotency.find(digest)
                if original is not None:
                    content: Content | None = here
                    if original == seq:
                        here.digests = b"".join(digests)
                    else:
                        content = self._contents.get(original)
                    duplicate = self._duplicate(index, notification, None, user, digest, original, content)
                    if duplicate is not None:
                        judged.duplicates.append(duplicate)
                        self._drop(judged, digests)
                        continue
                self._idempotency.add(digest, seq)
            users.append(user)
            decisions.append(decision)
            keys.append(key)
            digests.append(digest)
            if notification.expires_at is not None:
                expiry[index] = int(notification.expires_at)
            if notification.send_at is not None and int(notification.send_at) > now_ms:
                schedule[index] = int(notification.send_at)
        keyed = any(digest is not NO_DIGEST for digest in digests)
        rules = array("H", [decision.rule.number for decision in decisions]) if self._routing.rules else None
        return judged._replace(
            digests=b"".join(digests) if keyed else None,
            expiry=expiry or None,
            schedule=schedule or None,
            rules=rules if rules and any(rules) else None,
            topics=frozenset(topics),
        )

    def _judge_topic(
        self, judged: Judged, digests: list[bytes], index: int, id_: str, notification: Notification, now_ms: int
    ) -> None:
        """It is accepted once, under an id that is the same for all repetitions of its key; nothing is planned yet."""
        try:
            duplicate = self.original_broadcast(index, id_, notification)
            if duplicate is not None:
                judged.duplicates.append(duplicate)
            else:
                self.check_content(notification, NOBODY, now_ms)
                self._broadcasts.accept(id_, notification, now_ms)
        except RequestError as refused:
            near = refused.near if isinstance(refused, UnknownTopicError) else []
            judged.rejected.append(Rejection(index, refused.error, near))
        self._drop(judged, digests)

    def check(
        self, user_id: str, notification: Notification, now_ms: int, looks: list[Look] | None = None
    ) -> tuple[User, Decision, str | None, str | None]:
        """Everything that makes a notification acceptable; raises ``RequestError``.

        Its key is the producer's. The last is what it repeats another by: that key, or one made of its content. A key
        that its client made says nothing of the content. What came by way of a topic was compared there.
        """
        validation.check_address(notification)
        user = self._people.user(user_id)
        rule, key = self.check_content(notification, user, now_ms, looks)
        distinct = key
        if rule.content_key and notification.topic is None and (key is None or key.startswith(MADE_KEY)):
            distinct = content_key(rule.content_key, user_id, notification) or key
        return user, user.decisions[rule], key, distinct

    def check_content(
        self, notification: Notification, user: User, now_ms: int, looks: list[Look] | None = None
    ) -> tuple[Rule, str | None]:
        """The rule and the producer's key; raises ``RequestError``."""
        if notification.payload is not None:
            validation.check_document("payload", notification.payload)
        rule = self._routing.resolve(notification, user.user_id, now_ms, user.choices.locale or "", user.zone, looks)
        if not validation.has_content(notification):
            raise RequestError(
                "bad_value", "nothing to say: give at least one of title, body, template, payload.message", "title"
            )
        validation.check_rare(notification, now_ms, self._horizon_ms, self._templates)
        key = notification.idempotency_key
        if key is not None:
            validation.check_key("idempotency_key", key)
        if notification.id is not None:
            validation.check_key("id", notification.id)
            key = notification.id if key is None else key
        return rule, key

    def _reject(self, judged: Judged, digests: list[bytes], index: int, error: Error, user_id: str, raw: bytes) -> None:
        judged.rejected.append(Rejection(index, error))
        judged.raw[index] = (user_id, raw)
        self._drop(judged, digests)

    @staticmethod
    def _drop(judged: Judged, digests: list[bytes]) -> None:
        judged.users.append(NOBODY)
        judged.decisions.append(NO_DECISION)
        judged.keys.append(None)
        digests.append(NO_DIGEST)

    # --- duplicates --------------------------------------------------------------------------------------------

    def original(self, user: User, notification: Notification, key: str) -> Duplicate | None:
        """The verdict that this key would get now; None if it is new."""
        digest = self._idempotency.digest(user.user_id, key)
        original = self._idempotency.find(digest)
        if original is None:
            return None
        return self._duplicate(0, notification, None, user, digest, original, self._contents.get(original))

    def original_broadcast(self, index: int, id_: str, notification: Notification) -> Duplicate | None:
        """The verdict on a notification to a topic whose id is known; None if it is new."""
        known = self._broadcasts.find(id_)
        return None if known is None else Duplicate(index, id_, _said(known.notification()) != _said(notification))

    def _duplicate(
        self,
        index: int,
        notification: Notification | Plain,
        here: Content | None,
        user: User,
        digest: bytes,
        original: int,
        content: Content | None,
    ) -> Duplicate | None:
        """The verdict on a repeated key; None if the original turns out to be lost, and the key with it.

        ``here`` has the repetition's bytes: most often they are the original's as well.
        """
        place = content.find(digest) if content else None
        if content is None or place is None:
            return None
        try:
            repeats = here is not None and not content.fanned and here.raw(index) == content.raw(place)
            mismatch = not repeats and _said(content.item(place)[1]) != _said(notification)
        except LookupError:
            mismatch = True
        return Duplicate(index, self._ids.make(user.hash, original, place), mismatch)


def _as_it_came(content: Content, index: int, user_id: str, notification: Notification) -> bytes:
    if not content.fanned:
        return content.raw(index)
    if notification.recipients is not None:  # each keeps it without the others
        notification = msgspec.structs.replace(notification, user_id=user_id, recipients=None)
    try:
        return pack(notification)
    except OverflowError:  # an integer beyond 64 bits, which only JSON can say
        return repr(notification).encode()


_SAID = (
    "category", "type", "priority", "title", "body", "template", "payload", "channels", "send_at", "expires_at",
    "metadata",
)  # fmt: skip


def _said(notification: Notification | Plain) -> list[object]:
    """All that makes two notifications the same to their user; addressing and keys aside."""
    said = list(map(getattr, repeat(notification), _SAID, repeat(None)))
    for at, name in ((8, "send_at"), (9, "expires_at")):
        value = said[at]
        if isinstance(value, str):
            said[at] = validation.instant_ms(name, value)
    return said
