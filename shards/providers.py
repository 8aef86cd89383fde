"""The providers of one channel, in their order: which one is asked, and what its answer means for the others.

A provider that fails too often is left alone for a while (``breaker``), and the next one is asked. One whose
credentials are refused is not asked again until the channel is resumed. An attempt of which nobody knows how it ended
is never handed over: it might arrive twice.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from shards import logs, options
from shards.answers import Answers, ErrorClass
from shards.aside import Aside, EscapedError, HeldUpError, guarded
from shards.breaker import Breaker
from shards.channels import registry
from shards.channels.base import Context, Delivery, Recipient, SendError, Sent, texts
from shards.contacts import credentials_of
from shards.hidden import disguised, redact, secrets_of
from shards.settings import ChannelSettings, ProviderSettings

log = logs.logger()

MAKE_S = 30.0  # for a plug-in to be made, which may read much
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
Ended = Sent | SendError | Unreachable
Outcome = Ended | Held


class Provider:
    """A channel's class at work, under its deadline. It never raises: what goes wrong is a ``SendError``.

    The code of a plug-in has a thread of its own: whatever it does there, an attempt ends in time, and other channels
    go on.
    """

    def __init__(self, settings: ProviderSettings, context: Context, alone: bool) -> None:
        self.name = settings.provider or settings.path
        self.breaker = Breaker(alone)
        self.refused = ""  # why it is not asked any more
        self._timeout_s = context.timeout_s
        self._made: Any = None
        self.batch_max = 0  # deliveries of one ``send_many``; 0 without it
        self.is_of_users = False  # whether the service is another one for each user
        self._secrets: list[str] = []
        self._threads: ThreadPoolExecutor | None = None
        self._aside: Aside | None = None
        self._making: Future[None] | None = None
        if registry.is_ours(settings.provider, settings.path):
            self._make(settings, context)
        else:
            self._aside = Aside(context.channel, self._words)
            self._making = self._aside.begin(self._make, settings, context)

    def _make(self, settings: ProviderSettings, context: Context) -> None:
        try:
            kind = registry.find(settings.provider, settings.path)
            read = options.read(kind, settings.options)
            self._secrets = disguised(secrets_of(read))
            made = kind(read, context)
            self.batch_max = max(0, int(getattr(made, "batch_max", 0))) if hasattr(made, "send_many") else 0
            self.is_of_users = bool(getattr(made, "endpoints_of_users", False))
        except BaseException as error:  # noqa: BLE001 - a plug-in may raise anything, an exit as well
            self.refused = self._words(error)
            return
        if not inspect.iscoroutinefunction(made.send):
            count = min(context.concurrency, THREADS_MAX)
            self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"send-{context.channel}")
        self._made = made

    async def made(self) -> None:
        """Wait until it is made, or cannot be."""
        if self._making is None:
            return
        try:
            async with asyncio.timeout(MAKE_S):
                await asyncio.shield(asyncio.wrap_future(self._making))
        except TimeoutError:
            self.refused = f"{self.name} was not made within {MAKE_S:g} s: its __init__ does not return"
        self._making = None

    @property
    def is_being_made(self) -> bool:
        return self._making is not None

    @property
    def is_unmade(self) -> bool:
        """Whether it cannot be used as it is configured."""
        return self._made is None

    async def supports(self, *recipients: Recipient) -> bool:
        """Whether it can reach them all. Raises ``SendError`` where the plug-in cannot say."""
        made = self._made
        if made is None:
            return True
        try:
            if self._aside is None:
                return all(map(made.supports_recipient, recipients))
            return bool(await self._in_time(self._aside.call(lambda: all(map(made.supports_recipient, recipients)))))
        except (SendError, HeldUpError, TimeoutError) as error:
            raise SendError("transient", self._meant(error).message) from None  # nothing was sent
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            raise SendError("transient", self._words(error)) from None

    async def may_support(self, recipient: Recipient) -> bool:
        try:
            return await self.supports(recipient)
        except SendError:
            return True

    def variables(self, delivery: Delivery) -> Mapping[str, Any]:
        """Of a plug-in none: they are asked for in the thread of all channels."""
        found = None if self._aside else getattr(self._made, "variables", None)
        return found(delivery) if found else {}

    def admits(self, now: float) -> bool:
        return not self.refused and self.breaker.admits(now)

    def admits_many(self, now: float) -> bool:
        """Half open, a batch would be many attempts."""
        return not self.refused and self.breaker.state(now) == "closed"

    async def send(self, delivery: Delivery, clock: Callable[[], float]) -> Ended:
        self.breaker.begin()
        try:
            if not await self.supports(delivery.recipient):
                self.breaker.leave()
                return UNREACHABLE
            if self._threads:
                sending: Awaitable[Any] = self._in_thread(delivery)
            else:
                sending = self._called(self._made.send, delivery)
            outcome: Sent | SendError = _taken(await self._in_time(sending))
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            outcome = self._error(error, delivery)
        return self._judged(outcome, clock())

    async def send_many(self, deliveries: Sequence[Delivery], clock: Callable[[], float]) -> list[Sent | SendError]:
        self.breaker.begin()
        try:
            answers = list(await self._in_time(self._called(self._made.send_many, deliveries)))
            if len(answers) != len(deliveries):
                raise SendError("ambiguous", f"{len(answers)} answers to {len(deliveries)} deliveries")
        except Exception as error:  # noqa: BLE001 - as above
            answers = [error] * len(deliveries)
        now = clock()
        return [self._judged(self._outcome(*one), now) for one in zip(answers, deliveries, strict=True)]

    def _called(self, function: Callable[..., Awaitable[Any]], *arguments: object) -> Awaitable[Any]:
        return self._aside.call(function, *arguments) if self._aside else function(*arguments)

    async def _in_time(self, sending: Awaitable[Any]) -> Any:
        """Its answer. What is raised is an ``Exception``, unless we are cancelled ourselves."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await sending
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

    async def _in_thread(self, delivery: Delivery) -> Any:
        assert self._threads is not None
        sending = self._threads.submit(guarded, self._made.send, delivery)
        try:
            found: Any = await asyncio.wrap_future(sending)
        except asyncio.CancelledError:
            if sending.cancel():  # its turn has not come
                raise SendError("transient", "no thread is free: all wait for the service") from None
            raise
        if inspect.isawaitable(found):  # a decorator hides that it is async
            return await self._called(lambda: found)
        return found

    def _error(self, error: Exception, delivery: Delivery) -> SendError:
        found = self._meant(error)
        words = redact(found.message, credentials_of(delivery.recipient.contacts))
        return SendError(found.error_class, words, retry_after_s=found.retry_after_s, bad=found.bad)

    def _meant(self, error: Exception) -> SendError:
        if isinstance(error, TimeoutError):
            return SendError("ambiguous", f"no answer within {self._timeout_s:g} s")
        if isinstance(error, HeldUpError):
            return SendError("transient", "it has not begun: the channel blocks its event loop; see docs/plugins.md")
        if not isinstance(error, SendError):
            return SendError("transient", self._words(error))
        try:
            error_class = error.error_class
            if self.is_of_users and error_class == "misconfigured":
                error_class = "transient"  # one user's service must not stop everybody's
            words = self._hidden(error.message)
            return SendError(error_class, words, retry_after_s=error.retry_after_s, bad=error.bad)
        except Exception as lacking:  # noqa: BLE001 - its own __init__ may not call ours, or it was changed since
            return SendError("transient", self._words(lacking))

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

    def _words(self, error: BaseException) -> str:
        if isinstance(error, EscapedError):
            error = error.what
        name = type(error).__name__
        try:
            return self._hidden(f"{name}: {error}")
        except Exception:  # noqa: BLE001 - a plug-in's exception may be unable to say what it is
            return name

    def _hidden(self, text: str) -> str:
        """For people: without secrets, short, and of whole characters."""
        return redact(text, self._secrets)[:TEXT_MAX].encode(errors="backslashreplace").decode()

    async def close(self) -> None:
        """Legal more than once."""
        await self.made()
        made, self._made = self._made, None
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
        try:
            if close := getattr(made, "close", None):
                async with asyncio.timeout(CLOSE_S):
                    await self._closed(close)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything
            log.warning("a provider did not close in order", provider=self.name, error=self._words(error))
        if self._aside:
            self._aside.close()

    async def _closed(self, close: Callable[[], Any]) -> None:
        found = self._called(close)
        if inspect.isawaitable(found):
            await found


