"""How much of an attached channel may be handed over: what its workers have room for, as the router last said."""

from __future__ import annotations

from shards.changes import Pause


class Credit:
    """``count`` deliveries may be unclaimed: handed over, and not with a worker yet. Without a worker none may."""

    __slots__ = ("count", "since_ms", "unclaimed", "workers")

    def __init__(self, since_ms: int = 0) -> None:
        self.count = 0
        self.unclaimed = 0
        self.workers = 0
        self.since_ms = since_ms  # when the number of workers last changed

    @property
    def left(self) -> int:
        return self.count - self.unclaimed

    def pause(self) -> Pause | None:
        """What a delivery waits for while there is no worker."""
        return None if self.workers else Pause("no_worker", self.since_ms, "no worker is attached to this channel")
