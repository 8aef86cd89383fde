"""A program of a user, which is never run: the linters check its types, and what they see of the library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import assert_type

from dispatcher import (
    AsyncNotificationService,
    Delivery,
    InboxItem,
    Notification,
    NotificationService,
    Receipt,
    Recipient,
    Sent,
)
from dispatcher.api.results import Outcome


class Pager:
    name = "pager"

    def supports_recipient(self, recipient: Recipient) -> bool:
        return "pager" in recipient.contacts.other

    async def send(self, delivery: Delivery) -> Sent:
        return Sent(delivery.title)


def source() -> Iterator[Notification]:
    yield Notification(user_id="ada", title="Hello")


def program(service: NotificationService) -> None:
    service.register_channel("pager", Pager())
    assert_type(service.batch_notify(source()).accepted, int)
    service.batch_notify([{"user_id": "ada", "title": "Hello"}])
    service.on_inapp(lambda item: print(item.title))  # noqa: T201 - as a user would
    assert_type(service.submit(user_id="ada"), Future[Receipt])
    assert_type(service.status("id").outcomes, Mapping[str, Outcome])
    assert_type(service.notify(user_id="ada", title="Hello").id, str)


async def twin(service: AsyncNotificationService) -> None:
    async def show(item: InboxItem) -> None: ...

    await service.on_inapp(show, "ada")
    async for item in service.inapp("ada"):
        assert_type(item, InboxItem)
