"""Channels of plug-ins that do what nobody should: each in one way, named by the text of the delivery."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from shards.channels.base import Context, Delivery, Recipient, SendError, Sent


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("it cannot say what it is")


class OwnError(SendError):
    def __init__(self) -> None:
        """Without that of ``SendError``."""


class OwnBase(BaseException):
    pass


def hidden(send: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    @functools.wraps(send)
    def plain(*args: Any) -> Any:
        return send(*args)

    return plain


class Rude:
    name = "rude"
    release: ClassVar[threading.Event] = threading.Event()  # of what holds its thread up

    def __init__(self, options: dict[str, Any], context: Context) -> None:
        match options.get("made"):
            case "exits":
                sys.exit("no licence")
            case "hangs":
                self.release.wait(60)
            case "needs a loop":
                asyncio.get_running_loop()

    def supports_recipient(self, recipient: Recipient) -> bool:
        if recipient.user_id == "blocks":
            self.release.wait(60)
        if recipient.user_id == "exits":
            sys.exit("whoever that is")
        return True

    async def send(self, delivery: Delivery) -> Any:
        match delivery.text:
            case "exits":
                sys.exit("goodbye")
            case "interrupts":
                raise KeyboardInterrupt
            case "its own base":
                raise OwnBase("of no kind")
            case "ends its generator":
                raise GeneratorExit
            case "exits in a task":
                await asyncio.create_task(_exit())
            case "leaks a task that exits":
                self._leaked = asyncio.create_task(_exit())
            case "unspeakable":
                raise UnspeakableError
            case "its own error":
                raise OwnError
            case "a class of its own":
                error = SendError("transient", "later")
                error.error_class = "tired"  # type: ignore[assignment]  # as plug-ins may do all the same
                raise error
            case "half a character":
                raise RuntimeError("caf\udce9")
            case "bad as a text":
                raise SendError("bad_address", "no such number", bad="4711")
            case "bad as numbers":
                return Sent("ok", bad=(4711,))  # type: ignore[arg-type]  # as plug-ins may do all the same
            case "impatient":
                raise SendError("throttled", "later", retry_after_s=float("nan"))
            case "says numbers":
                raise SendError("permanent", 550)  # type: ignore[arg-type]  # as above
            case "a dictionary":
                return {"status": "ok"}
            case "will not be cancelled":
                while not self.release.is_set():
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        pass
            case "blocks":
                self.release.wait(60)
            case "computes":
                end = time.monotonic() + 60
                while not self.release.is_set() and time.monotonic() < end:
                    pass
        return Sent(delivery.text)

    def variables(self, delivery: Delivery) -> dict[str, Any]:
        self.release.wait(60)
        return {}


class Uncountable(Rude):
    batch_max = "many"

    async def send_many(self, deliveries: Sequence[Delivery]) -> list[Sent]:
        return [Sent("in a batch") for _ in deliveries]


class Negative(Uncountable):
    batch_max = -3  # type: ignore[assignment]  # as odd as what it replaces


class Decorated(Rude):
    send = hidden(Rude.send)


async def _exit() -> None:
    sys.exit("from within")
