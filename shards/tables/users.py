"""Users' documents. Who is subscribed to what changes with them."""

from __future__ import annotations

import msgspec

from shards.preferences import UserDocument
from shards.schema import checksum
from shards.tables.rows import Rows
from shards.tables.topics import TopicTables
from shards.wire.encoding import pack
from shards.wire.notification import EVERY_USER


class UserTable:
    def __init__(self, rows: Rows, topics: TopicTables) -> None:
        self._rows = rows
        self._topics = topics
        self._stored = rows.any("users")  # whether there may be any, which spares many installations the look

    def get(self, user_id: str) -> UserDocument | None:
        if not self._stored:
            return None
        row = self._rows.get("users", user_id)
        return msgspec.msgpack.decode(row[1], type=UserDocument) if row else None

    def put(self, user_id: str, document: UserDocument | None) -> bool:
        """Store a document, or delete it; whether there was one."""
        before = self.get(user_id)
        self._topics.change(user_id, topics_of(before), topics_of(document))
        if document is None:
            self._rows.run("DELETE FROM users WHERE user_id = ?", (user_id,))
        else:
            row = (user_id, pack(document))
            self._rows.run("INSERT OR REPLACE INTO users VALUES (?, ?, ?)", (*row, checksum(*row)))
            self._stored = True
        return before is not None


def topics_of(document: UserDocument | None) -> tuple[str, ...]:
    """What reaches a user, by what is stored of them."""
    return () if document is None else (EVERY_USER, *document.preferences.topics)
