"""One message over a channel, at once and without a service: by the classes that a shard uses, told step by step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from dispatcher.trial_message import LIKE, TrialError, kind_of
from shards import options
from shards.answers import Answers, ErrorClass
from shards.channels import registry
from shards.channels.base import Context, Delivery, SendError, Sent
from shards.hidden import disguised, redact, secrets_of
from shards.providers import HANDED_OVER, Ended, Provider, Unreachable
from shards.settings import ChannelSettings, ProviderSettings

STEPS_MAX = 1_000
STEP_MAX = 1_000  # characters
NEXT = {*HANDED_OVER, "misconfigured"}  # after such an end another provider cannot make it arrive twice

# What the end of an attempt means for a real delivery, and what a person can do about it.
MEANING: Mapping[ErrorClass, tuple[str, str]] = {
    "transient": (
        "it is tried again, as `retry` says, and then a dead letter",
        "do what the message says; if it says little, see that the service is up and can be reached from this machine",
    ),
    "throttled": (
        "it waits as long as the service asks for, and is tried again",
        "set `rate` of the channel below what the service allows, or have it allow more",
    ),
    "ambiguous": (
        'it may have arrived; it is tried again, or with on_ambiguous = "hold" a dead letter',
        "see whether it has arrived; if the service is slow, raise `timeout` of the channel",
    ),
    "permanent": (
        "it is a dead letter at once, and no retry mends it",
        "correct what the service objects to, then `dispatcher dead replay`",
    ),
    "bad_address": (
        "it is a dead letter, and the contact is not used again until the user's document has another",
        "correct the contact with `dispatcher user put`",
    ),
    "misconfigured": (
        "the next provider is asked; where there is none the channel pauses, and what waits loses no attempt",
        "correct the configuration, or mend it at the service, then `dispatcher config reload`",
    ),
}


class Result(msgspec.Struct):
    """``message`` is what the service called the message, or why it did not take it."""

    outcome: Literal["delivered", "failed"]
    provider: str
    error_class: ErrorClass | None
    message: str
    meaning: str | None
    remedy: str | None
    steps: list[str]


class Trial:
    """``tell`` gets each step as it happens, without the secrets of the configuration and those in ``secrets``."""

    def __init__(
        self,
        channel: str,
        settings: ChannelSettings,
        errors: Mapping[str, Mapping[str, ErrorClass]],
        tell: Callable[[str], None],
        secrets: Sequence[str] = (),
    ) -> None:
        self._channel = channel
        self._settings = settings
        self._errors = errors
        self._tell = tell
        self._hidden = disguised([*_secrets(settings.providers), *secrets])
        self._steps: list[str] = []

    def run(self, providers: Sequence[ProviderSettings], delivery: Delivery) -> Result:
        """Ask one after the other until one has taken it, or may have. Raises ``TrialError`` if none can reach whom."""
        loop = asyncio.new_event_loop()  # closed without a wait for what hangs in a thread
        try:
            return loop.run_until_complete(self._run(providers, delivery))
        finally:
            loop.close()

    async def _run(self, providers: Sequence[ProviderSettings], delivery: Delivery) -> Result:
        result = None
        for number, settings in enumerate(providers, 1):
            name = settings.provider or settings.path
            if len(providers) > 1:
                self._step(f"provider {number} of {len(providers)}: {name}")
            ended = await self._attempt(settings, delivery)
            if isinstance(ended, Unreachable):
                self._step("it cannot reach this recipient")
                continue
            result = self._result(name, ended)
            if result.error_class not in NEXT:
                break
        if result is None:
            for device in delivery.recipient.contacts.push:
                table = f"[channels.{self._channel}.{device.provider}]"
                raise TrialError(
                    f"--to: there is no {table}, so that no device of {device.provider} is reached; add it"
                )
            like = LIKE.get(kind_of(self._channel, providers[0]), "nobody")
            raise TrialError(f"--to: {self._channel} cannot reach whom it names; give {like}")
        return result

    async def _attempt(self, settings: ProviderSettings, delivery: Delivery) -> Ended:
        timeout_s, concurrency = float(self._settings.timeout), self._settings.concurrency
        context = Context(self._channel, timeout_s, concurrency, Answers(self._errors), self._step)
        provider = Provider(settings, context, alone=True)
        try:
            await provider.made()
            if provider.is_unmade:
                return SendError("misconfigured", provider.refused)
            return await provider.send(delivery, time.monotonic)
        finally:
            await provider.close()

    def _step(self, text: str) -> None:
        for line in redact(text, self._hidden).splitlines():
            if len(self._steps) < STEPS_MAX:
                self._steps.append(line[:STEP_MAX])
                self._tell(self._steps[-1])

    def _result(self, provider: str, ended: Sent | SendError) -> Result:
        if isinstance(ended, Sent):
            return Result("delivered", provider, None, redact(str(ended.detail), self._hidden), None, None, self._steps)
        meaning, remedy = MEANING[ended.error_class]
        message = redact(ended.message, self._hidden)
        return Result("failed", provider, ended.error_class, message, meaning, remedy, self._steps)


def _secrets(providers: Sequence[ProviderSettings]) -> list[str]:
    return [
        secret
        for one in providers
        for secret in secrets_of(options.read(registry.find(one.provider, one.path), one.options))
    ]
