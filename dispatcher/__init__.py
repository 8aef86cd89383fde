"""The control plane of the notification dispatcher: what faces people and other programs.

The names below are loaded when they are first used, so that the command line starts as fast as without them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dispatcher.pieces import DeliveryTracker as DeliveryTracker
    from dispatcher.pieces import NotificationQueue as NotificationQueue
    from dispatcher.pieces import Priority as Priority
    from dispatcher.pieces import RateLimiter as RateLimiter
    from dispatcher.pieces import RetryPolicy as RetryPolicy
    from dispatcher.pieces import TemplateEngine as TemplateEngine
    from dispatcher.pieces import TemplateError as TemplateError

__version__ = "0.1.0"

_PLACES = dict.fromkeys(
    (
        "DeliveryTracker",
        "NotificationQueue",
        "Priority",
        "RateLimiter",
        "RetryPolicy",
        "TemplateEngine",
        "TemplateError",
    ),
    "dispatcher.pieces",
)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
