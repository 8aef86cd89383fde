"""The control plane of the notification dispatcher: what faces people and other programs.

The names below are what Python programs import. They are loaded when they are first used, so that the command line
starts as fast as without them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dispatcher.api.aio import AsyncNotificationService as AsyncNotificationService
    from dispatcher.api.errors import AlreadyFinalError as AlreadyFinalError
    from dispatcher.api.errors import DispatcherError as DispatcherError
    from dispatcher.api.errors import NotFoundError as NotFoundError
    from dispatcher.api.errors import OverloadedError as OverloadedError
    from dispatcher.api.errors import RejectedError as RejectedError
    from dispatcher.api.errors import RequestError as RequestError
    from dispatcher.api.errors import ShutdownError as ShutdownError
    from dispatcher.api.errors import UnavailableError as UnavailableError
    from dispatcher.api.inapp_channel import InAppChannel as InAppChannel
    from dispatcher.api.results import BatchReceipt as BatchReceipt
    from dispatcher.api.results import DeadLetter as DeadLetter
    from dispatcher.api.results import Decision as Decision
    from dispatcher.api.results import DeliveryStatus as DeliveryStatus
    from dispatcher.api.results import Duplicate as Duplicate
    from dispatcher.api.results import InboxItem as InboxItem
    from dispatcher.api.results import Receipt as Receipt
    from dispatcher.api.results import Rejection as Rejection
    from dispatcher.api.results import Status as Status
    from dispatcher.curve import ClientKeys as ClientKeys
    from dispatcher.errors import StartError as StartError
    from dispatcher.pieces import DeliveryTracker as DeliveryTracker
    from dispatcher.pieces import NotificationQueue as NotificationQueue
    from dispatcher.pieces import Priority as Priority
    from dispatcher.pieces import RateLimiter as RateLimiter
    from dispatcher.pieces import RetryPolicy as RetryPolicy
    from dispatcher.pieces import TemplateEngine as TemplateEngine
    from dispatcher.pieces import TemplateError as TemplateError
    from dispatcher.service import NotificationService as NotificationService
    from shards.channels.base import Context as Context
    from shards.channels.base import Delivery as Delivery
    from shards.channels.base import NotificationChannel as NotificationChannel
    from shards.channels.base import Recipient as Recipient
    from shards.channels.base import SendError as SendError
    from shards.channels.base import Sent as Sent
    from shards.channels.email import EmailChannel as EmailChannel
    from shards.channels.push import PushChannel as PushChannel
    from shards.channels.sms import SmsChannel as SmsChannel
    from shards.channels.system import SystemChannel as SystemChannel
    from shards.channels.webhook import WebhookChannel as WebhookChannel
    from shards.hidden import Secret as Secret
    from shards.wire.errors import Error as Error
    from shards.wire.notification import Notification as Notification

__version__ = "0.1.0"

_MODULES = {
    "dispatcher.api.aio": ("AsyncNotificationService",),
    "dispatcher.api.errors": (
        "AlreadyFinalError", "DispatcherError", "NotFoundError", "OverloadedError", "RejectedError", "RequestError",
        "ShutdownError", "UnavailableError",
    ),
    "dispatcher.api.inapp_channel": ("InAppChannel",),
    "dispatcher.api.results": (
        "BatchReceipt", "DeadLetter", "Decision", "DeliveryStatus", "Duplicate", "InboxItem", "Receipt", "Rejection",
        "Status",
    ),
    "dispatcher.curve": ("ClientKeys",),
    "dispatcher.errors": ("StartError",),
    "dispatcher.pieces": (
        "DeliveryTracker", "NotificationQueue", "Priority", "RateLimiter", "RetryPolicy", "TemplateEngine",
        "TemplateError",
    ),
    "dispatcher.service": ("NotificationService",),
    "shards.channels.base": ("Context", "Delivery", "NotificationChannel", "Recipient", "SendError", "Sent"),
    "shards.channels.email": ("EmailChannel",),
    "shards.channels.push": ("PushChannel",),
    "shards.channels.sms": ("SmsChannel",),
    "shards.channels.system": ("SystemChannel",),
    "shards.channels.webhook": ("WebhookChannel",),
    "shards.hidden": ("Secret",),
    "shards.wire.errors": ("Error",),
    "shards.wire.notification": ("Notification",),
}  # fmt: skip
_PLACES = {name: module for module, names in _MODULES.items() for name in names}
_NEED_EXTRAS = ("PushChannel", "SystemChannel")  # which a star import must not ask for
__all__ = sorted(_PLACES.keys() - set(_NEED_EXTRAS))  # noqa: PLE0605 - as long as the table above


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return [*sorted(_PLACES), "__version__"]
