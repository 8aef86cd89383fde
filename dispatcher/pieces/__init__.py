"""Parts of the dispatcher that are of use in a program of one's own: in memory, without sockets, files or processes.

None of them looks at a clock: the time is an argument, so that a test says what time it is. See docs/pieces.md.
"""

from __future__ import annotations

from dispatcher.pieces.limiter import RateLimiter
from dispatcher.pieces.tracker import DeliveryTracker
from shards.lanes import NotificationQueue
from shards.retry import RetryPolicy
from shards.template_parts import TemplateError, UnknownTemplateError
from shards.templates import TemplateEngine
from shards.wire.notification import Priority

__all__ = [
    "DeliveryTracker",
    "NotificationQueue",
    "Priority",
    "RateLimiter",
    "RetryPolicy",
    "TemplateEngine",
    "TemplateError",
    "UnknownTemplateError",
]
