"""``NotificationService``: a dispatcher of one's own, or one that runs elsewhere, in Python."""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from dispatcher.api.calls import Calls
from dispatcher.api.engine import WAIT_S_MAX
from dispatcher.api.host import host
from dispatcher.api.inapp import Feed, Subscription
from dispatcher.api.registration import Registration, register
from dispatcher.api.steps import wait_for

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dispatcher.api.keys import Given
    from dispatcher.api.results import BatchReceipt, DeadLetter, Decision, InboxItem, Receipt, Status
    from dispatcher.curve import ClientKeys
    from shards.channels.base import NotificationChannel


class NotificationService:
    """Hands notifications to a dispatcher, and tells what becomes of them. For any number of threads.

    Without ``submit`` it is **embedded**: it starts a dispatcher of its own, which keeps everything in ``data_dir``.
    ``config`` is a TOML file, or the same as a mapping; ``shards`` and ``durability`` go before it. With ``submit`` it
    is **remote**: it connects to a dispatcher that runs already; ``stream`` is its stream, ``keys`` are for CURVE.

    ``timeout`` is how many seconds a call waits for its answer, sending again included. ``max_pending`` is how many
    notifications are held in this process at most; who has more waits.

    Every call raises a ``DispatcherError``, and ``ShutdownError`` after ``shutdown``. The constructor raises
    ``StartError`` where the embedded dispatcher cannot run. An argument that cannot be meant is a ``TypeError`` or a
    ``ValueError``, which names it.

        with NotificationService("data") as service:
            receipt = service.notify(user_id="ada", title="Hello")
            print(service.wait(receipt.id).outcomes)
    """

    def __init__(
        self,
        data_dir: str | PathLike[str] | None = None,
        *,
        config: str | PathLike[str] | Mapping[str, Any] | None = None,
        shards: int | None = None,
        durability: Literal["power", "process"] | None = None,
        submit: str | None = None,
        stream: str | None = None,
        keys: ClientKeys | None = None,
        timeout: float = 30.0,
        max_pending: int = 100_000,
    ) -> None:
        self._host = host(data_dir, config, shards, durability, submit, stream, keys, timeout, max_pending)
        self._calls = Calls(self._host.engine)
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._registrations: list[Registration] = []

    @property
    def submit_endpoint(self) -> str:
        """Where other programs reach this dispatcher."""
        return self._host.submit

    @property
    def stream_endpoint(self) -> str:
        """Where other programs hear of in-app notifications."""
        return self._host.stream

    # --- notifications -----------------------------------------------------------------------------------------

    def notify(self, notification: Given | None = None, /, **fields: Any) -> Receipt:
        """Hand over one notification, or the fields of one; it returns when that is on disk.

        Raises ``RejectedError`` for one that is not acceptable. Of several recipients those that are not are in the
        receipt's ``rejected``.
        """
        return wait_for(self._calls.notify(notification, fields))

    def submit(self, notification: Given | None = None, /, **fields: Any) -> Future[Receipt]:
        """``notify`` without waiting for its receipt: the future has it. It waits where ``max_pending`` are held."""
        return wait_for(self._calls.submit(notification, fields))

    def batch_notify(self, notifications: Iterable[Given], *, timeout: float | None = None) -> BatchReceipt:
        """Hand over any number of notifications, in their order; they are pulled as there is room for them.

        A bad one spoils only itself: it is in ``rejected``. ``timeout`` is for each part's receipt. After an
        ``UnavailableError`` nobody knows of some of them; those with keys of yours can be handed over again.
        """
        return wait_for(self._calls.batch_notify(notifications, timeout))

    def notify_all(
        self,
        notification: Given | None = None,
        /,
        *,
        topic: str = "*",
        recipients: Iterable[str] | None = None,
        **fields: Any,
    ) -> Receipt:
        """One notification to all who are subscribed to ``topic``, by default every user with a document.

        With ``recipients`` to these, of whom there may be any number; ``ids`` are in their order. The notification
        itself names nobody.
        """
        return wait_for(self._calls.notify_all(notification, topic, recipients, fields))

    def explain(self, notification: Given | None = None, /, **fields: Any) -> list[Decision]:
        """What would become of a notification, and why. Nothing is sent, and nothing counts."""
        return wait_for(self._calls.explain(notification, fields))

    def status(
        self, id: str | None = None, *, user_id: str | None = None, idempotency_key: str | None = None
    ) -> Status:
        """What became of a notification, by its id or by what its producer called it."""
        return wait_for(self._calls.status({"id": id, "user_id": user_id, "idempotency_key": idempotency_key}))

    def wait(self, id: str, timeout: float | None = None) -> Status:
        """The status once every delivery has ended. Raises ``TimeoutError``; None waits for ever.

        What waits for a paused channel, or for one without its object, has not ended.
        """
        return wait_for(self._calls.wait(id, timeout))

    def cancel(self, id: str | None = None, *, user_id: str | None = None, idempotency_key: str | None = None) -> int:
        """End what is open of a notification: how many deliveries. Raises ``AlreadyFinalError`` if nothing is."""
        return wait_for(self._calls.cancel({"id": id, "user_id": user_id, "idempotency_key": idempotency_key}))

    # --- dead letters ------------------------------------------------------------------------------------------

    def dead_letters(self, *, limit: int | None = None, **filters: Any) -> Iterator[DeadLetter]:
        """Deliveries that failed for good, the oldest first; ``limit`` of them at the most.

        All filters must match: ``channel``, ``category``, ``reason``, ``error_class``, ``user_id``, ``id``, ``since``,
        which is a ``datetime`` with a time zone, milliseconds since 1970, or text.
        """
        cursor = None
        while limit is None or limit > 0:
            letters, cursor = wait_for(self._calls.dead_page(filters, cursor, limit))
            yield from letters
            if cursor is None:
                return
            limit = None if limit is None else limit - len(letters)

    def replay(self, **filters: Any) -> int:
        """Deliver again what matches the filters of ``dead_letters``, or ``limit`` of it: how many."""
        return wait_for(self._calls.dead("dead.replay", filters))

    def purge(self, **filters: Any) -> int:
        """Forget what matches the filters of ``dead_letters``, or ``limit`` of it: how many. Without any, all."""
        return wait_for(self._calls.dead("dead.purge", filters))

    # --- users -------------------------------------------------------------------------------------------------

    def put_user(self, user_id: str, user: Mapping[str, Any]) -> dict[str, Any]:
        """Store a user's contacts and preferences, in place of what there was; docs/users.md has the document."""
        return wait_for(self._calls.put_user(user_id, user))

    def get_user(self, user_id: str) -> dict[str, Any]:
        """Raises ``NotFoundError`` for one without a document."""
        return wait_for(self._calls.user("user.get", {"user_id": user_id}))

    def delete_user(self, user_id: str) -> dict[str, Any]:
        """Delete a user's document, and return it. Raises ``NotFoundError``."""
        return wait_for(self._calls.user("user.delete", {"user_id": user_id}))

    def subscribe(self, topic: str, user_id: str) -> None:
        """Have the user among those who get what is sent to the topic."""
        self.request("topic.subscribe", topic=topic, user_id=user_id)

    def unsubscribe(self, topic: str, user_id: str) -> None:
        """The opposite."""
        self.request("topic.unsubscribe", topic=topic, user_id=user_id)

    def inbox(self, user_id: str, limit: int | None = None) -> Iterator[InboxItem]:
        """A user's in-app notifications, the oldest first; ``limit`` of them at the most."""
        cursor: Any = 0
        while cursor is not None and limit != 0:
            items, cursor = wait_for(self._calls.inbox_page(user_id, cursor, limit))
            yield from items
            limit = None if limit is None else limit - len(items)

    def mark(self, user_id: str, ids: Iterable[str], state: Literal["seen", "read", "archived"]) -> int:
        """Mark items of a user's inbox: how many are unread then. Raises ``NotFoundError`` if one is not there."""
        return wait_for(self._calls.mark(user_id, ids, state))

    def inapp(self, user_id: str, *, after: int = 0) -> Generator[InboxItem, None, None]:
        """A user's in-app notifications as they are delivered, each once and in order, for ever.

        ``after`` is the ``cursor`` of the last one that was dealt with. A dispatcher that is away is waited for.
        """
        return Feed(self._host.engine, self._host.stream, threading.Event()).of_user(user_id, after)

    def on_inapp(
        self, callback: Callable[[InboxItem], object], user_id: str | None = None, *, after: int = 0
    ) -> Subscription:
        """Call ``callback`` with in-app notifications as they are delivered, in a thread, until ``stop``.

        With ``user_id``: all of this user's with a cursor above ``after``, each once and in order. Without: every
        user's from now on. An exception in the callback is logged and ends it; ``stop`` raises it.
        """
        made = Subscription(self._host.engine, self._host.stream, callback, user_id, after)
        self._subscriptions.add(made)
        return made

    # --- the dispatcher ----------------------------------------------------------------------------------------

    def register_template(self, name: str, parts: Mapping[str, str]) -> None:
        """Store a template under a name, in place of what there was; docs/templates.md has its parts."""
        wait_for(self._calls.register_template(name, parts))

    def register_channel(self, name: str, channel: str | NotificationChannel, **options: Any) -> Registration:
        """Have a channel of this name, which is a class or an object of yours; see ``NotificationChannel``.

        A class is named like ``"package.module:Class"``: the shards of an embedded dispatcher load it. An object stays
        in this process: its ``send`` is called here, in an event loop of its own, or in threads if it is a plain
        function. While no object is attached its deliveries wait. ``options`` are those of a table [channels.NAME],
        such as ``concurrency`` and ``timeout``. Embedded, both are kept in the data directory. Objects of one name, of
        this program or others, share its deliveries; to replace one, ``detach`` it. Its own ``name`` does not count.
        """
        made = wait_for(register(self._host, name, channel, options))
        self._registrations.append(made)
        return made

    def metrics(self) -> dict[str, Any]:
        """Counters and the health of every process: what ``stats`` answers."""
        return self.request("stats")

    def request(self, op: str, /, **fields: Any) -> dict[str, Any]:
        """Any operation of docs/protocol.md. It is sent again until there is an answer."""
        return wait_for(self._calls.request(op, fields))

    # --- the end -----------------------------------------------------------------------------------------------

    def shutdown(self, timeout: float = 30.0) -> None:
        """Refuse new work at once, wait so long for what is under way, and stop an embedded dispatcher.

        Legal more than once. What is not answered by then raises ``UnavailableError``.
        """
        self._host.engine.refuse()
        end = time.monotonic() + min(timeout, WAIT_S_MAX)
        for subscription in list(self._subscriptions):
            subscription.end(max(0.0, end - time.monotonic()))
        while self._registrations:
            self._registrations.pop().detach(max(0.0, end - time.monotonic()))
        self._host.shutdown(max(0.0, end - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    def __del__(self) -> None:
        host = getattr(self, "_host", None)  # none where the constructor raised
        if host is not None and not host.is_shut_down:
            warnings.warn(f"{self!r} was not shut down; use it in a with block", ResourceWarning, 2, self)
            host.abandon()

    def __repr__(self) -> str:
        return f"<NotificationService at {self._host.submit}>"
