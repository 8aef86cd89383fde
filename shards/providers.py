"""The providers of one channel, in their order: which one is asked, and what its answer means for the others.

A provider that fails too often is left alone for a while (``breaker``), and the next one is asked. One whose
credentials are refused is not asked again until the channel is resumed. An attempt of which nobody knows how it ended
is never handed over: it might arrive twice.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from shards import logs, options
from shards.answers import Answers, ErrorClass
from shards.breaker import Breaker
from shards.channels import registry
from shards.channels.base import Context, Delivery, SendError, Sent
from shards.contacts import credentials_of
from shards.hidden import disguised, redact, secrets_of
from shards.settings import ChannelSettings, ProviderSettings

log = logs.logger()

THREADS_MAX = 32  # of a channel whose ``send`` blocks
BLAMED: frozenset[ErrorClass] = frozenset({"transient", "throttled", "ambiguous"})
HANDED_OVER: frozenset[ErrorClass] = frozenset({"transient", "throttled"})
TEXT_MAX = 500
CLOSE_S = 2.0  # for connections to end in order


class Held(NamedTuple):
    """Not attempted: no provider may be asked before ``until``, monotonic seconds."""

    until: float


class Unreachable:
    """Not attempted: no provider can reach the recipient."""


UNREACHABLE = Unreachable()
Outcome = Sent | SendError | Held | Unreachable


class Provider:
    """A channel's class at work, under its deadline. It never raises: what goes wrong is a ``SendError``."""

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        self.name = settings.provider or settings.path
        self.breaker = Breaker()
        self.refused = ""  # why it is not asked any more
        self._timeout_s = context.timeout_s
        self._made: Any = None
        self._secrets: list[str] = []
        try:
            kind = registry.find(settings.provider, settings.path)
            read = options.read(kind, settings.options)
            self._secrets = disguised(secrets_of(read))
            self._made = kind(read, context)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            self.refused = self._words(error)
        self.is_unmade = self._made is None
        self.batch_max = int(getattr(self._made, "batch_max", 0)) if hasattr(self._made, "send_many") else 0
        self.is_of_users = bool(getattr(self._made, "endpoints_of_users", False))
        self._threads: ThreadPoolExecutor | None = None
        if self._made is not None and not inspect.iscoroutinefunction(self._made.send):
            count = min(context.concurrency, THREADS_MAX)
            self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"send-{context.channel}")

    def supports(self, delivery: Delivery) -> bool:
        """Raises ``SendError`` where the plug-in cannot say."""
        try:
            return self._made is None or bool(self._made.supports_recipient(delivery.recipient))
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            raise SendError("transient", self._words(error)) from None

    def variables(self, delivery: Delivery) -> Mapping[str, Any]:
        found = getattr(self._made, "variables", None)
        return dict(found(delivery)) if found is not None else {}

    def admits(self, now: float) -> bool:
        return not self.refused and self.breaker.admits(now)

    def admits_many(self, now: float) -> bool:
        """Half open, a batch would be many attempts."""
        return not self.refused and self.breaker.state(now) == "closed"

    async def send(self, delivery: Delivery, clock: Callable[[], float]) -> Sent | SendError:
        self.breaker.begin()
        try:
            sending = self._in_thread(delivery) if self._threads else self._made.send(delivery)
            outcome: Sent | SendError = _taken(await self._in_time(sending))
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            outcome = self._error(error, delivery)
        return self._judged(outcome, clock())

    async def send_many(self, deliveries: Sequence[Delivery], clock: Callable[[], float]) -> list[Sent | SendError]:
        self.breaker.begin()
        try:
            answers = list(await self._in_time(self._made.send_many(deliveries)))
            if len(answers) != len(deliveries):
                raise SendError("ambiguous", f"{len(answers)} answers to {len(deliveries)} deliveries")
        except Exception as error:  # noqa: BLE001 - as above
            answers = [error] * len(deliveries)
        now = clock()
        return [self._judged(self._outcome(*one), now) for one in zip(answers, deliveries, strict=True)]

    async def _in_time(self, sending: Awaitable[Any]) -> Any:
        """Its answer. What is raised is an ``Exception``, unless we are cancelled ourselves."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await sending
        except SystemExit:
            raise SendError("transient", "the channel asked the process to exit") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise SendError("ambiguous", "the channel has cancelled the attempt by itself") from None

    def _outcome(self, answer: object, delivery: Delivery) -> Sent | SendError:
        """Of one delivery of several."""
        try:
            return self._error(answer, delivery) if isinstance(answer, Exception) else _taken(answer)
        except TypeError as error:
            return self._error(error, delivery)

    async def _in_thread(self, delivery: Delivery) -> Sent | None:
        assert self._threads is not None
        sending = self._threads.submit(self._made.send, delivery)
        try:
            found: Sent | None = await asyncio.wrap_future(sending)
        except asyncio.CancelledError:
            if sending.cancel():  # its turn has not come
                raise SendError("transient", "no thread is free: all wait for the service") from None
            raise
        return found

    def _error(self, error: Exception, delivery: Delivery) -> SendError:
        if isinstance(error, TimeoutError):
            return SendError("ambiguous", f"no answer within {self._timeout_s:g} s")
        if not isinstance(error, SendError):
            return SendError("transient", self._words(error))
        error_class = error.error_class
        if self.is_of_users and error_class == "misconfigured":
            error_class = "transient"  # one user's service must not stop everybody's
        words = redact(self._hidden(error.message), credentials_of(delivery.recipient.contacts))
        return SendError(error_class, words, retry_after_s=error.retry_after_s, bad=error.bad)

    def _judged(self, outcome: Sent | SendError, now: float) -> Sent | SendError:
        if self.is_of_users:
            return outcome
        if isinstance(outcome, SendError) and outcome.error_class in BLAMED:
            self.breaker.fail(now, outcome.error_class == "throttled", outcome.retry_after_s or 0.0)
            return outcome
        if isinstance(outcome, SendError) and outcome.error_class == "misconfigured":
            self.refused = outcome.message
        self.breaker.succeed(now)  # it answers
        return outcome

    def _words(self, error: Exception) -> str:
        return self._hidden(f"{type(error).__name__}: {error}")

    def _hidden(self, text: str) -> str:
        return redact(text, self._secrets)[:TEXT_MAX]

    async def close(self) -> None:
        """Legal more than once."""
        made, self._made = self._made, None
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
        try:
            close = getattr(made, "close", None)
            if close is not None and inspect.isawaitable(closing := close()):
                async with asyncio.timeout(CLOSE_S):
                    await closing
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            log.warning("a provider did not close in order", provider=self.name, error=self._words(error))


def _taken(answer: object) -> Sent:
    """What ``send`` has returned, if it is what it may return."""
    if answer is None:
        return Sent()
    if isinstance(answer, Sent):
        return answer
    raise TypeError(f"send returned {type(answer).__name__}; it is to return Sent or None, and to raise SendError")


class Providers:
    """Of one channel. ``clock`` is monotonic, in seconds."""

    def __init__(
        self,
        channel: str,
        settings: ChannelSettings,
        errors: Mapping[str, Mapping[str, ErrorClass]],
        clock: Callable[[], float],
    ) -> None:
        context = Context(channel, float(settings.timeout), settings.concurrency, Answers(errors))
        self.all = [Provider(one, context) for one in settings.providers]
        self.batch_max = self.all[0].batch_max
        self._channel = channel
        self._clock = clock
        self._told: set[Provider] = set()  # whose refusal the log has
        self._tell()

    def _tell(self) -> None:
        for one in self.all:
            if one.refused and one not in self._told:
                self._told.add(one)
                log.warning("a provider cannot be used", channel=self._channel, provider=one.name, error=one.refused)

    def variables(self, delivery: Delivery) -> Mapping[str, Any]:
        """What a template can write of it, beside what every channel lets it write: as the first provider says."""
        return self.all[0].variables(delivery)

    async def send(self, delivery: Delivery, failed: SendError | None = None) -> Outcome:
        """Ask one provider after the other, until one has an answer; ``failed`` is that of one already asked."""
        try:
            able = [provider for provider in self.all if provider.supports(delivery)]
        except SendError as error:
            return error
        for provider in able:
            if not provider.admits(self._clock()):
                continue
            outcome = await provider.send(delivery, self._clock)
            self._tell()
            if isinstance(outcome, Sent) or not self._hands_over(provider, outcome):
                return outcome
            failed = outcome
        if failed is None or failed.error_class == "misconfigured":
            return self._unasked(able)
        return failed

    async def send_many(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        """The first provider's batch; where that may not be asked as usual, one by one."""
        first = self.all[0]
        try:
            may_all = first.admits_many(self._clock()) and all(map(first.supports, deliveries))
        except SendError:
            may_all = False
        if may_all:
            outcomes = await first.send_many(deliveries, self._clock)
            self._tell()
            return await asyncio.gather(*map(self._or_by_others, deliveries, outcomes))
        return await asyncio.gather(*(self.send(delivery) for delivery in deliveries))

    async def _or_by_others(self, delivery: Delivery, outcome: Sent | SendError) -> Outcome:
        """Of the first provider's batch."""
        if isinstance(outcome, Sent) or not self._hands_over(self.all[0], outcome):
            return outcome
        return await self.send(delivery, outcome)

    def _hands_over(self, provider: Provider, error: SendError) -> bool:
        """Whether the next one is asked in the same attempt."""
        if error.error_class == "misconfigured":
            return True
        return error.error_class in HANDED_OVER and not provider.admits(self._clock())

    def _unasked(self, able: Sequence[Provider]) -> Outcome:
        """Why none of these could be asked."""
        if not able:
            return UNREACHABLE
        now = self._clock()
        waiting = [provider.breaker.next_at(now) for provider in able if not provider.refused]
        return Held(min(waiting)) if waiting else SendError("misconfigured", able[-1].refused)

    def resume(self) -> None:
        """Ask those again that have refused their credentials."""
        self._told = {provider for provider in self._told if provider.is_unmade}
        for provider in self.all:
            provider.refused = provider.refused if provider.is_unmade else ""

    def describe(self) -> list[dict[str, Any]]:
        now = self._clock()
        return [
            {"provider": one.name, "state": "refused", "message": one.refused}
            if one.refused
            else {"provider": one.name, "state": one.breaker.state(now)}
            for one in self.all
        ]

    async def close(self) -> None:
        for provider in self.all:
            await provider.close()
