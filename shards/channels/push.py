"""Push: one delivery to all of a user's devices, by FCM, APNs and Web Push.

It is delivered if any device's service takes it. Where none does, a retry sends it to all of them again, so of their
errors the one counts that asks most for a retry, or for care with it: ``ORDER``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from shards import logs
from shards.answers import ErrorClass
from shards.channels import apns, fcm, webpush
from shards.channels.apns import Apns
from shards.channels.base import Context, Delivery, Recipient, SendError, Sent
from shards.channels.devices import Service
from shards.channels.fcm import Fcm
from shards.channels.http import QUOTED
from shards.channels.webpush import WebPush
from shards.contacts import PushContact
from shards.hidden import disguised, redact, secrets_of

# A device that may have it goes first: only who configured the channel can say whether to risk a second time. Then
# who asks for patience, so that it gets it. What no retry mends goes last.
ORDER: tuple[ErrorClass, ...] = ("ambiguous", "throttled", "transient", "misconfigured", "permanent", "bad_address")
SHARE = 0.98  # of the channel's timeout: one device that hangs is not to hide that another has it
AT_ONCE = 8  # devices of one delivery: so one user with many does not take the others' connections
NAMED = 8  # last characters of a token, which say whose it is

log = logs.logger()


class PushChannel:
    name = "push"

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Those that are not there reach no device."""

        fcm: fcm.Settings | None = None
        apns: apns.Settings | None = None
        webpush: webpush.Settings | None = None

        def __post_init__(self) -> None:
            if not (self.fcm or self.apns or self.webpush):
                raise ValueError("fcm, apns and webpush are all missing; give at least one of these tables")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._timeout_s = context.timeout_s * SHARE
        self._services: dict[str, Service] = {}
        self._told: set[str] = set()  # services of which the log says that they refuse us
        self._secrets = disguised(secrets_of(settings))
        context = context._replace(concurrency=context.concurrency * AT_ONCE)
        if settings.fcm:
            self._services["fcm"] = Fcm(settings.fcm, context)
        if settings.apns:
            self._services["apns"] = Apns(settings.apns, context)
        if settings.webpush:
            self._services["webpush"] = WebPush(settings.webpush, context)

    def supports_recipient(self, recipient: Recipient) -> bool:
        return any(device.provider in self._services for device in recipient.contacts.push)

    async def send(self, delivery: Delivery) -> Sent:
        devices = [device for device in delivery.recipient.contacts.push if device.provider in self._services]
        until, room = asyncio.get_running_loop().time() + self._timeout_s, asyncio.Semaphore(AT_ONCE)
        ends = await asyncio.gather(*(self._send_to(device, delivery, until, room) for device in devices))
        errors = [(device, end) for device, end in zip(devices, ends, strict=True) if isinstance(end, SendError)]
        bad = tuple(device.token for device, error in errors if error.error_class == "bad_address")
        if len(errors) == len(devices):
            raise _of_all(errors, bad)
        self._tell(errors)
        taken = [f"{device.provider} {end}" for device, end in zip(devices, ends, strict=True) if isinstance(end, str)]
        return Sent("; ".join([*taken, *(_told(*error) for error in errors)])[:QUOTED], bad)

    async def close(self) -> None:
        for service in self._services.values():
            await service.close()

    def _tell(self, errors: Sequence[tuple[PushContact, SendError]]) -> None:
        """It pauses the channel only where no other device has been reached."""
        for device, error in errors:
            if error.error_class == "misconfigured" and device.provider not in self._told:
                self._told.add(device.provider)
                words = redact(error.message, self._secrets)
                log.warning("a service of push refuses us", service=device.provider, error=words)

    async def _send_to(
        self, device: PushContact, delivery: Delivery, until: float, room: asyncio.Semaphore
    ) -> str | SendError:
        begun = False
        try:
            async with asyncio.timeout_at(until), room:
                begun = True
                return await self._services[device.provider].send(device.token, delivery)
        except SendError as error:
            return error
        except TimeoutError:
            if not begun:
                return SendError("transient", f"the user's other devices took all of {self._timeout_s:.3g} s")
            return SendError("ambiguous", f"no answer within {self._timeout_s:.3g} s")
        except Exception as error:  # noqa: BLE001 - a bug of one service is not to hide that another has it
            return SendError("transient", f"{type(error).__name__}: {error}")


def _of_all(errors: Sequence[tuple[PushContact, SendError]], bad: tuple[str, ...]) -> SendError:
    errors = sorted(errors, key=lambda one: ORDER.index(one[1].error_class))
    asked = [error.retry_after_s for _, error in errors if error.retry_after_s is not None]
    return SendError(
        errors[0][1].error_class,
        "; ".join(_told(*error) for error in errors)[:QUOTED],
        retry_after_s=max(asked, default=None),
        bad=bad,
    )


def _told(device: PushContact, error: SendError) -> str:
    """A subscription's end is that of its keys, and no name."""
    name = "" if device.provider == "webpush" else f" ...{device.token[-NAMED:]}"
    return f"{device.provider}{name}: {error.message}"
