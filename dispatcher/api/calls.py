"""What a service can be asked, once for both its fronts: each method gives the ``Steps`` of a call."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dispatcher.api.arguments import integer, many, mapping, milliseconds, seconds, text
from dispatcher.api.batch import Batch
from dispatcher.api.errors import RejectedError
from dispatcher.api.keys import UNSENDABLE, Given, encoded, given, keyed, timed, unsendable
from dispatcher.api.receiving import flattened
from dispatcher.api.results import BatchReceipt, DeadLetter, Decision, InboxItem, Receipt, Status
from shards.wire.errors import Error
from shards.wire.notification import EVERY_USER

if TYPE_CHECKING:
    from concurrent.futures import Future

    from dispatcher.api.engine import Engine
    from dispatcher.api.steps import Steps

T = TypeVar("T")

LOOK_S = 0.01  # the first wait before a status is asked for again; each next one is longer
LOOK_MAX_S = 1.0
LOOK_FACTOR = 1.5
PAGE = 500
PART_RECIPIENTS = 2_000  # of one notification
PART_BYTES = 32 * 2**20  # of one, once for each of its recipients
PER_CALL = 1_000  # what one dead.replay or dead.purge does at most, per shard


class Calls:
    """``engine`` is asked; ``timeout_s`` is that of a call that names none."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def request(self, op: str, fields: Mapping[str, Any], timeout_s: float | None = None) -> Steps[dict[str, Any]]:
        """Raises ``TypeError`` for a field that cannot be sent."""
        try:
            future = self._engine.request(op, dict(fields), timeout_s)
        except UNSENDABLE as error:
            place, problem = unsendable(fields, error)
            raise TypeError(f"{place}: {problem}") from None
        answer: dict[str, Any] = yield future
        return answer

    # --- notifications -----------------------------------------------------------------------------------------

    def submit(self, notification: Given | None, fields: Mapping[str, Any]) -> Steps[Future[Receipt]]:
        """Waits for room alone. Raises ``RejectedError`` for what cannot be sent at all."""
        one, is_made = keyed(given(notification, fields), self._engine.new_key())
        raw = encoded(one)
        while not self._engine.reserve(1, len(raw)):
            yield self._engine.room()
        return self._engine.submit_one(raw, is_made)

    def notify(self, notification: Given | None, fields: Mapping[str, Any]) -> Steps[Receipt]:
        future = yield from self.submit(notification, fields)
        receipt: Receipt = yield future
        return receipt

    def batch_notify(self, notifications: Iterable[Given], timeout_s: float | None) -> Steps[BatchReceipt]:
        timeout_s = self._engine.timeout_s if timeout_s is None else seconds("timeout", timeout_s, above_0=True)
        source = many("notifications", notifications, "notifications")
        return Batch(self._engine, source, timeout_s).steps()

    def notify_all(
        self, notification: Given | None, topic: str, recipients: Iterable[str] | None, fields: Mapping[str, Any]
    ) -> Steps[Receipt]:
        """To recipients in parts, all with one key: it is unique for each user."""
        document = _document(timed(given(notification, fields)))
        if recipients is not None and topic != EVERY_USER:
            raise _address("both topic and recipients are given", "topic")
        for name in ("user_id", "recipients", "topic"):
            if document.get(name) is not None:
                raise _address(f"{name} is given in the notification", name)
        if recipients is None:
            return (yield from self.notify({**document, "topic": topic}, {}))
        recipients = many("recipients", recipients, "user ids")
        one, is_made = keyed(document, self._engine.new_key())
        size = max(1, min(PART_RECIPIENTS, PART_BYTES // len(encoded(one))))
        sizes: list[int] = []
        parts = ({**_document(one), "recipients": part} for part in _parts(recipients, size, sizes))
        timeout_s = self._engine.timeout_s
        receipt = yield from Batch(self._engine, parts, timeout_s, are_made=is_made).steps()
        if not receipt.accepted and not receipt.duplicates and receipt.rejected:
            raise RejectedError(receipt.rejected[0].error)
        if not receipt.ids:
            raise ValueError("recipients is empty; name at least one")
        return flattened(receipt, sizes)

    def explain(self, notification: Given | None, fields: Mapping[str, Any]) -> Steps[list[Decision]]:
        raw = encoded(timed(given(notification, fields)))
        answer = yield from self.request("explain", {"notification": raw})
        return msgspec.convert(answer["decisions"], list[Decision])

    def status(self, named: Mapping[str, str | None]) -> Steps[Status]:
        return self._answer(Status, "status", _named(named))

    def wait(self, id: str, timeout_s: float | None) -> Steps[Status]:
        text("id", id)
        end = None if timeout_s is None else time.monotonic() + seconds("timeout", timeout_s)
        look_s = LOOK_S
        while True:
            left_s = math.inf if end is None else end - time.monotonic()
            asked_s = max(LOOK_MAX_S, min(self._engine.timeout_s, left_s))
            status = yield from self._answer(Status, "status", {"id": id}, asked_s)
            if status.final:
                return status
            left_s = look_s if end is None else end - time.monotonic()
            if left_s <= 0:
                open_ = ", ".join(f"{one.channel} is {one.outcome}" for one in status.deliveries if not one.final)
                raise TimeoutError(f"{id} is not final within {timeout_s:g} s: {open_ or 'the broadcast goes on'}")
            yield min(look_s, left_s)
            look_s = min(look_s * LOOK_FACTOR, LOOK_MAX_S)

    def cancel(self, named: Mapping[str, str | None]) -> Steps[int]:
        answer = yield from self.request("cancel", _named(named))
        return int(answer["cancelled"])

    # --- dead letters ------------------------------------------------------------------------------------------

    def dead_page(
        self, filters: Mapping[str, Any], cursor: Any, limit: int | None
    ) -> Steps[tuple[list[DeadLetter], Any]]:
        asked = {**_filters(filters), "limit": PAGE if limit is None else min(PAGE, limit), "cursor": cursor}
        answer = yield from self.request("dead.list", asked)
        return msgspec.convert(answer["items"], list[DeadLetter]), answer["next"]

    def dead(self, op: str, filters: Mapping[str, Any]) -> Steps[int]:
        """Repeat ``dead.replay`` or ``dead.purge`` until a call found fewer than it might have.

        A letter that dies again at once must not keep this going for ever: it ends at as many as there are now.
        """
        filters = _filters(filters)
        stats = yield from self.request("stats", {})
        there_are = sum(stats["dead_letters"].values())
        limit = filters.get("limit")
        most = there_are if limit is None else min(limit, there_are)
        count = 0
        while count < most:
            left = most - count
            bound = None if left >= PER_CALL * len(stats["shards"]) else min(left, PER_CALL)
            answer = yield from self.request(op, {**filters, "limit": bound})
            count += answer["count"]
            if answer["count"] < (bound or PER_CALL):
                break
        return count

    # --- users -------------------------------------------------------------------------------------------------

    def put_user(self, user_id: str, user: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        document = mapping("user", user, '{"contacts": {"email": "ada@example.org"}}')
        return self.user("user.put", {"user_id": user_id, "user": document})

    def user(self, op: str, fields: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        answer = yield from self.request(op, fields)
        return dict(answer["user"])

    def inbox_page(self, user_id: str, cursor: Any, limit: int | None) -> Steps[tuple[list[InboxItem], Any]]:
        if limit is not None:
            integer("limit", limit, 0)
        asked = {"user_id": user_id, "limit": PAGE if limit is None else min(PAGE, limit), "cursor": cursor}
        answer = yield from self.request("inbox.list", asked)
        return msgspec.convert(answer["items"], list[InboxItem]), answer["next"]

    def mark(self, user_id: str, ids: Iterable[str], state: str) -> Steps[int]:
        listed = list(many("ids", ids, "ids"))
        answer = yield from self.request("inbox.mark", {"user_id": user_id, "ids": listed, "state": state})
        return int(answer["unread"])

    # --- templates ---------------------------------------------------------------------------------------------

    def register_template(self, name: str, parts: Mapping[str, str]) -> Steps[None]:
        document = mapping("parts", parts, '{"title": "Order {{ order }} has shipped"}')
        yield from self.request("template.put", {"name": name, "parts": document})

    def _answer(self, kind: type[T], op: str, fields: Mapping[str, Any], timeout_s: float | None = None) -> Steps[T]:
        answer = yield from self.request(op, fields, timeout_s)
        return msgspec.convert(answer, kind)


def _document(one: Given) -> dict[str, Any]:
    return dict(one) if isinstance(one, Mapping) else dict(msgspec.msgpack.decode(encoded(one)))


def _address(problem: str, field: str) -> RejectedError:
    return RejectedError(
        Error("bad_value", f"{problem}; name whom by the argument topic or by recipients alone", field)
    )


def _named(named: Mapping[str, str | None]) -> Mapping[str, str | None]:
    for name, value in named.items():
        if value is not None:
            text(name, value)
    return named


def _filters(filters: Mapping[str, Any]) -> Mapping[str, Any]:
    since, limit = filters.get("since"), filters.get("limit")
    if limit is not None:
        integer("limit", limit, 1)
    return {**filters, "since": milliseconds("since", since)} if isinstance(since, datetime) else filters


def _parts(recipients: Iterable[str], size: int, sizes: list[int]) -> Iterator[list[str]]:
    """``sizes`` is told how many are in each."""
    source = iter(recipients)
    while part := list(islice(source, size)):
        sizes.append(len(part))
        yield part
