"""What notifications say, by their place in the journal. The last few frames are at hand, decoded as far as asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from shards import validation
from shards.dedupe import DIGEST_BYTES
from shards.wire.encoding import is_json
from shards.wire.notification import Notification

FRAMES_KEPT = 256  # a retrying producer repeats what it sent within seconds
BYTES_KEPT = 32 * 2**20  # of their bodies; the last frame is kept whatever its size


class Content:
    """A frame's body and its idempotency digests, by position after fan-out."""

    __slots__ = ("_items", "body", "digests", "fanned")

    def __init__(self, body: bytes, fanned: bool, digests: bytes | None) -> None:
        self.body = body
        self.fanned = fanned
        self.digests = digests or b""
        self._items: list[validation.Item | validation.RejectedItem] | list[msgspec.Raw] | None = None

    def may_name_templates(self) -> bool:
        """Whether it is worth a look: JSON may write the key with escapes."""
        return b"template" in self.body or (is_json(self.body) and b"\\u" in self.body)

    def item(self, index: int) -> validation.Item:
        """``(user id, notification)`` at a position; ``LookupError`` if there is none, or it was undecodable."""
        if self._items is None:
            self._items = validation.decode_items(self.body, True) if self.fanned else validation.raw_entries(self.body)
        found = self._items[index]
        if isinstance(found, validation.RejectedItem):
            raise LookupError(index)
        return found if isinstance(found, tuple) else validation.decode_entry(found)

    def raw(self, index: int) -> bytes:
        """An entry as it came, of a frame without fan-out."""
        if self._items is None:
            self._items = validation.raw_entries(self.body)
        found = self._items[index]
        assert isinstance(found, msgspec.Raw)
        return bytes(found)

    def find(self, digest: bytes) -> int | None:
        """The position of a key."""
        place = self.digests.find(digest)
        while place > 0 and place % DIGEST_BYTES:
            place = self.digests.find(digest, place + 1)
        return place // DIGEST_BYTES if place >= 0 else None


class Contents:
    """Keeps the frames used last; ``read`` fetches others from the journal."""

    def __init__(self, read: Callable[[int], tuple[bytes, bool, bytes | None] | None]) -> None:
        self._read = read
        self._kept: OrderedDict[int, Content] = OrderedDict()
        self._bytes = 0
        self._new: dict[int, Content] = {}  # of this turn: the journal does not have them yet

    def add_new(self, seq: int, content: Content) -> None:
        self._new[seq] = content

    def committed(self) -> None:
        for seq, content in self._new.items():
            self.add(seq, content)
        self._new.clear()

    def add(self, seq: int, content: Content) -> None:
        self._kept[seq] = content
        self._bytes += len(content.body)
        while len(self._kept) > FRAMES_KEPT or (self._bytes > BYTES_KEPT and len(self._kept) > 1):
            self._bytes -= len(self._kept.popitem(last=False)[1].body)

    def get(self, seq: int) -> Content | None:
        """A frame's content; None if it is pruned."""
        content = self._new.get(seq)
        if content is not None:
            return content
        content = self._kept.get(seq)
        if content is not None:
            self._kept.move_to_end(seq)
            return content
        row = self._read(seq)
        if row is None:
            return None
        content = Content(*row)
        self.add(seq, content)
        return content

    def notification(self, seq: int, index: int) -> Notification:
        """``LookupError`` if the frame is pruned."""
        content = self.get(seq)
        if content is None:
            raise LookupError(seq)
        return content.item(index)[1]
