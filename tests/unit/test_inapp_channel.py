"""What the inboxes of a dispatcher refuse, to who sends to them as by any channel."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from dispatcher.api.aio import AsyncNotificationService
from dispatcher.api.errors import OverloadedError, RejectedError, RequestError, ShutdownError, UnavailableError
from dispatcher.api.inapp_channel import InAppChannel
from dispatcher.api.results import DeliveryStatus, Receipt, Status
from shards.channels.base import SendError
from shards.wire.errors import Code, Error
from tests.unit.test_providers import DELIVERY


class Service:
    """Raises what it is told to, or ends with this outcome."""

    def __init__(self, end: Exception | str) -> None:
        self.end = end

    async def notify(self, **fields: Any) -> Receipt:
        if isinstance(self.end, Exception):
            raise self.end
        return Receipt("1", ["1"])

    async def wait(self, id: str, timeout: float) -> Status:
        return Status(id, [DeliveryStatus("inapp", cast("Any", self.end), "channel_off")])


def error(code: Code) -> Error:
    return Error(code, "so it is", retry_after_ms=2_000)


@pytest.mark.parametrize(
    ("end", "error_class", "words", "after_s"),
    [
        (OverloadedError(error("overloaded")), "throttled", "overloaded: so it is", 2.0),
        (UnavailableError(error("unavailable")), "ambiguous", "unavailable: so it is", None),
        (TimeoutError("not final within 30 s"), "ambiguous", "not final within 30 s", None),
        (ShutdownError("it was shut down"), "transient", "it was shut down", None),
        (RejectedError(error("bad_value")), "permanent", "bad_value: so it is", None),
        (RequestError(error("too_large")), "permanent", "too_large: so it is", None),
        ("suppressed", "permanent", "the inbox did not get it: suppressed (channel_off)", None),
    ],
)
def test_a_refusal_has_its_class(end: Exception | str, error_class: str, words: str, after_s: float | None) -> None:
    channel = InAppChannel(cast("AsyncNotificationService", Service(end)))
    with pytest.raises(SendError) as caught:
        asyncio.run(channel.send(DELIVERY))
    found = caught.value
    assert (found.error_class, found.message, found.retry_after_s) == (error_class, words, after_s)
