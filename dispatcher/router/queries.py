"""Operations that shards or the collector answer: who is asked, and how several answers become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from dispatcher.router import explanations
from dispatcher.router.broadcasts import merge_cancelled, merge_status
from dispatcher.router.totals import merge_stats
from shards.process import usage
from shards.wire.control import COLLECTOR, Query, Reply
from shards.wire.errors import Error, RequestError
from shards.wire.ids import hash_user, is_broadcast, parse_id
from shards.wire.requests import Request

Target = int | Literal["collector"]
LISTED = ("backup.begin", "backup.end")  # every shard's answer, as it is
SUMMED = ("dead.replay", "dead.purge")  # every shard does its part, and answers how much that was


class Waiting:
    """A request whose answers are being gathered."""

    __slots__ = ("answers", "as_json", "deadline", "envelope", "request", "rest", "targets")

    def __init__(
        self, envelope: list[bytes], as_json: bool, request: Request, deadline: float, targets: set[Target]
    ) -> None:
        self.envelope = envelope
        self.as_json = as_json
        self.request = request
        self.deadline = deadline
        self.targets = targets
        self.rest: list[Target] = []  # asked one after the other, once the targets have answered
        self.answers: list[Reply] = []


class Queries:
    """``send`` puts a query on a control socket, ``answer`` gives the client its result or error."""

    def __init__(
        self,
        shards: int,
        waiting_max: int,
        send: Callable[[Target, Query], bool],
        answer: Callable[[list[bytes], bool, int | str | None, dict[str, Any] | Error], object],
    ) -> None:
        self._shards = shards
        self._waiting_max = waiting_max
        self._send = send
        self._answer = answer
        self._waiting: dict[int, Waiting] = {}
        self._last = 0

    def ask(self, envelope: list[bytes], as_json: bool, request: Request, deadline: float) -> None:
        """Pass a request on; raises ``RequestError`` where it cannot be."""
        if len(self._waiting) >= self._waiting_max:
            raise RequestError("overloaded", "too many operations wait; send again", retry_after_ms=100)
        targets = self._targets(request)
        self._last += 1
        waiting = self._waiting[self._last] = Waiting(envelope, as_json, request, deadline, targets)
        if request.op == "explain":
            request = explanations.asked(request)
        if request.op in SUMMED and request.limit is not None:
            waiting.targets, waiting.rest = {0}, list(range(1, self._shards))
            targets = {0}
        for target in targets:
            if not self._send(target, Query(self._last, request)) and request.op != "stats":
                del self._waiting[self._last]
                raise RequestError("unavailable", f"{_name(target)} takes no operations now; send again")

    def _targets(self, request: Request) -> set[Target]:
        match request.op:
            case "status" | "cancel" if request.id is not None and not is_broadcast(request.id):
                return {parse_id(request.id)[1] % self._shards}
            case "status" | "cancel" if request.id is not None:
                return set(range(self._shards))
            case "topic.subscribe" | "topic.unsubscribe":
                return {hash_user(request.user_id or "") % self._shards}
            case "status" | "cancel" | "user.put" | "user.get" | "user.delete" | "inbox.list" | "inbox.mark":
                return {hash_user(request.user_id or "") % self._shards}
            case "explain" if explanations.topic_of(request) is not None:
                return set(range(self._shards))
            case "explain":
                return {hash_user(name) % self._shards for name in explanations.addressed(request)} or {0}
            case "template.list":
                return {0}
            case "dead.list":
                return {"collector"}
            case "stats":
                return {*range(self._shards), "collector"}
            case _:
                return set(range(self._shards))

    def reply(self, reply: Reply) -> None:
        waiting = self._waiting.get(reply.query)
        if waiting is None:
            return
        waiting.answers.append(reply)
        waiting.targets.discard("collector" if reply.shard == COLLECTOR else reply.shard)
        if waiting.rest and reply.error is None:
            self._ask_next(reply.query, waiting)
        if not waiting.targets or (reply.error is not None and waiting.request.op != "stats"):
            del self._waiting[reply.query]
            self._answer(waiting.envelope, waiting.as_json, waiting.request.seq, self._merge(waiting))

    def _ask_next(self, number: int, waiting: Waiting) -> None:
        """A limit is one for all shards: the next is asked for what is left of it."""
        left = (waiting.request.limit or 0) - _sum(waiting.answers)
        if left <= 0:
            return
        target = waiting.rest.pop(0)
        if self._send(target, Query(number, msgspec.structs.replace(waiting.request, limit=left))):
            waiting.targets.add(target)

    def _merge(self, waiting: Waiting) -> dict[str, Any] | Error:
        errors = {reply.shard: reply.error for reply in waiting.answers if reply.error is not None}
        if waiting.request.op == "stats":
            found = {reply.shard: reply.result for reply in waiting.answers}
            collector = found.pop(COLLECTOR, None)
            answers = [found.get(shard) for shard in range(self._shards)]
            reasons = {_name("collector" if at == COLLECTOR else at): error.message for at, error in errors.items()}
            return {**merge_stats(answers, collector, usage()), "reasons": reasons}
        if errors:
            return next(iter(errors.values()))
        if waiting.request.op == "status" and is_broadcast(waiting.request.id or ""):
            return merge_status([reply.result["broadcast"] for reply in waiting.answers if reply.result["broadcast"]])
        if waiting.request.op == "cancel" and is_broadcast(waiting.request.id or ""):
            return merge_cancelled([reply.result for reply in waiting.answers])
        if waiting.request.op in SUMMED:
            return {"count": _sum(waiting.answers)}
        if waiting.request.op in LISTED:
            return {"shards": [reply.result for reply in sorted(waiting.answers, key=lambda one: one.shard)]}
        if waiting.request.op == "explain":
            return explanations.merged(waiting.request, [reply.result for reply in waiting.answers])
        result: dict[str, Any] = waiting.answers[0].result
        return result

    def expire(self, now: float) -> None:
        for number in [number for number, waiting in self._waiting.items() if waiting.deadline <= now]:
            waiting = self._waiting.pop(number)
            if waiting.request.op == "stats":
                self._answer(waiting.envelope, waiting.as_json, waiting.request.seq, self._merge(waiting))
                continue
            names = ", ".join(sorted(_name(target) for target in waiting.targets))
            error = Error("unavailable", f"no answer from {names} in time; send again")
            self._answer(waiting.envelope, waiting.as_json, waiting.request.seq, error)


def _sum(replies: list[Reply]) -> int:
    return sum(int(reply.result["count"]) for reply in replies)


def _name(target: Target) -> str:
    return target if target == "collector" else f"shard {target}"
