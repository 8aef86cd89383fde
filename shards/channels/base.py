"""What a channel is: the protocol, what it is given to send, and what it may answer.

A channel is a class that is made once per shard, with its settings and a ``Context``:

    class Pager:
        name = "pager"

        class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
            url: str
            token: Secret

        def __init__(self, settings: Settings, context: Context) -> None: ...

        def supports_recipient(self, recipient: Recipient) -> bool:
            return "pager" in recipient.contacts.other

        async def send(self, delivery: Delivery) -> Sent | None: ...

``send`` returns when the service has taken the message, and raises ``SendError`` when it has not: its class decides
what follows. Any other exception is a bug of the channel, and ``transient``. It is under a deadline, the channel's
``timeout``. Where ``send`` is a plain function, it is run in a thread; the code of a plug-in has an event loop of its
own. Two methods are optional: ``send_many``, which is given several deliveries (at most ``batch_max``) and returns one
``Sent``, None or ``SendError`` for each, in their order; and ``close``, which ends connections. A channel of this
package may have ``variables`` as well, which is given a delivery whose template is not rendered yet, and returns what
the template can write beside the rest.
``endpoints_of_users = True`` says that each user names a service of their own: then what one of these answers says
nothing of the others, and never pauses the channel.

A class without ``Settings`` is given its options as a dictionary. ``Settings`` may have ``fitting``, a mapping of what
the channel's table has by default, such as ``{"timeout": "60s"}``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from shards.answers import ERROR_CLASSES, Answers, ErrorClass
from shards.contacts import Contacts

RETRY_AFTER_MAX_S = 86_400.0


def texts(bad: Sequence[str]) -> tuple[str, ...]:
    """Contacts, as a plug-in has named them. Raises ``TypeError``."""
    if isinstance(bad, str) or not all(isinstance(one, str) for one in bad):
        raise TypeError(f"bad is to be a list of contacts, which are texts, not {type(bad).__name__}")
    return tuple(bad)


class Recipient(msgspec.Struct, frozen=True):
    """Whom it is sent to. ``contacts`` has none that the service has called invalid."""

    user_id: str
    contacts: Contacts = Contacts()
    locale: str | None = None
    timezone: str = "UTC"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One notification to one user on one channel.

    ``id`` is the same at every attempt and at every replay, and has only letters, digits, ``-`` and ``_``.
    ``title``, ``text`` and ``html`` are what is to be said: of the template where it has one, else of the producer.
    ``parts`` are those of the template for this channel, by their names without the channel (``subject``, ``html``).
    ``collapse`` is equal for deliveries of which the last one replaces those before it.
    """

    id: str
    notification_id: str
    channel: str
    attempt: int  # 1 is the first
    recipient: Recipient
    category: str
    type: Literal["info", "success", "warning", "error"]
    priority: Literal["low", "normal", "high", "critical"]
    title: str
    text: str
    html: str | None = None
    parts: Mapping[str, str] = {}
    payload: Mapping[str, Any] = {}
    metadata: Mapping[str, str] = {}
    created_ms: int = 0  # since 1970, as all times here
    expires_ms: int | None = None
    collapse: str | None = None
    unsubscribable: bool = False  # whether the category's mails say how to unsubscribe


class Sent(NamedTuple):
    """The service has taken it. ``bad`` are contacts among those tried that will never work again."""

    detail: str = ""  # what the service called it, for a person
    bad: tuple[str, ...] = ()


class SendError(Exception):
    """The service has not taken it.

    ``retry_after_s`` is what the service asked for. ``bad`` are the contacts (an address, number, token or URL, as the
    user's document has them) that will never work again; with the class ``bad_address`` and none named, it is the
    user's only one on this channel. The message is for a person; where it has a ``Secret`` of the settings, that is
    hidden later. ``reason`` is for the dispatcher itself. ``ValueError`` is for a class that there is none of,
    ``TypeError`` for what is no list of texts.
    """

    def __init__(
        self,
        error_class: ErrorClass,
        message: str,
        *,
        retry_after_s: float | None = None,
        bad: Sequence[str] = (),
        reason: str = "",
    ) -> None:
        super().__init__(message)
        if error_class not in ERROR_CLASSES:
            raise ValueError(f"{error_class!r} is no class of errors; there are {', '.join(ERROR_CLASSES)}")
        self.error_class = error_class
        self.message = str(message)
        self.retry_after_s = None if retry_after_s is None else max(0.0, min(float(retry_after_s), RETRY_AFTER_MAX_S))
        self.bad = texts(bad)
        self.reason = reason


class Context(NamedTuple):
    """What a channel is given beside its settings. ``trace`` takes a line of the conversation, secrets and all."""

    channel: str = ""
    timeout_s: float = 10.0
    concurrency: int = 64
    answers: Answers = Answers()
    trace: Callable[[str], None] | None = None


class NotificationChannel(Protocol):
    """One way to reach users; see the module."""

    @property
    def name(self) -> str: ...

    def supports_recipient(self, recipient: Recipient) -> bool:
        """Whether the recipient has what is needed to be reached here. It is asked often, and only looks."""

    def send(self, delivery: Delivery) -> Sent | Awaitable[Sent | None] | None:
        """One attempt, by ``async def`` or, in a thread, by ``def``. Raises ``SendError``."""