def _taken(answer: object) -> Sent:
    """What ``send`` has returned, if it is what it may return."""
    if answer is None:
        return Sent()
    if not isinstance(answer, Sent):
        raise TypeError(f"send returned {type(answer).__name__}; it is to return Sent or None, and to raise SendError")
    texts(answer.bad)
    return answer


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
        self.all = [Provider(one, context, len(settings.providers) == 1) for one in settings.providers]
        self._channel = channel
        self._clock = clock
        self._told: set[Provider] = set()  # whose refusal the log has
        self.is_being_made = any(provider.is_being_made for provider in self.all)
        self._tell()

    @property
    def batch_max(self) -> int:
        return self.all[0].batch_max

    @property
    def is_of_users(self) -> bool:
        return any(provider.is_of_users for provider in self.all)

    async def made(self) -> None:
        """Wait until each is made, or cannot be; sends wait for that as well."""
        for provider in self.all:
            await provider.made()
        self.is_being_made = False
        self._tell()

    def _tell(self) -> None:
        for one in self.all:
            if one.refused and one not in self._told:
                self._told.add(one)
                log.warning("a provider cannot be used", channel=self._channel, provider=one.name, error=one.refused)

    def variables(self, delivery: Delivery) -> Mapping[str, Any]:
        """What a template can write beside the rest: as the first provider says."""
        return self.all[0].variables(delivery)

    async def send(self, delivery: Delivery, failed: SendError | None = None) -> Outcome:
        """Ask one provider after the other, until one has an answer; ``failed`` is that of one already asked."""
        if self.is_being_made:
            await self.made()
        for provider in self.all:
            if not provider.admits(self._clock()):
                continue
            outcome = await provider.send(delivery, self._clock)
            self._tell()
            if isinstance(outcome, Unreachable):
                continue
            if isinstance(outcome, Sent) or not self._hands_over(provider, outcome):
                return outcome
            failed = outcome
        if failed is None or failed.error_class == "misconfigured":
            return await self._unasked(delivery.recipient)
        return failed

    async def send_many(self, deliveries: Sequence[Delivery]) -> list[Outcome]:
        """The first provider's batch; where that may not be asked as usual, one by one."""
        first = self.all[0]
        try:
            if self.is_being_made:
                await self.made()
            recipients = (delivery.recipient for delivery in deliveries)
            may_all = first.admits_many(self._clock()) and await first.supports(*recipients)
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

    async def _unasked(self, recipient: Recipient) -> Outcome:
        """Why none could be asked. One that cannot say whom it reaches may reach them later."""
        able = [provider for provider in self.all if await provider.may_support(recipient)]
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
        await asyncio.gather(*(provider.close() for provider in self.all))
