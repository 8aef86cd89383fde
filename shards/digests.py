"""Digests: deliveries that wait for each other, per user, channel, category and an optional key of the payload.

A window opens at its first item and does not move. When it closes, its items are sent as one delivery, by way of the
first of them, the carrier; they all take its outcome. A window belongs to one shard, and changes in the transaction of
what joined it, so that it is closed once, and its digest has one id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec
import xxhash

from shards.units import Seconds
from shards.wire.encoding import pack
from shards.wire.notification import Notification

SHOWN = 10  # items at each end that the template gets
EXPIRY_MARGIN_MS = 1_000  # a window closes so long before one of its items would expire
PLACE_SHIFT = 16


class DigestSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which deliveries wait for each other, and for how long. ``key`` names a key of the payload that parts them.

    ``when = "overflow"`` takes only what a limit with ``overflow = "digest"`` hands over. Empty lists mean all.
    """

    template: str
    window: Seconds = Seconds(3600.0)
    categories: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    key: str | None = None
    leading: bool = False
    items_max: int = 100
    when: Literal["always", "overflow"] = "always"

    def __post_init__(self) -> None:
        if not self.template:
            raise ValueError("template is empty; name the template that a digest is rendered with")
        if self.key == "":
            raise ValueError("key is empty; name a key of the payload, or leave it out")
        if not 0 < self.window <= 31 * 86_400:
            raise ValueError(f"window is {self.window}; it must be above 0 and at most 31d")
        if not 2 <= self.items_max <= 1_000:
            raise ValueError(f"items_max is {self.items_max}; it must be between 2 and 1000")
        if self.leading and self.when == "overflow":
            raise ValueError('leading: what exceeds a limit is never sent at once; leave it out with when = "overflow"')

    def covers(self, category: str, channel: str) -> bool:
        return (not self.categories or category in self.categories) and (not self.channels or channel in self.channels)


class Digest(msgspec.Struct, array_like=True):
    """A window, open until ``due_ms``, or closed, and sent by way of ``carrier``. Items are places in the journal."""

    id: str
    user_id: str
    channel: str
    category: str
    name: str  # of its settings
    template: str
    key: str
    lane: int
    opened_ms: int
    due_ms: int | None
    places: list[int]
    items_max: int
    carrier: int | None = None
    expires_ms: int | None = None  # when all of its items have expired
    withdrawn: list[int] = []  # items that were cancelled while it was being sent

    @property
    def window(self) -> str:
        """What its items have in common; no part of it can have a NUL but the last."""
        return window_of(self.user_id, self.channel, self.category, self.name, self.key)

    @property
    def collapse(self) -> str:
        """A short name for its window: the digest of one replaces that of the window before."""
        return xxhash.xxh3_64_hexdigest(self.window.encode())

    def row(self) -> tuple[str, str, int, int | None, int | None, bytes]:
        """As the journal keeps it."""
        return self.id, self.window, self.lane, self.due_ms, self.carrier, pack(self)


def window_of(user_id: str, channel: str, category: str, name: str, key: str) -> str:
    return f"{user_id}\0{channel}\0{category}\0{name}\0{key}"


class Store(Protocol):
    """What a journal knows of digests."""

    def open_window(self, window: str) -> Digest | None: ...

    def digests_of(self, seq: int) -> list[Digest]: ...

    def digests_holding(self, prefix: str, place: int) -> list[Digest]: ...


