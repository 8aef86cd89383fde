"""The shard's end of the link: which numbered frames it takes, and what it reports of them.

A number means something only together with its router's never-reused epoch. ``seq = base + n``: the journal's own
numbers go on over every change of router. The rules are those of docs/architecture.md, "The link".
"""

from __future__ import annotations

from typing import Literal

from shards.wire.link import Data, Ping

Verdict = Literal["take", "old", "gap"]


class Intake:
    """``last`` is the journal's last seq, ``epoch`` the router's ``(epoch, gen)`` that ``base`` belongs to."""

    def __init__(self, last: int, epoch: tuple[int, int], base: int) -> None:
        self.last = last
        self.epoch = epoch
        self.base = base
        self._newest_conn = (epoch, 0)  # the newest connection seen
        self._asked = ((0, 0), -1)  # the connection on which a resend was asked for since the last ping

    @property
    def have(self) -> int:
        """The last number of ``epoch`` that the journal has."""
        return self.last - self.base

    def offer(self, data: Data) -> Verdict:
        """Judge a frame's number; "take" has advanced ``last``, so the frame must now be journaled."""
        epoch = (data.epoch, data.gen)
        self._see(epoch, data.conn)
        if epoch == self.epoch:
            if data.n == self.have + 1:
                self.last += 1
                return "take"
            return "old" if data.n <= self.have else "gap"
        if epoch < self.epoch:
            return "old"
        if data.n != 1:
            return "gap"
        self.epoch, self.base = epoch, self.last
        self.last += 1
        return "take"

    def wants_resend(self, message: Data | Ping) -> bool:
        """Whether a gap, or a ping that announces more than came, is worth a request: on the newest connection,
        once between two pings."""
        connection = ((message.epoch, message.gen), message.conn)
        if connection != self._newest_conn:
            return False
        if isinstance(message, Data):
            if self._asked == connection:
                return False
            self._asked = connection
        return True

    def missing(self, ping: Ping) -> bool:
        """Whether a ping announces frames that did not come."""
        epoch = (ping.epoch, ping.gen)
        self._see(epoch, ping.conn)
        self._asked = ((0, 0), -1)
        return (epoch == self.epoch and ping.hi > self.have) or (epoch > self.epoch and ping.hi > 0)

    def _see(self, epoch: tuple[int, int], conn: int) -> None:
        if (epoch, conn) > self._newest_conn:
            self._newest_conn = (epoch, conn)
