"""Channels of a plug-in: one that is as it should be, though not asynchronous, and some that are not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec

from shards.channels.base import Context, Delivery, Recipient, SendError


class Logbook:
    """Without ``Settings``: its options are a dictionary."""

    name = "logbook"

    def __init__(self, options: dict[str, str], context: Context) -> None:
        self._file = Path(options["file"])

    def supports_recipient(self, recipient: Recipient) -> bool:
        return recipient.user_id != "nobody"

    def send(self, delivery: Delivery) -> None:
        if delivery.text == "refuse" and delivery.attempt == 1:
            raise SendError("transient", "the pen is empty")
        with self._file.open("ab") as file:
            file.write(msgspec.json.encode({"id": delivery.id, "title": delivery.title}) + b"\n")


class Hanging(Logbook):
    name = "hanging"

    def send(self, delivery: Delivery) -> None:
        super().send(delivery)
        threading.Event().wait()


class Blocking(Hanging):
    """It should be a plain function, as that of Hanging is."""

    name = "blocking"

    async def send(self, delivery: Delivery) -> None:  # type: ignore[override]  # a channel's is either
        print("about to block", end="")  # noqa: T201 - as plug-ins do; nobody else's output may suffer
        super().send(delivery)


class Leaving(Logbook):
    """It ends the process, whoever else is in it."""

    name = "leaving"

    async def send(self, delivery: Delivery) -> None:  # type: ignore[override]  # as above
        os._exit(3)


class Buggy(Logbook):
    name = "buggy"

    async def send(self, delivery: Delivery) -> None:  # type: ignore[override]  # as above
        raise KeyError("a bug of the plug-in")
