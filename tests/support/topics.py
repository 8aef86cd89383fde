"""Topics and broadcasts of a shard that has none."""

from __future__ import annotations

from shards.broadcast import Broadcast


class NoTopics:
    """Nobody is subscribed to anything."""

    def users(self, topic: str) -> int:
        return 0

    def near(self, topic: str, count: int) -> list[str]:
        return []

    def page(self, topic: str, after: str, count: int) -> list[str]:
        return []

    def open_broadcasts(self) -> list[Broadcast]:
        return []

    def finished_broadcasts(self, count: int) -> list[Broadcast]:
        return []

    def broadcast(self, id_: str) -> Broadcast | None:
        return None

    def last_open_page(self, id_: str, before: int) -> int | None:
        return None
