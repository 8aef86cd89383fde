"""A channel that does what its options say: for tests of what is around channels."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from shards.answers import ErrorClass
from shards.channels.base import Context, Delivery, Recipient, SendError, Sent
from shards.hidden import Secret


class Scripted:
    """``answers`` are given one after the other, the last one for ever: "ok", an error class, "bug", "hang", or
    "cancel", which a plug-in's own limits of time may lead to."""

    name = "scripted"
    asked: ClassVar[dict[str, list[Delivery]]] = {}  # by ``label``, over all that were made
    closed: ClassVar[list[str]] = []

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        label: str
        answers: tuple[str, ...] = ("ok",)
        only: str = ""  # the only user that it supports
        token: Secret | None = None
        asks_s: float = 0.0

    def __init__(self, settings: Settings, context: Context) -> None:
        self.settings = settings
        self.asked[settings.label] = []
        self._left = list(settings.answers)

    def supports_recipient(self, recipient: Recipient) -> bool:
        return recipient.user_id == (self.settings.only or recipient.user_id)

    def _answer(self) -> str:
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]

    def _end(self, answer: str) -> Sent:
        token = self.settings.token.reveal() if self.settings.token else ""
        if answer == "ok":
            return Sent("taken")
        if answer == "bug":
            raise RuntimeError(f"with {token}")
        known: ErrorClass = answer  # type: ignore[assignment]  # what else a test may write is an error class
        raise SendError(known, f"no, not with {token}", retry_after_s=self.settings.asks_s)

    async def send(self, delivery: Delivery) -> Sent:
        self.asked[self.settings.label].append(delivery)
        answer = self._answer()
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "cancel":
            raise asyncio.CancelledError
        return self._end(answer)

    async def close(self) -> None:
        self.closed.append(self.settings.label)


class Clinging(Scripted):
    async def close(self) -> None:
        raise RuntimeError("it does not close")


class OfUsers(Scripted):
    endpoints_of_users = True


class Blocking(Scripted):
    """``send`` is a plain function; "hang" waits for ``release``."""

    release = threading.Event()

    def send(self, delivery: Delivery) -> Sent:  # type: ignore[override]  # as the protocol allows
        self.asked[self.settings.label].append(delivery)
        answer = self._answer()
        if answer == "hang":
            self.release.wait(60)
            answer = "ok"
        return self._end(answer)


class Batched(Scripted):
    batch_max = 3
    sizes: ClassVar[list[int]] = []

    async def send_many(self, deliveries: Sequence[Delivery]) -> list[Sent | SendError | None]:
        self.sizes.append(len(deliveries))
        answers: list[Sent | SendError | None] = []
        for delivery in deliveries:
            try:
                answers.append(await self.send(delivery))
            except SendError as error:
                answers.append(error)
        return answers


class Odd(Scripted):
    """Says "yes" where it has taken something, and does not know whom it can reach."""

    async def send(self, delivery: Delivery) -> Sent:
        await super().send(delivery)
        return "yes"  # type: ignore[return-value]  # which plug-ins may do all the same

    def supports_recipient(self, recipient: Recipient) -> bool:
        return self.settings.only == "" or {"bob": True}[recipient.user_id]
