"""The operation ``explain`` over all shards: each explains what concerns its users, and the parts become one answer."""

from __future__ import annotations

from typing import Any

import msgspec

from dispatcher.router.splitter import broadcast_id
from shards.nearest import unknown
from shards.validation import check_address
from shards.wire.errors import RequestError
from shards.wire.notification import Route
from shards.wire.requests import Request

EXPLAINED_MAX = 20  # recipients of a notification; more are only counted


def _route(request: Request) -> Route:
    """Who a notification is for; nobody if it is not one that the router could route."""
    try:
        route = msgspec.convert(request.notification, Route)
        check_address(route)
    except (msgspec.ValidationError, RequestError):
        return Route()
    return route


def topic_of(request: Request) -> str | None:
    return _route(request).topic


def addressed(request: Request) -> list[str]:
    """The users whom a notification names, each once, as far as they are explained."""
    route = _route(request)
    recipients = [route.user_id] if route.user_id is not None else route.recipients or []
    return list(dict.fromkeys(recipients))[:EXPLAINED_MAX]


def asked(request: Request) -> Request:
    """What the shards are asked: of many recipients the first, of what goes to a topic its id as well."""
    notification, route = request.notification or {}, _route(request)
    if route.topic is not None:
        id_ = broadcast_id(route.topic, notification.get("idempotency_key"), notification.get("id"))
        return msgspec.structs.replace(request, id=id_)
    if route.recipients is not None:
        return msgspec.structs.replace(request, notification={**notification, "recipients": addressed(request)})
    return request


def merged(request: Request, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The shards' answers as one."""
    route = _route(request)
    if route.topic is not None:
        return _merged_topic(route.topic, answers)
    names = addressed(request)
    order = {name: number for number, name in enumerate(names)}
    decisions = [decision for answer in answers for decision in answer["decisions"]]
    decisions.sort(key=lambda decision: order.get(decision.get("user_id"), 0))
    more = len(set(route.recipients or names)) - len(names)
    return {"decisions": decisions} | ({"more": more} if more else {})


def _merged_topic(topic: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """A topic is known if one shard has users of it; the decisions are the same in all that know it."""
    ranked = sorted(answers, key=lambda answer: answer["decisions"][0]["reason"] == "unknown_topic")
    decisions: list[dict[str, Any]] = ranked[0]["decisions"]
    first = decisions[0]
    if first["reason"] == "unknown_topic":
        near = {name for answer in answers for name in answer["near"]}
        first["detail"]["message"] = unknown("topic", topic, near)
    elif first["result"] == "pass":
        first["detail"]["users"] = sum(answer["users"] for answer in answers)
    return {"decisions": decisions}
