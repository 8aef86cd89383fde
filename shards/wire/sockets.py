"""What comes over which internal socket; ``link.ToShard`` is that of the link itself."""

from __future__ import annotations

from shards.wire.control import Publish, Query, Reply, Subscriptions
from shards.wire.link import Report, Stalled, Turn
from shards.wire.outbox import Outbox, OutboxAck
from shards.wire.workers import Offer, Work

RECONNECT_MS = 10  # libzmq would look only every 100 ms whether the process at the other end has started

FromShard = Report | Reply | Publish | Stalled | Turn | Offer
ToShardControl = Query | OutboxAck | Subscriptions | Work
ToCollector = Outbox | Query