class Digests:
    """The windows of a shard. What changes within a turn is in ``changed``, by id, until the turn is committed."""

    def __init__(self, settings: Mapping[str, DigestSettings], store: Store) -> None:
        self.changed: dict[str, Digest | None] = {}
        self._settings = settings
        self._store = store
        self._open: dict[str, Digest] = {}  # windows of this turn
        self._sent: dict[int, list[Digest]] = {}  # those of ``changed`` that are closed, by their carriers' frames

    def configure(self, settings: Mapping[str, DigestSettings]) -> None:
        self._settings = settings

    def covering(self, category: str, channel: str, when: Literal["always", "overflow"]) -> str | None:
        """The name of the digest that takes such deliveries; the first that does."""
        for name, settings in self._settings.items():
            if settings.when == when and settings.covers(category, channel):
                return name
        return None

    def key(self, name: str, notification: Notification) -> str:
        """What parts the windows of one user by the payload."""
        wanted = self._settings[name].key
        value = (notification.payload or {}).get(wanted) if wanted is not None else None
        return "" if value is None else str(value)[:255]

    def open(self, user_id: str, channel: str, category: str, name: str, key: str) -> Digest | None:
        """The window that an item would join."""
        window = window_of(user_id, channel, category, name, key)
        digest = self._open.get(window) or self._store.open_window(window)
        digest = self.newest(digest) if digest else None  # it may have closed in this turn
        return None if digest is None or digest.due_ms is None or len(digest.places) >= digest.items_max else digest

    def leads(self, name: str, digest: Digest | None) -> bool:
        """Whether an item is to be sent at once: it opens its window."""
        settings = self._settings[name]
        return digest is None and settings.leading and settings.when == "always"

    def due_ms(self, name: str, digest: Digest | None, expires_ms: int | None, now_ms: int) -> int:
        """When the window closes that an item joins, or, without one, opens."""
        if digest is None or digest.due_ms is None:
            due_ms = now_ms + max(1, int(self._settings[name].window * 1000))
        else:
            due_ms = now_ms if len(digest.places) + 1 >= digest.items_max else digest.due_ms
        return due_ms if expires_ms is None else min(due_ms, max(now_ms, expires_ms - EXPIRY_MARGIN_MS))

    def fresh(
        self, made_of: tuple[str, str, str, str, str, str], lane: int = 0, now_ms: int = 0, due_ms: int = 0
    ) -> Digest:
        """A new window, of (id, user id, channel, category, settings' name, key)."""
        identifier, user_id, channel, category, name, key = made_of
        settings = self._settings[name]
        return Digest(
            identifier, user_id, channel, category, name, settings.template, key, lane, now_ms, due_ms, [],
            settings.items_max,
        )  # fmt: skip

    def join(
        self,
        digest: Digest | None,
        fresh: tuple[str, str, str, str, str, str],
        item: tuple[int, int, int | None],
        now_ms: int,
    ) -> tuple[Digest, bool]:
        """Put an item into its window, or open one; whether the item is to be sent at once, as the leading one.

        ``fresh`` is what a new window is made of; ``item`` (place, lane, expiry in ms).
        """
        place, lane, expires_ms = item
        name = fresh[4]
        leads = self.leads(name, digest)
        due_ms = self.due_ms(name, digest, None if leads else expires_ms, now_ms)
        digest = digest or self.fresh(fresh, lane, now_ms, due_ms)
        if not leads:
            digest.places.append(place)
            digest.due_ms = due_ms
        self._open[digest.window] = digest
        self.save(digest)
        return digest, leads

    def leave(self, digest: Digest, place: int) -> None:
        """An item of an open window was cancelled."""
        digest.places.remove(place)
        self._open[digest.window] = digest
        self.save(digest)

    def close(self, digest: Digest, live: list[int], expires_ms: int | None) -> None:
        """The window is over: what is left of it is sent by way of the first item; an empty one is forgotten."""
        self._open.pop(digest.window, None)
        digest.due_ms = None
        digest.places = live
        digest.expires_ms = expires_ms
        digest.carrier = live[0] if live else None
        self.save(digest)

    def save(self, digest: Digest) -> None:
        """As it is now; one that is closed and has no item is forgotten."""
        self.changed[digest.id] = digest if digest.places or digest.due_ms is not None else None
        if digest.carrier is not None:
            self._sent.setdefault(digest.carrier >> PLACE_SHIFT, []).append(digest)

    def newest(self, digest: Digest) -> Digest | None:
        """What this turn has made of one that the journal gave; None if it is no more."""
        return self.changed.get(digest.id, digest)

    def opened(self, lane: int) -> list[Digest]:
        """The windows of a lane that this turn has opened or changed."""
        return [one for one in self.changed.values() if one and one.lane == lane and one.due_ms is not None]

    def holding(self, user_id: str, channel: str, place: int) -> Digest | None:
        """The digest of the user on the channel that has an item."""
        prefix = f"{user_id}\0{channel}\0"
        for digest in self.changed.values():
            if digest is not None and digest.window.startswith(prefix) and place in digest.places:
                return digest
        found = self._store.digests_holding(prefix, place)
        return next((digest for digest in found if digest.id not in self.changed), None)

    def of_frame(self, seq: int) -> list[Digest]:
        """Those that are sent by way of a delivery of the frame."""
        known = [*self._store.digests_of(seq), *self._sent.get(seq, ())]
        found = {digest.id: self.newest(digest) for digest in known}
        return [one for one in found.values() if one and one.carrier is not None and one.carrier >> PLACE_SHIFT == seq]

    def committed(self) -> None:
        self.changed = {}
        self._open.clear()
        self._sent.clear()


def composed(digest: Digest, items: list[tuple[str, Notification]]) -> Notification:
    """What a digest says: its template gets ``items`` (the first and the last ten) and ``count``.

    The title is that of its last item, for channels that render nothing. ``items`` are (id, notification).
    """
    shown = items if len(items) <= 2 * SHOWN else [*items[:SHOWN], *items[-SHOWN:]]
    last = items[-1][1]
    return msgspec.structs.replace(
        last,
        user_id=digest.user_id,
        recipients=None,
        topic=None,
        template=digest.template,
        channels=None,
        idempotency_key=None,
        id=digest.id,
        send_at=None,
        expires_at=digest.expires_ms,
        payload={"count": len(items), "items": [_item(*one) for one in shown]},
    )


def _item(identifier: str, notification: Notification) -> dict[str, Any]:
    said = {"id": identifier, "type": notification.type, "title": notification.title, "body": notification.body}
    return {**said, "template": notification.template, "payload": notification.payload}
